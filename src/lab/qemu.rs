//! One node as a QEMU machine: a disk, the node's seed, its network cards.
//!
//! The machine reports over a virtio serial port (`org.ostack.report`, one JSON line per boot) and takes commands by
//! QEMU's guest agent. Alone it has networks that end in QEMU ([`isolated`]); in a lab its cards are taps (`vm`).

use super::agent;
use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use crate::base::tool::Tool;
use crate::model::site::{Kind, Node, Site};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const QEMU: &str = "qemu-system-x86_64";
/// The overlay of a machine that has one.
const OVERLAY: &str = "disk.qcow2";
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

/// The disk that a machine starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disk {
    /// An overlay of the machine's own, `disk.qcow2` in its folder, of so many GiB as a cloud's flavour would set it. The file
    /// below is only read.
    Over(PathBuf, u32),
    /// A raw file that is the machine's own.
    Own(PathBuf),
}

/// What the firmware starts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Start {
    /// The disk.
    #[default]
    Disk,
    /// What the first card's network offers, by the card's own ROM, which is iPXE; then the disk.
    Network,
    /// The same by UEFI's own drivers: by PXE, or by HTTP.
    Firmware(Protocol),
    /// A CD; then the disk.
    Medium(PathBuf),
}

/// How UEFI's own drivers start from a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// By DHCP and TFTP.
    Pxe,
    /// By DHCP and HTTP.
    Http,
}

/// A network card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// Its MAC address.
    pub mac: String,
    /// What it is plugged into: QEMU's `-netdev` without an id.
    pub netdev: String,
}

/// What the machine is.
#[derive(Debug, Clone)]
pub struct Spec {
    /// What it starts from.
    pub disk: Disk,
    /// The node's seed; without one the machine waits for it.
    pub seed: Option<PathBuf>,
    /// Other disks: serial number, raw file.
    pub disks: Vec<(String, PathBuf)>,
    /// How it starts.
    pub firmware: Firmware,
    /// From what.
    pub start: Start,
    /// Memory in MiB.
    pub memory: u32,
    /// Processors.
    pub cpus: u32,
    /// Network cards.
    pub cards: Vec<Card>,
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
    pub fn start(spec: &Spec, folder: &Path) -> Result<Self> {
        let handle = tool(spec, folder)?.start(&folder.join("qemu.log"))?;
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
        let mut stream = agent::connect(&self.folder.join("monitor.sock")).doing(|| "reaching QEMU's monitor")?;
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

/// The program that is the machine, with the folder made ready for it.
///
/// # Errors
/// QEMU is missing or too old, or its firmware is missing.
pub fn tool(spec: &Spec, folder: &Path) -> Result<Tool> {
    with_console(spec, folder, "chardev:console")
}

/// The same on the caller's terminal, which is the machine's console.
///
/// # Errors
/// As [`tool`].
pub fn tool_on_terminal(spec: &Spec, folder: &Path) -> Result<Tool> {
    with_console(spec, folder, "mon:stdio")
}

fn with_console(spec: &Spec, folder: &Path, serial: &str) -> Result<Tool> {
    prepare(spec, folder)?;
    // Sockets are named from the folder: their addresses hold 107 bytes only.
    Ok(Tool::new(QEMU).package("qemu-system-x86").args(arguments(spec, folder)?).args(["-serial", serial]).folder(folder))
}

/// Makes the machine's own disk over the role's, which stays as it is; one that is there already is kept.
fn prepare(spec: &Spec, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let disk = folder.join(OVERLAY);
    let Disk::Over(image, gib) = &spec.disk else { return Ok(()) };
    if disk.exists() {
        return Ok(());
    }
    let image = std::path::absolute(image).doing(|| format!("finding {}", image.display()))?;
    let below = if image.extension().is_some_and(|suffix| suffix == "raw") { "raw" } else { "qcow2" };
    let create = Tool::new("qemu-img").package("qemu-utils").args(["create", "-q", "-f", "qcow2", "-F", below, "-b"]);
    create.arg(image).arg(&disk).arg(format!("{gib}G")).run().map(|_| ())
}

/// The command line of QEMU, but for where its console is.
fn arguments(spec: &Spec, folder: &Path) -> Result<Vec<String>> {
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
    let (format, file) = match &spec.disk {
        Disk::Over(..) => ("qcow2", at(OVERLAY)),
        Disk::Own(file) => ("raw", file.display().to_string()),
    };
    add(&["-drive", &format!("if=none,id=system,format={format},cache=unsafe,file={file}")]);
    let place = if spec.start == Start::Disk { 0 } else { 1 };
    add(&["-device", &format!("virtio-blk-pci,drive=system,serial=ostack-system,bootindex={place}")]);
    if let Start::Medium(medium) = &spec.start {
        add(&["-drive", &format!("if=none,id=medium,media=cdrom,format=raw,readonly=on,file={}", medium.display())]);
        add(&["-device", "ide-cd,drive=medium,bootindex=0"]);
    }
    // Room to plug a seed into a machine that waits for one.
    add(&["-device", "pcie-root-port,id=plug,chassis=9"]);
    if let Some(seed) = &spec.seed {
        let seed = std::path::absolute(seed).doing(|| format!("finding {}", seed.display()))?;
        add(&["-drive", &format!("if=none,id=seed,format=raw,readonly=on,file={}", seed.display())]);
        add(&["-device", "virtio-blk-pci,drive=seed,serial=ostack-seed"]);
    }
    for (number, (serial, file)) in spec.disks.iter().enumerate() {
        add(&["-drive", &format!("if=none,id=disk{number},format=raw,cache=unsafe,file={}", file.display())]);
        add(&["-device", &format!("virtio-blk-pci,drive=disk{number},serial={serial}")]);
    }
    for (number, Card { mac, netdev }) in spec.cards.iter().enumerate() {
        let (kind, rest) = netdev.split_once(',').unwrap_or((netdev, ""));
        add(&["-netdev", &format!("{kind},id=net{number},{rest}")]);
        let rom = match spec.start {
            Start::Network if number == 0 => "bootindex=0",
            Start::Firmware(_) if number == 0 => "romfile=,bootindex=0",
            _ => "romfile=",
        };
        add(&["-device", &format!("virtio-net-pci,netdev=net{number},mac={mac},{rom}")]);
    }
    if let Start::Firmware(protocol) = spec.start {
        let pxe = if protocol == Protocol::Pxe { "yes" } else { "no" };
        for (option, value) in [("IPv4PXESupport", pxe), ("IPv6PXESupport", "no")] {
            add(&["-fw_cfg", &format!("name=opt/org.tianocore/{option},string={value}")]);
        }
    }
    add(&["-chardev", &format!("file,id=console,path={},append=on", at("console.log"))]);
    add(&["-device", "virtio-serial-pci"]);
    add(&["-chardev", &format!("file,id=report,path={},append=on", at("report"))]);
    add(&["-device", "virtserialport,chardev=report,name=org.ostack.report"]);
    add(&["-chardev", "socket,id=agent,path=agent.sock,server=on,wait=off"]);
    add(&["-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"]);
    add(&["-monitor", "unix:monitor.sock,server=on,wait=off"]);
    add(&["-device", "virtio-rng-pci"]);
    Ok(args)
}

/// A node's cards when it is alone: networks that end in QEMU. `restrict=on` keeps the machine from reaching anything; a
/// port of loopback leads to its SSH if asked for.
pub fn isolated(site: &Site, node: &Node, ssh_port: Option<u16>) -> Vec<Card> {
    let cards = node.interfaces.iter().filter(|one| one.kind == Kind::Card).enumerate();
    // One without an address of its own is one that the node could not recognise.
    let known = cards.filter_map(|(number, card)| Some((number, card, card.mac.clone()?)));
    known
        .map(|(number, card, mac)| {
            let netdev = match (card.network, card.address) {
                (Some("management"), Some(address)) => {
                    let forward = ssh_port.map(|port| format!(",hostfwd=tcp:127.0.0.1:{port}-{address}:22"));
                    format!("user,restrict=on,net={}{}", site.management.subnet, forward.unwrap_or_default())
                }
                (Some("external"), Some(_)) => format!("user,restrict=on,net={}", site.external.subnet),
                // A cable that ends at a hub of its own.
                _ => format!("hubport,hubid={number}"),
            };
            Card { mac, netdev }
        })
        .collect()
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
    // What an earlier trial has left must not be taken for this one's.
    let _ = std::fs::remove_file(&serial);
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
