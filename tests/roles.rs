//! Each role's image in QEMU, from blank, all alone: it comes up with no failed unit, and what needs peers waits and says for whom.
//!
//! A storage node's is that of tests/provision.rs. The images are the shipped ones, with secrets drawn for the test. Machines are emulated (no KVM is needed) and cut off from
//! every network.

mod harness;

use harness::machine::{comes_to, ostack, shipped};
use ostack_image::lab::qemu::{self, Disk, Firmware, Machine, Spec};
use ostack_image::model::load::Project;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

/// An emulated boot takes a minute on two quiet cores, the programs of the first steps as long.
const PATIENCE: Duration = Duration::from_secs(600);

/// Two emulated machines at once would only take twice as long.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The shipped project with secrets of its own.
fn project() -> &'static Path {
    static PROJECT: OnceLock<PathBuf> = OnceLock::new();
    PROJECT.get_or_init(|| {
        let folder = shipped("roles");
        ostack(&folder).args(["secrets", "init"]).run().unwrap();
        folder
    })
}

/// Boots the first node of a role and compares what its steps come to, one line each: name, state, words.
fn alone(node: &str, expected: &str) {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let folder = project();
    let site = Project::site(&folder.join("site.toml")).unwrap();
    let node = site.node(node).unwrap();
    ostack(folder).args(["build", node.role.as_str(), "--node", node.name.as_str(), "--relock"]).run().unwrap();
    let disk = folder.join(format!("out/{}.qcow2", node.role));
    let spec = Spec {
        disk: Disk::Over(disk.clone(), 20),
        disks: Vec::new(),
        cards: qemu::isolated(&site, node, None),
        seed: Some(folder.join(format!("out/{}.seed.img", node.name))),
        firmware: Firmware::Bios,
        start: qemu::Start::default(),
        memory: 4096,
        cpus: 2,
        kernel: None,
    };
    let machine_folder = folder.join(node.name.as_str());
    let mut machine = Machine::start(&spec, &machine_folder).unwrap();
    let report = machine.wait_for_report(1, PATIENCE).unwrap();
    assert_eq!(
        (report.node.as_str(), report.role.as_str(), report.state.as_str()),
        (node.name.as_str(), node.role.as_str(), "running")
    );
    assert_eq!(report.failed, Vec::<String>::new());

    comes_to(&machine, expected, PATIENCE);
    drop(machine);
    std::fs::remove_dir_all(&machine_folder).unwrap();
    std::fs::remove_file(&disk).unwrap();
}

#[test]
fn a_controller_without_the_others_makes_no_cluster_and_names_whom_it_lacks() {
    alone("controller01", include_str!("fixtures/alone/controller01.txt"));
}

#[test]
fn a_compute_node_without_controllers_waits_for_them() {
    alone("compute01", include_str!("fixtures/alone/compute01.txt"));
}
