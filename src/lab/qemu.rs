//! One node as a QEMU machine: the role's disk under a throw-away overlay, the node's seed, its two networks cut off.
//!
//! The machine reports over a virtio serial port (`org.ostack.report`, one JSON line per boot) and takes commands by
//! QEMU's guest agent. `restrict=on` keeps it from reaching anything; a port forward to its SSH is made on loopback when asked.

use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use crate::base::tool::Tool;
use crate::model::site::{Kind, Node, Site};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const QEMU: &str = "qemu-system-x86_64";
/// TCG of QEMU 7.2 (Debian 12) crashes Debian 13's kernel; 10.0 boots it.
const OLDEST_TCG: u32 = 8;

/// How the machine starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// UEFI, by OVMF.
    Uefi,
    /// BIOS, by SeaBIOS.
    Bios,
}

/// What the machine is.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The role's disk; it is only read.
    pub disk: PathBuf,
    /// The node's seed; without one the machine waits for it.
    pub seed: Option<PathBuf>,
    /// How it starts.
    pub firmware: Firmware,
    /// Memory in MiB.
    pub memory: u32,
    /// Processors.
    pub cpus: u32,
    /// The disk's size in GiB, as a cloud's flavour would set it.
    pub disk_gib: u32,
    /// Forward this port of loopback to the node's SSH.
    pub ssh_port: Option<u16>,
    /// Kernel of the image, to try KVM with.
    pub kernel: Option<PathBuf>,
}

/// What the machine says once it is up.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Report {
    /// The node's name.
    pub node: String,
    /// The image's role.
    pub role: String,
    /// The image's digest.
    pub image: String,
    /// systemd's word for the system: `running`, `degraded` …
    pub state: String,
    /// Units that failed.
    pub failed: Vec<String>,
}

/// A running machine. It ends when the value is dropped.
pub struct Machine {
    handle: duct::Handle,
    folder: PathBuf,
}

impl Machine {
    /// Starts a machine whose files (disk overlay, console log, sockets) go to `folder`.
    /// A `disk.qcow2` that is there already is used again: the machine then finds its state.
    ///
    /// # Errors
    /// QEMU is missing or too old, or does not start.
    pub fn start(spec: &Spec, site: &Site, node: Option<&Node>, folder: &Path) -> Result<Self> {
        prepare_disk(spec, folder)?;
        let args = arguments(spec, site, node, folder)?;
        let handle = Tool::new(QEMU).package("qemu-system-x86").args(args).start(&folder.join("qemu.log"))?;
        Ok(Self { handle, folder: folder.to_path_buf() })
    }

    /// Everything the console has shown so far.
    pub fn console(&self) -> String {
        let bytes = std::fs::read(self.folder.join("console.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until the console shows `text`.
    ///
    /// # Errors
    /// It does not within `patience`, or the machine ends.
    pub fn wait_for_console(&mut self, text: &str, patience: Duration) -> Result<()> {
        self.wait(patience, &format!("`{text}` on the console"), |machine| machine.console().contains(text).then_some(()))
    }

    /// Waits for the report of the machine's boot number `boot`, counted from 1.
    ///
    /// # Errors
    /// It does not come within `patience`, or the machine ends; with the end of the console.
    pub fn wait_for_report(&mut self, boot: usize, patience: Duration) -> Result<Report> {
        let line = self.wait(patience, "the node's report", |machine| {
            let text = std::fs::read_to_string(machine.folder.join("report")).unwrap_or_default();
            let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n')).nth(boot - 1);
            whole.map(str::to_string)
        })?;
        serde_json::from_str(&line).doing(|| format!("reading the node's report `{}`", line.trim()))
    }

    fn wait<T>(&mut self, patience: Duration, what: &str, found: impl Fn(&Self) -> Option<T>) -> Result<T> {
        let begin = Instant::now();
        loop {
            if let Some(value) = found(self) {
                return Ok(value);
            }
            let ended = self.handle.try_wait().doing(|| "watching QEMU")?.is_some();
            if ended || begin.elapsed() > patience {
                let why = if ended { "the machine ended".to_string() } else { format!("{} s passed", patience.as_secs()) };
                let log = std::fs::read_to_string(self.folder.join("qemu.log")).unwrap_or_default();
                return Err(Error::new(format!("waiting for {what}: {why}\n{}\n{}", tail(&self.console(), 30), tail(&log, 5)))
                    .next(format!("read {}", self.folder.join("console.log").display())));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The guest agent's socket.
    pub fn agent_socket(&self) -> PathBuf {
        self.folder.join("agent.sock")
    }

    /// Sends a command to QEMU's monitor, such as `device_add`.
    ///
    /// # Errors
    /// The monitor cannot be reached.
    pub fn monitor(&self, command: &str) -> Result<()> {
        use std::io::{Read, Write};
        let mut stream =
            std::os::unix::net::UnixStream::connect(self.folder.join("monitor.sock")).doing(|| "reaching QEMU's monitor")?;
        stream.write_all(format!("{command}\n").as_bytes()).doing(|| "asking QEMU's monitor")?;
        stream.set_read_timeout(Some(Duration::from_millis(500))).doing(|| "asking QEMU's monitor")?;
        // The answer is for people; reading it to its end makes sure that the command has been carried out.
        let _ = stream.read_to_end(&mut Vec::new());
        Ok(())
    }

    /// Cuts the power.
    pub fn kill(&mut self) {
        let _ = self.handle.kill();
        let _ = self.handle.wait();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Makes the machine's own disk over the role's, which stays as it is; one that is there already is kept.
///
/// # Errors
/// `qemu-img` is missing or fails.
pub fn prepare_disk(spec: &Spec, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let disk = folder.join("disk.qcow2");
    if !disk.exists() {
        let backing = std::path::absolute(&spec.disk).doing(|| format!("finding {}", spec.disk.display()))?;
        Tool::new("qemu-img")
            .package("qemu-utils")
            .args([
                "create",
                "-q",
                "-f",
                "qcow2",
                "-F",
                if spec.disk.extension().is_some_and(|suffix| suffix == "raw") { "raw" } else { "qcow2" },
                "-b",
            ])
            .arg(backing)
            .arg(&disk)
            .arg(format!("{}G", spec.disk_gib))
            .run()?;
    }
    Ok(())
}

/// The command line of QEMU.
///
/// # Errors
/// The firmware is missing, or this QEMU cannot run the machine.
pub fn arguments(spec: &Spec, site: &Site, node: Option<&Node>, folder: &Path) -> Result<Vec<String>> {
    let at = |name: &str| folder.join(name).display().to_string();
    let mut args: Vec<String> = Vec::new();
    let mut add = |words: &[&str]| args.extend(words.iter().map(|word| (*word).to_string()));
    add(&["-nodefaults", "-display", "none", "-smp", &spec.cpus.to_string(), "-m", &spec.memory.to_string()]);
    if kvm_works(spec.kernel.as_deref(), folder) {
        add(&["-machine", "q35,accel=kvm", "-cpu", "host"]);
    } else {
        let version = version()?;
        if version < OLDEST_TCG {
            return Err(Error::new(format!("QEMU {version} cannot boot this kernel without KVM"))
                .next("install QEMU 10: scripts/setup test"));
        }
        add(&["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max"]);
    }
    if spec.firmware == Firmware::Uefi {
        let (code, vars) = ovmf()?;
        let own = folder.join("firmware.fd");
        if !own.exists() {
            std::fs::copy(&vars, &own).doing(|| format!("copying {}", vars.display()))?;
        }
        add(&["-drive", &format!("if=pflash,format=raw,readonly=on,file={}", code.display())]);
        add(&["-drive", &format!("if=pflash,format=raw,file={}", own.display())]);
    }
    add(&["-drive", &format!("if=none,id=system,format=qcow2,cache=unsafe,file={}", at("disk.qcow2"))]);
    add(&["-device", "virtio-blk-pci,drive=system,serial=ostack-system,bootindex=0"]);
    // Room to plug a seed into a machine that waits for one.
    add(&["-device", "pcie-root-port,id=plug,chassis=9"]);
    if let Some(seed) = &spec.seed {
        add(&["-drive", &format!("if=none,id=seed,format=raw,readonly=on,file={}", seed.display())]);
        add(&["-device", "virtio-blk-pci,drive=seed,serial=ostack-seed"]);
    }
    networks(&mut args, spec, site, node);
    let mut add = |words: &[&str]| args.extend(words.iter().map(|word| (*word).to_string()));
    add(&["-chardev", &format!("file,id=console,path={},append=on", at("console.log")), "-serial", "chardev:console"]);
    add(&["-device", "virtio-serial-pci"]);
    add(&["-chardev", &format!("file,id=report,path={},append=on", at("report"))]);
    add(&["-device", "virtserialport,chardev=report,name=org.ostack.report"]);
    add(&["-chardev", &format!("socket,id=agent,path={},server=on,wait=off", at("agent.sock"))]);
    add(&["-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"]);
    add(&["-monitor", &format!("unix:{},server=on,wait=off", at("monitor.sock"))]);
    add(&["-device", "virtio-rng-pci"]);
    Ok(args)
}

fn networks(args: &mut Vec<String>, spec: &Spec, site: &Site, node: Option<&Node>) {
    let Some(node) = node else { return };
    for (number, adapter) in node.interfaces.iter().filter(|one| one.kind == Kind::Card).enumerate() {
        // One that nobody could recognise is of no use.
        let Some(mac) = &adapter.mac else { continue };
        let id = format!("net{number}");
        let netdev = match (adapter.network, adapter.address) {
            (Some("management"), Some(address)) => {
                let forward = spec.ssh_port.map(|port| format!(",hostfwd=tcp:127.0.0.1:{port}-{address}:22"));
                format!("user,id={id},restrict=on,net={}{}", site.management.subnet, forward.unwrap_or_default())
            }
            (Some("external"), Some(_)) => format!("user,id={id},restrict=on,net={}", site.external.subnet),
            // A cable that ends at a hub of its own.
            _ => format!("hubport,id={id},hubid={number}"),
        };
        args.extend([
            "-netdev".to_string(),
            netdev,
            "-device".to_string(),
            format!("virtio-net-pci,netdev={id},mac={mac},romfile="),
        ]);
    }
}

/// OVMF's code and the variables to start from, as Debian 12 and 13 install them.
fn ovmf() -> Result<(PathBuf, PathBuf)> {
    for (code, vars) in [("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"), ("OVMF_CODE.fd", "OVMF_VARS.fd")] {
        let folder = Path::new("/usr/share/OVMF");
        if folder.join(code).exists() {
            return Ok((folder.join(code), folder.join(vars)));
        }
    }
    Err(Error::new("there is no UEFI firmware for QEMU").next("install it: apt-get install ovmf"))
}

fn version() -> Result<u32> {
    let text = Tool::new(QEMU).package("qemu-system-x86").arg("--version").run()?.text();
    let word = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    Ok(word.and_then(|word| word.split('.').next()?.parse().ok()).unwrap_or(0))
}

/// Whether KVM boots this very kernel. `/dev/kvm` may open and yet no kernel start, so only trying tells: the kernel must
/// print its banner within ten seconds.
fn kvm_works(kernel: Option<&Path>, folder: &Path) -> bool {
    let Some(kernel) = kernel else { return false };
    if std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
        return false;
    }
    let serial = folder.join("kvm-trial.log");
    let tool = Tool::new(QEMU)
        .args([
            "-nodefaults",
            "-display",
            "none",
            "-no-reboot",
            "-m",
            "512",
            "-machine",
            "q35,accel=kvm",
            "-cpu",
            "host",
            "-kernel",
        ])
        .arg(kernel)
        .args(["-append", "console=ttyS0 earlyprintk=ttyS0 panic=-1", "-serial"])
        .arg(format!("file:{}", serial.display()));
    let Ok(handle) = tool.start(&folder.join("kvm-trial.out")) else { return false };
    let begin = Instant::now();
    let mut works = false;
    while begin.elapsed() < Duration::from_secs(10) && !works {
        works = std::fs::read_to_string(&serial).is_ok_and(|text| text.contains("Linux version"));
        if !works && !matches!(handle.try_wait(), Ok(None)) {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let _ = handle.kill();
    let _ = handle.wait();
    works
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
