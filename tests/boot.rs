//! The shipped image in QEMU: what an operator finds on a node that has just started.
//!
//! The image is the one of `make controller`, with an administrator's key added to the site, so that only the ssh
//! overlay and the disk are built anew. Machines are emulated (no KVM is needed) and cut off from every network.

mod harness;

use harness::machine::{comes_to, on_node, ostack, shipped};
use ostack_image::base::digest::Digest;
use ostack_image::base::tool::Tool;
use ostack_image::lab::agent::Agent;
use ostack_image::lab::qemu::{self, Disk, Firmware, Machine, Spec};
use ostack_image::model::load::Project;
use ostack_image::model::site::Site;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

/// An emulated boot takes 40 s on two quiet cores.
const PATIENCE: Duration = Duration::from_secs(600);
const NODE: &str = "controller01";

/// Two emulated machines at once would only take twice as long.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The image under test: built once, read by every test.
struct Lab {
    folder: PathBuf,
    site: Site,
    digest: String,
}

fn lab() -> &'static Lab {
    static LAB: OnceLock<Lab> = OnceLock::new();
    LAB.get_or_init(|| {
        let folder = shipped("boot");
        let key = folder.join("key");
        Tool::new("ssh-keygen")
            .package("openssh-client")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"])
            .arg(&key)
            .run()
            .unwrap();
        let site_file = folder.join("site.toml");
        let site = std::fs::read_to_string(&site_file).unwrap();
        let public = std::fs::read_to_string(folder.join("key.pub")).unwrap();
        assert!(site.contains("authorized_keys = []"));
        std::fs::write(&site_file, site.replace("authorized_keys = []", &format!("authorized_keys = [\"{}\"]", public.trim())))
            .unwrap();
        ostack(&folder).args(["secrets", "init"]).run().unwrap();
        let built = ostack(&folder).args(["build", "controller", "--node", NODE, "--json", "--relock"]).run().unwrap();
        let json: serde_json::Value = serde_json::from_slice(&built.stdout).unwrap();
        let site = Project::site(&site_file).unwrap();
        Lab { digest: json["image"]["digest"].as_str().unwrap().to_string(), folder, site }
    })
}

fn spec(lab: &Lab, firmware: Firmware, seed: bool, ssh_port: Option<u16>) -> Spec {
    Spec {
        disk: Disk::Over(lab.folder.join("out/controller.qcow2"), 20),
        seed: seed.then(|| seed_file(lab)),
        disks: Vec::new(),
        firmware,
        start: qemu::Start::default(),
        memory: 4096,
        cpus: 2,
        cards: qemu::isolated(&lab.site, lab.site.node(NODE).unwrap(), ssh_port),
        kernel: None,
    }
}

fn seed_file(lab: &Lab) -> PathBuf {
    lab.folder.join(format!("out/{NODE}.seed.img"))
}

fn start(lab: &Lab, name: &str, spec: &Spec) -> Machine {
    let folder = lab.folder.join(name);
    let _ = std::fs::remove_dir_all(&folder);
    Machine::start(spec, &folder).unwrap()
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn by_uefi_a_node_comes_up_as_its_site_says_and_only_its_state_outlives_a_reboot() {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let lab = lab();
    let port = free_port();
    let mut machine = start(lab, "uefi", &spec(lab, Firmware::Uefi, true, Some(port)));
    let report = machine.wait_for_report(1, PATIENCE).unwrap();
    assert_eq!((report.node.as_str(), report.role.as_str()), (NODE, "controller"));
    assert_eq!((report.image.as_str(), report.state.as_str()), (lab.digest.as_str(), "running"));
    assert_eq!(report.failed, Vec::<String>::new());

    assert_eq!(on_node(&machine, "hostname"), "controller01\n");
    assert_eq!(
        on_node(&machine, "ip -o -4 addr show scope global | awk '{print $2, $4}' | sort"),
        "ext 10.181.0.31/16\nmgmt 172.16.181.31/16\n"
    );
    assert_eq!(on_node(&machine, "sysctl -n net.ipv4.ip_nonlocal_bind"), "1\n");
    assert_eq!(on_node(&machine, "getent hosts controller03 | awk '{print $1}'"), "172.16.181.33\n");
    assert_eq!(
        on_node(&machine, ". /etc/os-release; echo $ID $IMAGE_ID $IMAGE_VERSION"),
        format!("debian ostack-controller {}\n", lab.digest)
    );
    assert!(on_node(&machine, "cat /proc/cmdline").contains(&format!("ostack.image={}", lab.digest)));
    every_rendered_file_is_on_the_node(lab, &machine);
    assert_eq!(on_node(&machine, "haproxy -c -q -f /etc/haproxy/haproxy.cfg && echo valid"), "valid\n");
    let listening = on_node(&machine, "ss -Hltn | awk '{print $4}' | sort");
    for socket in ["172.16.181.30:5000", "172.16.181.31:11211"] {
        assert!(listening.lines().any(|line| line == socket), "{socket} is not among\n{listening}");
    }
    let units = on_node(&machine, "systemctl is-enabled nova-scheduler mariadb rabbitmq-server pacemaker haproxy etcd; true");
    assert_eq!(units, "disabled\ndisabled\ndisabled\ndisabled\nenabled\ndisabled\n");
    administrators_log_in_by_key_only(lab, port);

    on_node(&machine, "echo changed > /etc/motd; echo kept > /var/lib/etcd/marker; sync");
    let machine_id = on_node(&machine, "cat /etc/machine-id");
    let host_keys = on_node(&machine, "ssh-keyscan -T 120 -t ed25519 127.0.0.1 2>/dev/null");
    assert!(host_keys.contains("ssh-ed25519"), "{host_keys}");
    // The agent's connection ends with the machine, so the answer is not waited for.
    let _ = Agent::connect(&machine.agent_socket(), PATIENCE).unwrap().shell("systemctl reboot --no-block");
    let second = machine.wait_for_report(2, PATIENCE).unwrap();
    assert_eq!(second, report);
    assert_ne!(on_node(&machine, "cat /etc/motd"), "changed\n");
    assert_eq!(on_node(&machine, "cat /var/lib/etcd/marker"), "kept\n");
    assert_eq!(on_node(&machine, "cat /etc/machine-id"), machine_id);
    assert_eq!(on_node(&machine, "ssh-keyscan -T 120 -t ed25519 127.0.0.1 2>/dev/null"), host_keys);
}

/// `render --secrets` and the node agree on every file: content, mode and owner.
fn every_rendered_file_is_on_the_node(lab: &Lab, machine: &Machine) {
    let folder = lab.folder.join("rendered");
    let out = ostack(&lab.folder).args(["render", NODE, "--secrets", "--json", "--out"]).arg(&folder).run().unwrap();
    let listing: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let mut compared = 0;
    for file in listing["files"].as_array().unwrap() {
        let text = |key: &str| file[key].as_str().unwrap().to_string();
        if text("kind") != "file" {
            continue;
        }
        let path = text("path");
        let found = on_node(machine, &format!("sha256sum '{path}' | cut -c1-64; stat -c '%a %u:%g' '{path}'"));
        let mode = u32::from_str_radix(&text("mode"), 8).unwrap();
        // What is listed are the digests of placeholders; the folder has the values.
        let content = Digest::of_file(&folder.join(path.trim_start_matches('/'))).unwrap().0;
        let expected = format!("{}\n{mode:o} {}:{}\n", content.hex(), file["uid"], file["gid"]);
        assert_eq!(found, expected, "{path}");
        compared += 1;
    }
    assert!(compared > 20, "only {compared} files were compared");
}

fn administrators_log_in_by_key_only(lab: &Lab, port: u16) {
    let port = port.to_string();
    let options = [
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
        "-o",
        "BatchMode=yes",
        "-o",
        "ConnectTimeout=60",
    ];
    let ssh = || Tool::new("ssh").package("openssh-client").args(options).args(["-p", &port, "root@127.0.0.1"]);
    let answer = ssh().arg("-i").arg(lab.folder.join("key")).arg("hostname").run().unwrap();
    assert_eq!(answer.text(), "controller01\n");
    let refused = ssh().args(["-o", "PubkeyAuthentication=no", "hostname"]).run().err().unwrap().to_string();
    assert!(refused.contains("Permission denied (publickey)"), "{refused}");
}

#[test]
fn by_bios_an_image_without_a_seed_waits_for_one_and_then_makes_no_cluster_alone_but_names_whom_it_lacks() {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let lab = lab();
    let mut machine = start(lab, "bios", &spec(lab, Firmware::Bios, false, None));
    machine.wait_for_console("waiting for a seed", PATIENCE).unwrap();
    assert!(machine.console().contains(&lab.digest), "{}", machine.console());
    // Nothing of the system runs yet: systemd would announce itself.
    std::thread::sleep(Duration::from_secs(3));
    assert!(!machine.console().contains("systemd"), "{}", machine.console());
    machine.monitor(&format!("drive_add 0 if=none,id=seed,format=raw,readonly=on,file={}", seed_file(lab).display())).unwrap();
    machine.monitor("device_add virtio-blk-pci,drive=seed,bus=plug").unwrap();
    let report = machine.wait_for_report(1, PATIENCE).unwrap();
    assert_eq!((report.node.as_str(), report.image.as_str(), report.state.as_str()), (NODE, lab.digest.as_str(), "running"));
    assert_eq!(report.failed, Vec::<String>::new());
    comes_to(&machine, include_str!("fixtures/alone/controller01.txt"), PATIENCE);
}

#[test]
fn a_seed_of_another_role_is_refused() {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let lab = lab();
    let seed = lab.folder.join("compute01.seed.img");
    ostack(&lab.folder).args(["seed", "compute01", "--file"]).arg(&seed).run().unwrap();
    let spec = Spec { seed: Some(seed), ..spec(lab, Firmware::Bios, false, None) };
    let mut machine = start(lab, "other-role", &spec);
    // The console is read while it is written: what is waited for is all that must be there.
    let why =
        "ostack: halted: reading the seed on vdb: the seed of compute01 is for the role compute, but this image is a controller";
    machine.wait_for_console(why, PATIENCE).unwrap();
}
