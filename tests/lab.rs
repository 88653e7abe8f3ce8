//! The shipped images as nodes of a lab: containers over the very layers, in namespaces of their own.
//!
//! They are built into the store where the program looks for it by itself.

mod harness;

use harness::{PROGRAM, leftovers};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock};

/// What is left of one lab on the host must not be taken for another's.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A lab in a folder of its own; it ends with the value.
struct Lab {
    folder: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Lab {
    fn new() -> Self {
        harness::must_be_root();
        // The image of this very program and these very overlays; mostly it is there already.
        static BUILT: OnceLock<()> = OnceLock::new();
        BUILT.get_or_init(|| {
            let build = ["-C", env!("CARGO_MANIFEST_DIR"), "build", "controller"];
            let output = Command::new(PROGRAM).args(build).stdin(Stdio::null()).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        });
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        Self { folder: tempfile::tempdir().unwrap(), _turn: turn }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("lab")
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(PROGRAM);
        command.arg("-C").arg(env!("CARGO_MANIFEST_DIR")).arg("lab").arg("--lab").arg(self.path()).args(args);
        command.stdin(Stdio::null()).output().unwrap()
    }

    #[track_caller]
    fn succeeds(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn on(&self, node: &str, script: &str) -> String {
        self.succeeds(&["exec", node, "--", "sh", "-c", script])
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.run(&["down"]);
    }
}

/// What of a lab is on the host: control groups, names of network namespaces, interfaces, and whatever has to do with its folder.
fn left(folder: &Path, before: &[String]) -> Vec<String> {
    let mut left = leftovers::of(folder);
    left.extend(on_host().into_iter().filter(|one| !before.contains(one)));
    left
}

fn on_host() -> Vec<String> {
    let names = |folder: &str| -> Vec<String> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path().display().to_string()).collect()
    };
    let mut found = names("/sys/class/net");
    found.extend(names("/run/netns"));
    found.extend(names("/run/systemd/nspawn"));
    for base in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
        found.extend(names(base).into_iter().filter(|name| name.contains("ostack-lab")));
    }
    found.sort();
    found
}

/// What a program says from its error on; warnings of the site come before.
fn error(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    said.find("error: ").map_or(said.clone(), |at| said[at..].to_string())
}

#[test]
fn a_node_is_its_image_and_its_seed_reaches_its_peers_and_keeps_its_state_over_a_power_cut() {
    let lab = Lab::new();
    let before = on_host();
    lab.succeeds(&["up", "controller01", "controller02"]);
    assert_eq!(
        lab.on("controller01", "hostname; ip -4 -o address show mgmt | tr -s ' ' | cut -d' ' -f2-4"),
        "controller01\nmgmt inet 172.16.181.31/16\n"
    );
    assert_eq!(lab.on("controller01", "grep IMAGE_ID /etc/os-release"), "IMAGE_ID=\"ostack-controller\"\n");

    // By its name, as services do; the answer comes by the bridge.
    lab.on("controller01", "ping -c 1 -W 5 controller02");
    lab.succeeds(&["cut", "controller02"]);
    assert!(!lab.run(&["exec", "controller01", "--", "ping", "-c", "1", "-W", "2", "controller02"]).status.success());
    lab.succeeds(&["heal", "controller02"]);
    lab.on("controller01", "ping -c 3 -W 5 controller02");
    // There is no way out of the lab's networks.
    assert_eq!(lab.on("controller01", "ip route show default"), "");

    let identity = lab.on("controller01", "cat /etc/machine-id");
    lab.on("controller01", "echo kept > /var/lib/mysql/marker; echo lost > /etc/marker; sync");
    lab.succeeds(&["kill", "controller01"]);
    let refused = lab.run(&["exec", "controller01", "--", "true"]);
    assert_eq!(
        String::from_utf8_lossy(&refused.stderr),
        "error: controller01 does not run\n  next: start it with: ostack-image lab start controller01\n"
    );
    lab.succeeds(&["start", "controller01"]);
    assert_eq!(
        lab.on("controller01", "cat /etc/machine-id /var/lib/mysql/marker; test -e /etc/marker || echo gone"),
        identity + "kept\ngone\n"
    );

    lab.succeeds(&["reimage", "controller01", "--wipe-state"]);
    assert_eq!(lab.on("controller01", "test -e /var/lib/mysql/marker || echo gone"), "gone\n");

    lab.succeeds(&["down"]);
    assert_eq!(left(&lab.path(), &before), Vec::<String>::new());
}

#[test]
fn down_ends_everything_also_when_the_tool_was_killed_while_it_started_a_node() {
    let lab = Lab::new();
    let before = on_host();
    let mut tool = Command::new(PROGRAM)
        .arg("-C")
        .arg(env!("CARGO_MANIFEST_DIR"))
        .args(["lab", "up", "controller01", "--lab"])
        .arg(lab.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // Until systemd is about to start; a console that is empty is one that nspawn has opened.
    while !lab.path().join("nodes/controller01/console.log").exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    tool.kill().unwrap();
    tool.wait().unwrap();
    lab.succeeds(&["down"]);
    assert_eq!(left(&lab.path(), &before), Vec::<String>::new());
}

#[test]
fn a_virtual_machine_boots_its_disk_reaches_containers_and_keeps_its_state_when_its_image_is_put_under_it_anew() {
    let lab = Lab::new();
    let before = on_host();
    lab.succeeds(&["up", "controller01"]);
    lab.succeeds(&["up", "--backend", "qemu", "--memory", "4096", "controller02"]);
    assert_eq!(lab.on("controller02", "hostname; cat; cat /proc/cmdline | cut -c1-11"), "controller02\nBOOT_IMAGE=\n");
    assert_eq!(lab.run(&["exec", "controller02", "--", "sh", "-c", "exit 7"]).status.code(), Some(7));
    lab.on("controller01", "ping -c 1 -W 20 controller02");
    lab.on("controller02", "ping -c 1 -W 20 controller01");
    assert_eq!(lab.on("controller02", "ip route show default"), "");
    lab.succeeds(&["cut", "controller02"]);
    assert!(!lab.run(&["exec", "controller01", "--", "ping", "-c", "1", "-W", "2", "controller02"]).status.success());
    lab.succeeds(&["heal", "controller02"]);
    let refused = lab.run(&["via", "controller02", "--", "true"]);
    assert_eq!(
        String::from_utf8_lossy(&refused.stderr),
        "error: controller02 is a virtual machine, whose network no program of this machine can enter\n  \
         next: use a node that is a container\n"
    );

    let identity = lab.on("controller02", "cat /etc/machine-id");
    lab.on("controller02", "echo kept > /var/lib/mysql/marker; echo lost > /etc/marker; sync");
    lab.succeeds(&["kill", "controller02"]);
    assert_eq!(lab.run(&["exec", "controller02", "--", "true"]).status.code(), Some(1));
    lab.succeeds(&["reimage", "controller02"]);
    assert_eq!(
        lab.on("controller02", "cat /etc/machine-id /var/lib/mysql/marker; test -e /etc/marker || echo gone"),
        identity + "kept\ngone\n"
    );
    lab.succeeds(&["down"]);
    assert_eq!(left(&lab.path(), &before), Vec::<String>::new());

    let refused = lab.run(&["up", "--backend", "nspawn", "controller02"]);
    assert_eq!(
        error(&refused),
        "error: controller02 is no container in this lab\n  \
         next: end the lab with `ostack-image lab down --wipe`, or use another folder: --lab DIR\n"
    );
}

#[test]
fn what_a_lab_is_told_of_disks_must_be_a_node_a_path_below_dev_and_a_size() {
    let lab = Lab::new();
    for (disk, words) in [
        ("controller01:vdb:1G", "write NODE:PATH:SIZE with a PATH below /dev"),
        ("controller01:/dev/../etc:1G", "write NODE:PATH:SIZE with a PATH below /dev"),
        ("controller01:/dev/vdb:much", "`much` is no size\n  next: write a number and MiB, GiB or TiB, such as \"10 GiB\""),
    ] {
        let output = lab.run(&["up", "--disk", disk, "controller01"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.starts_with(&format!("error: invalid value '{disk}' for '--disk <NODE:PATH:SIZE>': {words}\n")), "{said}");
        assert_eq!(output.status.code(), Some(2), "{disk}");
    }
    let by_name = lab.run(&["up", "--backend", "qemu", "--disk", "controller01:/dev/vdb:1G", "controller01"]);
    assert_eq!(
        error(&by_name),
        "error: a virtual machine cannot have a disk at /dev/vdb\n  \
         next: name it by its serial number, in the site too: /dev/disk/by-id/virtio-SERIAL\n"
    );
}

#[test]
fn a_lab_that_does_not_run_says_how_to_start_it() {
    let lab = Lab::new();
    let output = lab.run(&["exec", "controller01", "--", "true"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        format!("error: no lab runs in {}\n  next: start it: ostack-image lab up\n", lab.path().display())
    );
}
