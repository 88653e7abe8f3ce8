//! Blank machines become nodes: dnsmasq, `serve` and a machine in QEMU in a network of the test's own.
//!
//! The image is the shipped one of a storage node. Machines are emulated (no KVM is needed).

mod harness;

use harness::machine::{comes_to, on_node, ostack, shipped};
use harness::network::{BRIDGE, Beside, TAP, within};
use ostack_image::base::gpt::{SECTOR, Table};
use ostack_image::base::tool::Tool;
use ostack_image::lab::qemu::{self, Disk, Firmware, Machine, Protocol, Spec, Start};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// An emulated machine fetches an image, starts it, and starts its services.
const PATIENCE: Duration = Duration::from_secs(900);
const SERVER: &str = "172.16.181.2";
const PORT: u16 = 8080;

/// The shipped project with a server and secrets, its tree, and its medium. Each test has a node and a network of its own: emulated
/// machines keep one core busy each, and mostly wait for each other's disk otherwise.
fn project() -> &'static Path {
    static PROJECT: OnceLock<PathBuf> = OnceLock::new();
    PROJECT.get_or_init(|| {
        let folder = shipped("provision");
        let site = std::fs::read_to_string(folder.join("site.toml")).unwrap();
        let site = site.replace("[dns]\n", &format!("[provision]\nserver = \"{SERVER}\"\n\n[dns]\n"));
        std::fs::write(folder.join("site.toml"), site).unwrap();
        ostack(&folder).args(["secrets", "init"]).run().unwrap();
        ostack(&folder).args(["netboot", "storage", "--relock"]).run().unwrap();
        let medium = || {
            ostack(&folder).args(["build", "storage", "--node", "storage03", "--format", "iso"]).run().unwrap();
            ostack_image::base::digest::Digest::of_file(&folder.join("out/storage.iso")).unwrap()
        };
        assert_eq!(medium(), medium(), "the same medium twice has the same digest");
        folder
    })
}

/// `serve`, ended with the value.
struct Server(duct::Handle);

impl Drop for Server {
    fn drop(&mut self) {
        // By its own way of ending, which ends dnsmasq as well.
        for pid in self.0.pids() {
            Tool::new("kill").args(["-TERM", &pid.to_string()]).run().ok();
        }
        let _ = self.0.wait();
    }
}

fn serve(project: &Path, name: &str, args: &[&str]) -> Server {
    let log = project.join(format!("{name}.log"));
    let server = Server(ostack(project).arg("serve").args(args).start(&log).unwrap());
    let begin = Instant::now();
    while !std::fs::read_to_string(&log).unwrap_or_default().contains("seeds at https://") {
        assert!(begin.elapsed() < Duration::from_secs(60), "{}", std::fs::read_to_string(&log).unwrap());
        std::thread::sleep(Duration::from_millis(100));
    }
    server
}

/// A machine without anything on its disk, if it has not had its turn before.
fn machine(project: &Path, name: &str, firmware: Firmware, start: Start) -> Machine {
    machine_in(&project.join("machines").join(name), project, name, firmware, start)
}

/// The same with its files in a folder.
fn machine_in(folder: &Path, project: &Path, name: &str, firmware: Firmware, start: Start) -> Machine {
    std::fs::create_dir_all(folder).unwrap();
    // What a machine before it has reported.
    let _ = std::fs::remove_file(folder.join("report"));
    let disk = folder.join("system.raw");
    if !disk.exists() {
        std::fs::File::create(&disk).unwrap().set_len(20 << 30).unwrap();
    }
    let site = ostack_image::model::load::Project::site(&project.join("site.toml")).unwrap();
    let node = site.node(name).unwrap();
    let mut cards = qemu::isolated(&site, node, None);
    // Without a network, or with that of the test where the management network is.
    if !matches!(start, Start::Medium(_)) {
        let management = cards.iter().position(|card| Some(&card.mac) == node.mac.as_ref()).unwrap();
        cards[management].netdev = format!("tap,ifname={TAP},script=no,downscript=no");
        cards.swap(0, management);
    }
    let seed = matches!(start, Start::Medium(_)).then(|| project.join(format!("out/{name}.seed.img")));
    let spec =
        Spec { disk: Disk::Own(disk), seed, disks: Vec::new(), firmware, start, memory: 2048, cpus: 2, cards, kernel: None };
    Machine::start(&spec, folder).unwrap()
}

fn status() -> Value {
    let url = format!("http://{SERVER}:{PORT}/v1/status");
    ureq::get(&url).call().unwrap().body_mut().read_json().unwrap()
}

/// What happened to a node, one after the other.
fn happened(node: &str) -> Vec<String> {
    let journal = status()["journal"].as_array().unwrap().clone();
    journal.iter().filter(|entry| entry["node"] == node).map(|entry| entry["what"].as_str().unwrap().to_string()).collect()
}

fn waits_for_stage(machine: &Machine, name: &str, stage: &str) {
    let begin = Instant::now();
    loop {
        let status = status();
        let node = status["nodes"].as_array().unwrap().iter().find(|node| node["name"] == name).unwrap().clone();
        if node["stage"] == stage && (stage != "writing" || node["done"].as_u64() > Some(100 << 20)) {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "{node}\n{}", machine.console());
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// What the console shows behind its first `seen` bytes, once `text` is in that.
fn console_until(machine: &Machine, seen: usize, text: &str) -> String {
    let begin = Instant::now();
    loop {
        let console = machine.console().get(seen..).unwrap_or_default().to_string();
        if console.contains(text) {
            return console;
        }
        assert!(begin.elapsed() < PATIENCE, "no `{text}` in\n{console}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// A file of a disk's state, as the filesystem has it; the machine must be off.
fn on_state(disk: &Path, path: &str) -> String {
    let file = std::fs::File::open(disk).unwrap();
    let sectors = file.metadata().unwrap().len() / SECTOR;
    let table = Table::read(&file, sectors).unwrap().unwrap();
    let (_, state) = table.named("ostack-state").unwrap();
    let device = format!("{}?offset={}", disk.display(), state.first * SECTOR);
    Tool::new("debugfs").package("e2fsprogs").args(["-R", &format!("cat {path}"), &device]).run().unwrap().text()
}

fn arm(project: &Path, node: &str, args: &[&str]) {
    ostack(project).arg("arm").arg(node).args(args).run().unwrap();
}

#[test]
fn by_bios_a_blank_machine_becomes_its_node_is_reimaged_with_its_state_and_survives_a_loss_of_power() {
    let project = project();
    within(&format!("{SERVER}/16"), || {
        let _server = serve(project, "bios", &["--dhcp", BRIDGE]);
        // Power off and on; and how much the console has shown until then.
        let power_cycled = |machine: Machine| {
            let seen = machine.console().len();
            drop(machine);
            (self::machine(project, "storage01", Firmware::Bios, Start::Network), seen)
        };
        arm(project, "storage01", &[]);
        let mut first = machine(project, "storage01", Firmware::Bios, Start::Network);
        let report = first.wait_for_report(1, PATIENCE).unwrap();
        assert_eq!((report.node.as_str(), report.role.as_str(), report.state.as_str()), ("storage01", "storage", "running"));
        assert_eq!(report.failed, Vec::<String>::new());
        assert_eq!(happened("storage01"), ["armed", "looking", "writing", "seed", "seed", "done", "disarmed"]);
        // It is what a node is that was written as a whole.
        comes_to(&first, include_str!("fixtures/alone/storage01.txt"), PATIENCE);
        on_node(&first, "echo kept > /var/log/marker; sync");

        // Not expected any more, it starts from its disk.
        let (again, seen) = power_cycled(first);
        let console = console_until(&again, seen, "ostack: starting storage01");
        assert!(console.contains("GRUB") && !console.contains("ostack: installer"), "{console}");
        assert_eq!(happened("storage01").len(), 7);

        // Another image, and the node is expected: the system is another one, the state stays.
        let site = std::fs::read_to_string(project.join("site.toml")).unwrap();
        std::fs::write(project.join("site.toml"), site.replace("Asia/Shanghai", "Europe/Berlin")).unwrap();
        ostack(project).args(["netboot", "storage"]).run().unwrap();
        arm(project, "storage01", &[]);
        let (again, seen) = power_cycled(again);
        let console = console_until(&again, seen, "ostack: starting storage01");
        assert!(console.contains("ostack: the state stays") && console.contains("ostack: state kept"), "{console}");
        assert!(!console.contains(&report.image), "{console}");
        assert_eq!(happened("storage01")[7..], ["armed", "looking", "writing", "seed", "seed", "done", "disarmed"]);

        // The power goes in the middle of writing: the machine begins again, and is given its seed.
        arm(project, "storage01", &[]);
        let (again, _) = power_cycled(again);
        waits_for_stage(&again, "storage01", "writing");
        let (again, seen) = power_cycled(again);
        let recovered = console_until(&again, seen, "ostack: starting storage01");
        assert!(recovered.contains("ostack: state kept"), "{recovered}");
        let image = |console: &str| console.split("ostack: image sha256:").nth(1).map(|rest| rest[..64].to_string());
        assert_eq!(image(&recovered), image(&console));
        drop(again);
        assert_eq!(on_state(&project.join("machines/storage01/system.raw"), "/log/var/log/marker"), "kept\n");
    });
}

#[test]
fn by_uefi_a_blank_machine_becomes_its_node() {
    let project = project();
    within(&format!("{SERVER}/16"), || {
        let _server = serve(project, "uefi", &["--dhcp", BRIDGE]);
        arm(project, "storage02", &["--wipe-state"]);
        let mut machine = machine(project, "storage02", Firmware::Uefi, Start::Firmware(Protocol::Pxe));
        let report = machine.wait_for_report(1, PATIENCE).unwrap();
        assert_eq!((report.node.as_str(), report.role.as_str(), report.state.as_str()), ("storage02", "storage", "running"));
        assert_eq!(on_node(&machine, "test -d /sys/firmware/efi"), "");
        assert_eq!(happened("storage02"), ["armed", "looking", "writing", "seed", "seed", "done", "disarmed"]);
    });
}

#[test]
fn from_a_medium_a_machine_without_network_becomes_its_node() {
    let project = project();
    let medium = project.join("out/storage.iso");
    let machine = machine(project, "storage03", Firmware::Uefi, Start::Medium(medium));
    let console = console_until(&machine, 0, "ostack: starting storage03");
    for line in ["ostack: storage03 is installed", "ostack: seed of storage03 on ", "ostack: state created"] {
        assert!(console.contains(line), "{line}: {console}");
    }
}

/// dnsmasq with these settings, which is not `serve`'s; what it gives out by TFTP is the tree.
fn dnsmasq(project: &Path, name: &str, settings: &str) -> Dnsmasq {
    let file = project.join(format!("{name}.conf"));
    std::fs::write(&file, format!("{settings}tftp-root={}\n", project.join("out/netboot").display())).unwrap();
    let args = ["--keep-in-foreground", "--pid-file=", "--log-facility=-", "--leasefile-ro", "--user=root"];
    let tool = Tool::new("dnsmasq").args(args).arg(format!("--conf-file={}", file.display()));
    Dnsmasq(tool.start(&project.join(format!("{name}.dnsmasq.log"))).unwrap())
}

struct Dnsmasq(duct::Handle);

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

/// A blank machine gets as far as the installer, which knows who it is.
fn starts_the_installer(project: &Path, way: &str, firmware: Firmware, start: Start) {
    let folder = project.join("machines").join(way);
    let mut machine = machine_in(&folder, project, "storage03", firmware, start);
    machine.wait_for_console("ostack: storage03 (storage), ", PATIENCE).unwrap();
}

#[test]
fn every_other_way_to_start_by_network_leads_to_the_installer_too() {
    let project = project();
    within(&format!("{SERVER}/16"), || {
        let _server = serve(project, "ways", &[]);
        arm(project, "storage03", &[]);
        let own = std::fs::read_to_string(project.join("out/netboot/dnsmasq.conf")).unwrap();
        {
            let _dnsmasq = dnsmasq(project, "http", &own);
            starts_the_installer(project, "http", Firmware::Uefi, Start::Firmware(Protocol::Http));
        }
        {
            // The card's ROM is told to start pxelinux, as one would be that is no iPXE.
            let others = own.lines().filter(|line| !line.starts_with("dhcp-userclass=")).map(|line| format!("{line}\n"));
            let pxelinux = others.collect::<String>().replace("undionly.kpxe", "lpxelinux.0");
            let _dnsmasq = dnsmasq(project, "pxelinux", &pxelinux);
            starts_the_installer(project, "pxelinux", Firmware::Bios, Start::Network);
        }
        // Addresses come from somebody else.
        let site = std::fs::read_to_string(project.join("site.toml")).unwrap();
        let server = format!("\nserver = \"{SERVER}\"\n");
        let folder = tempfile::tempdir().unwrap();
        let site_file = folder.path().join("site.toml");
        std::fs::write(&site_file, site.replace(&server, &format!("{server}dhcp = \"proxy\"\n"))).unwrap();
        let out = folder.path().join("out");
        ostack(project)
            .args(["netboot", "storage", "--site"])
            .arg(&site_file)
            .arg("--secrets")
            .arg(project.join("secrets.age"))
            .arg("--out")
            .arg(&out)
            .run()
            .unwrap();
        let settings = std::fs::read_to_string(out.join("netboot/dnsmasq.conf")).unwrap();
        let _proxy = dnsmasq(project, "proxy", &settings);
        let log = project.to_path_buf();
        let _addresses = Beside::new("172.16.181.3/16", move || {
            dnsmasq(&log, "addresses", "port=0\ndhcp-range=172.16.181.200,172.16.181.250,255.255.0.0\ndhcp-authoritative\n")
        });
        starts_the_installer(project, "proxy", Firmware::Bios, Start::Network);
    });
}
