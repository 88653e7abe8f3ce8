//! What happens in a lab's namespaces: a node's root is put together as a real node's initrd does it, and its systemd starts. A
//! virtual machine does both by itself.
//!
//! ```text
//! /run/layers/DIGEST    the layers of all images, each mounted once
//! /run/nodes/NAME/
//! ├── seed              the seed's filesystem
//! ├── node              a tmpfs with the node's own files
//! ├── top               a tmpfs for what changes until the next start
//! ├── run               what the initrd would leave in /run/ostack
//! └── root              all of it, with the state bound over its places
//! ```

use super::machine::{Folder, Machine};
use super::{disks, group, net, vm};
use crate::base::bundle::{BootIndex, SEED_SECRETS};
use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use crate::base::tool::Tool;
use crate::node::{activate, binds, copy, init, loops, seed, stack};
use rustix::mount::{MountFlags, UnmountFlags, unmount};
use std::path::{Path, PathBuf};

/// The hidden verb's actions: `__lab ACTION FOLDER NODE`.
///
/// # Errors
/// What the action's own function says, or there is no such action.
pub fn run(action: &str, folder: &Folder, node: &str) -> Result<()> {
    let machine = folder.read(node)?;
    match action {
        "start" => start(folder, &machine),
        "stop" => stop(folder, &machine),
        "cut" => net::carry(&machine, false),
        "heal" => net::carry(&machine, true),
        _ => Err(Error::new(format!("the lab knows no `{action}`"))),
    }
}

fn start(folder: &Folder, machine: &Machine) -> Result<()> {
    if let Some(vm) = &machine.vm {
        return vm::start(folder, machine, vm);
    }
    let name = machine.node.as_str();
    let place = place(name);
    clear(&place)?;
    let layers = machine.layers.iter().map(|layer| mounted(layer)).collect::<Result<Vec<_>>>()?;
    let facts = serde_json::json!({
        "node": name, "role": machine.role, "site": "lab", "image": machine.image, "release": machine.release, "state": "kept",
    });
    fs::create_dir_all(&place.join("run"))?;
    fs::write_atomic(&place.join("run/boot.json"), format!("{facts}\n").as_bytes())?;
    let own = place.join("node");
    stack::mount_at(Path::new("node"), &own, "tmpfs", MountFlags::empty(), "mode=0755")?;
    let at = place.join("seed");
    erofs(&folder.seed(name), &at)?;
    let written = seed::Seed::parse(&fs::read_text(&at.join("seed.json"))?)?;
    written.must_be_for(&machine.role)?;
    if at.join("layer").is_dir() {
        copy::contents(&at.join("layer"), &own)?;
    }
    let root = place.join("root");
    stack::overlay_with(&layers, &own, &place.join("top"), &root)?;
    let state = folder.state(name);
    fs::create_dir_all(&state)?;
    binds::all(&machine.state, &state, &root)?;
    let secrets = at.join(SEED_SECRETS);
    if secrets.exists() {
        copy::tree(&secrets, &place.join("run").join(SEED_SECRETS))?;
    }
    activate::fill(&stack::lower(&layers, &own), &root, &activate::values_of(&place.join("run").join(SEED_SECRETS))?)?;
    init::machine_id(&state, &root)?;
    init::os_release(
        &BootIndex {
            image: machine.image,
            role: machine.role.clone(),
            release: machine.release.clone(),
            layers: Vec::new(),
            state: Vec::new(),
        },
        &root,
    )?;
    net::plug(machine)?;
    // From here on nothing is this process's own: systemd and all that it starts can be ended at once.
    group::join(&group::of(folder.path(), Some(name))?)?;
    let binds = disks::attach(folder, machine, &place.join("disks"), &root)?;
    container(folder, machine, &root, &place.join("run"), &binds)
}

/// Starts the node's systemd; comes back at once.
fn container(folder: &Folder, machine: &Machine, root: &Path, run: &Path, disks: &[(PathBuf, PathBuf)]) -> Result<()> {
    let name = machine.node.as_str();
    let mut tool = Tool::new("systemd-nspawn")
        .package("systemd-container")
        // Debian 13's systemd knows no other hierarchy.
        .env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1")
        // The kernel settings of the node's own network are its own; all others stay the machine's.
        .env("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "network")
        .args(["--quiet", "--boot", "--register=no", "--keep-unit", "--link-journal=no", "--resolv-conf=off", "--timezone=off"])
        .args(["--console=read-only", "--kill-signal=SIGKILL", "--capability=all"])
        .arg(format!("--machine={name}"))
        .arg(format!("--directory={}", root.display()))
        .arg(format!("--network-namespace-path={}", net::namespace(name)))
        .arg(format!("--bind={}:/run/ostack", run.display()));
    for (device, path) in disks {
        tool = tool.arg(format!("--bind={}:{}", device.display(), path.display()));
    }
    // Virtual machines' network cards, Open vSwitch's ports, and file systems of programs.
    for device in ["/dev/net/tun", "/dev/fuse"] {
        if Path::new(device).exists() {
            tool = tool.arg(format!("--bind={device}"));
        }
    }
    tool.launch(&folder.console(name)).doing(|| format!("starting {name}"))
}

fn stop(folder: &Folder, machine: &Machine) -> Result<()> {
    let name = machine.node.as_str();
    group::end(&group::of(folder.path(), Some(name))?)?;
    clear(&place(name))?;
    net::unplug(machine)
}

fn place(node: &str) -> PathBuf {
    Path::new("/run/nodes").join(node)
}

/// Unmounts everything below a node's place, the last mount first, and removes it.
fn clear(place: &Path) -> Result<()> {
    let table = fs::read_text(Path::new("/proc/self/mountinfo"))?;
    let inside = |path: &str| path == place.as_os_str() || path.starts_with(&format!("{}/", place.display()));
    let mounts: Vec<&str> = table.lines().filter_map(|line| line.split(' ').nth(4)).filter(|path| inside(path)).collect();
    for mount in mounts.iter().rev() {
        unmount(*mount, UnmountFlags::DETACH).doing(|| format!("unmounting {mount}"))?;
    }
    fs::remove_tree(place)
}

/// A layer's mount point; mounted by the first node that asks for it.
fn mounted(layer: &Path) -> Result<PathBuf> {
    let target = Path::new("/run/layers").join(layer.file_name().unwrap_or_default());
    if !target.exists() {
        erofs(layer, &target).inspect_err(|_| {
            let _ = std::fs::remove_dir(&target);
        })?;
    }
    Ok(target)
}

/// Mounts a file that holds an erofs filesystem: Linux 6.12 and later need no loop device for that.
fn erofs(file: &Path, target: &Path) -> Result<()> {
    stack::mount_at(file, target, "erofs", MountFlags::RDONLY, "").or_else(|_| {
        let size = std::fs::metadata(file).doing(|| format!("reading {}", file.display()))?.len();
        // It goes with the mount.
        let (device, _open) = loops::attach(file, 0, size)?;
        stack::mount_at(&device, target, "erofs", MountFlags::RDONLY, "")
    })
}
