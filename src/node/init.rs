//! A boot, in order (unless the machine is to be installed first: `install`): devices, the image's partition, its layers, the seed, the root, the state, the secrets, the real init.

use crate::base::bundle::{BootIndex, IMAGE_ARGUMENT, SEED_VOLUME, SYSTEM_PARTITION};
use crate::base::digest::Digest;
use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use crate::model::install::{INSTALL_ARGUMENT, Kind};
use crate::node::console::say;
use crate::node::disks::{self, Device};
use crate::node::modules::Modules;
use crate::node::seed::Seed;
use crate::node::stack::{self, RUN, mount_at};
use crate::node::{activate, binds, install, seed, state};
use rustix::mount::{MountFlags, UnmountFlags, mount_bind, mount_move, unmount};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// Where the root is put together.
const ROOT: &str = "/sysroot";
/// How often to look for a disk or a seed.
const POLL: Duration = Duration::from_millis(100);
/// A seed may come in hours: look less often.
const SEED_POLL: Duration = Duration::from_secs(1);
/// When to say that a disk is still missing, and when to list those that are there.
const PATIENCE: [Duration; 2] = [Duration::from_secs(3), Duration::from_secs(30)];
/// How long to wait before `ostack.reboot=1` reboots, unless the kernel's `panic=` says otherwise.
const REBOOT_AFTER: Duration = Duration::from_secs(30);

/// Boots, or halts with the reason on the console. Comes back only in the sense that init replaces it.
///
/// # Errors
/// Never: an error halts.
pub fn run() -> Result<()> {
    let Err(error) = boot();
    halt(&error)
}

fn boot() -> Result<std::convert::Infallible> {
    basics()?;
    let command_line = fs::read_text(Path::new("/proc/cmdline"))?;
    let mut modules = Modules::open()?;
    modules.load_first()?;
    if let Some(kind) = argument(&command_line, INSTALL_ARGUMENT) {
        return install::run(Kind::parse(kind)?, &command_line, &mut modules);
    }
    let image = image(&command_line)?;
    let (system, index) = find_system(&image, &mut modules);
    let layers = stack::layers(&system, &index)?;
    say(&format!("ostack: image {image} (role {})", index.role));
    let node = stack::node_files()?;
    let seed = find_seed(&index, &mut modules, &node)?;
    let root = Path::new(ROOT);
    stack::overlay(&layers, &node, root)?;
    for folder in ["dev", "proc", "sys"] {
        fs::create_dir_all(&root.join(folder))?;
        mount_bind(Path::new("/").join(folder), root.join(folder)).doing(|| format!("showing /{folder} in the root"))?;
    }
    let (kept, outcome) = state::open(&system, root)?;
    let made = binds::all(&index.state, &kept, root)?;
    say(&format!("ostack: state {} ({} of {} paths new)", outcome.as_str(), made.len(), index.state.len()));
    let filled = activate::fill(&stack::lower(&layers, &node), root, &activate::values()?);
    let filled = filled.map_err(|error| error.doing("putting the node's secrets into its files"))?;
    say(&format!("ostack: {filled} files with secrets"));
    machine_id(&kept, root)?;
    os_release(&index, root)?;
    let facts = serde_json::json!({
        "node": seed.node, "role": seed.role, "site": seed.site,
        "image": index.image, "release": index.release, "state": outcome.as_str(),
    });
    fs::write_atomic(&Path::new(RUN).join("boot.json"), format!("{facts}\n").as_bytes())?;
    say(&format!("ostack: starting {}", seed.node));
    switch(root)
}

fn basics() -> Result<()> {
    for (kind, target, options) in
        [("proc", "/proc", ""), ("sysfs", "/sys", ""), ("devtmpfs", "/dev", "mode=0755"), ("tmpfs", "/run", "mode=0755")]
    {
        let flags = if kind == "devtmpfs" { MountFlags::NOSUID } else { MountFlags::NOSUID | MountFlags::NODEV };
        mount_at(Path::new(kind), Path::new(target), kind, flags, options)?;
    }
    Ok(())
}

/// The image that the kernel's command line names.
fn image(cmdline: &str) -> Result<Digest> {
    let value = argument(cmdline, IMAGE_ARGUMENT).ok_or_else(|| {
        Error::new(format!("the kernel command line has no `{IMAGE_ARGUMENT}`"))
            .next(format!("boot the disk's own menu entry, or add {IMAGE_ARGUMENT}=sha256:…"))
    })?;
    value.parse().doing(|| "reading the kernel command line")
}

/// The last value of `name=value`, as the kernel itself would take it.
pub(super) fn argument<'a>(cmdline: &'a str, name: &str) -> Option<&'a str> {
    cmdline.split_whitespace().rev().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

fn find_system(image: &Digest, modules: &mut Modules) -> (Device, BootIndex) {
    let start = Instant::now();
    let mut said = 0;
    loop {
        for error in modules.load_for_devices() {
            say(&format!("ostack: {error}"));
        }
        let devices = disks::all();
        let (found, refused) = disks::system(&devices, image);
        if let Some(found) = found {
            return found;
        }
        if said < PATIENCE.len() && start.elapsed() >= PATIENCE[said] {
            say(&format!("ostack: waiting for a disk with a partition {SYSTEM_PARTITION} of the image {image}"));
            if said > 0 {
                list(&devices, &refused);
            }
            said += 1;
        }
        std::thread::sleep(POLL);
    }
}

fn list(devices: &[Device], refused: &[String]) {
    if devices.is_empty() {
        say("ostack: no disk is there; is its driver in the initrd?");
    }
    for device in devices {
        let name = device.partition.as_deref().unwrap_or("-");
        say(&format!("ostack:   {} {} MiB {name}", device.name, device.sectors >> 11));
    }
    for line in refused {
        say(&format!("ostack:   {line}"));
    }
}

fn find_seed(index: &BootIndex, modules: &mut Modules, node: &Path) -> Result<Seed> {
    let mut waiting = false;
    loop {
        let devices = disks::all();
        if let Some(device) = disks::seed(&devices) {
            let seed = seed::take(&device, &index.role, node)?;
            say(&format!("ostack: seed of {} on {}", seed.node, device.name));
            return Ok(seed);
        }
        if let Some(found) = seed::on_drive(&devices)? {
            let seed = seed::take(&found.device, &index.role, node)?;
            say(&format!("ostack: seed of {} on a config drive", seed.node));
            return Ok(seed);
        }
        if !waiting {
            say(&format!("ostack: waiting for a seed (a volume labelled {SEED_VOLUME})"));
            waiting = true;
        }
        std::thread::sleep(SEED_POLL);
        modules.load_for_devices();
    }
}

/// The machine's identity: drawn on the first boot, kept with the state.
///
/// # Errors
/// The state or the root cannot be written.
pub fn machine_id(state: &Path, root: &Path) -> Result<()> {
    let kept = state.join("identity/machine-id");
    if !kept.exists() {
        let mut bytes = [0; 16];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).doing(|| "drawing the machine-id")?;
        // Version 4, as machine-id(5) asks of new ones.
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        fs::write_atomic(&kept, format!("{hex}\n").as_bytes())?;
    }
    fs::write_atomic(&root.join("etc/machine-id"), &fs::read(&kept)?)
}

/// Says in the root what it was booted from; mostly a link before, which the rename replaces.
///
/// # Errors
/// The root cannot be written.
pub fn os_release(index: &BootIndex, root: &Path) -> Result<()> {
    let image = fs::read_text(&root.join("usr/lib/os-release")).unwrap_or_default();
    let text = release_text(&image, &index.role, &index.image);
    fs::write_atomic(&root.join("etc/os-release"), text.as_bytes())
}

fn release_text(image: &str, role: &str, digest: &Digest) -> String {
    let own = |line: &&str| !line.starts_with("IMAGE_ID=") && !line.starts_with("IMAGE_VERSION=");
    let mut text: String = image.lines().filter(own).flat_map(|line| [line, "\n"]).collect();
    text.push_str(&format!("IMAGE_ID=\"ostack-{role}\"\nIMAGE_VERSION=\"{digest}\"\n"));
    text
}

fn switch(root: &Path) -> Result<std::convert::Infallible> {
    fs::create_dir_all(&root.join("run"))?;
    mount_move("/run", root.join("run")).doing(|| "moving /run into the root")?;
    for folder in ["/dev", "/proc", "/sys"] {
        // The root has its own; these would stay below it for ever.
        let _ = unmount(folder, UnmountFlags::DETACH);
    }
    // The initrd's memory is of no more use.
    for folder in ["/lib", "/etc", "/sbin"] {
        let _ = std::fs::remove_dir_all(folder);
    }
    let _ = std::fs::remove_file("/init");
    std::env::set_current_dir(root).doing(|| "entering the root")?;
    mount_move(".", "/").doing(|| "moving the root")?;
    rustix::process::chroot(".").doing(|| "entering the root")?;
    std::env::set_current_dir("/").doing(|| "entering the root")?;
    let error = std::process::Command::new("/sbin/init").args(std::env::args_os().skip(1)).exec();
    Err(error).doing(|| "starting /sbin/init")
}

/// Says why, and stays: a person has to look. With `ostack.reboot=1` the machine tries again.
fn halt(error: &Error) -> ! {
    say(&format!("ostack: halted: {error}"));
    rustix::fs::sync();
    let cmdline = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    if argument(&cmdline, "ostack.reboot") == Some("1") {
        let seconds = argument(&cmdline, "panic").and_then(|value| value.parse().ok()).filter(|seconds| *seconds > 0);
        let wait = seconds.map_or(REBOOT_AFTER, Duration::from_secs);
        say(&format!("ostack: rebooting in {} s", wait.as_secs()));
        std::thread::sleep(wait);
        let _ = rustix::system::reboot(rustix::system::RebootCommand::Restart);
    }
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_names_the_image_and_the_last_word_counts() {
        let (one, two) = (Digest::of("1"), Digest::of("2"));
        let line = format!("quiet ostack.image={one} ostack.image={two} x.ostack.image=3\n");
        assert_eq!(image(&line).unwrap(), two);
        assert_eq!(
            image("quiet\n").err().unwrap().to_string(),
            "the kernel command line has no `ostack.image`\n  \
             next: boot the disk's own menu entry, or add ostack.image=sha256:…"
        );
    }

    #[test]
    fn os_release_keeps_the_distributions_words_and_names_the_image() {
        let digest = Digest::of("x");
        assert_eq!(
            release_text("ID=debian\nIMAGE_ID=old\n", "compute", &digest),
            format!("ID=debian\nIMAGE_ID=\"ostack-compute\"\nIMAGE_VERSION=\"{digest}\"\n")
        );
    }
}
