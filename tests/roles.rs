//! A compute node's image in QEMU as OpenStack's bare metal service (Ironic) deploys it: a whole-disk image, and behind it the config
//! drive, in a partition at the end of the same disk.
//!
//! All alone it comes up with no failed unit, and what needs peers waits and says for whom. A controller's image is in tests/boot.rs,
//! a storage node's in tests/provision.rs. The image is the shipped one, with secrets drawn for the test. The machine is emulated (no
//! KVM is needed) and cut off from every network.

mod harness;

use harness::machine::{comes_to, on_node, ostack, shipped};
use ostack_image::base::gpt::{SECTOR, Table};
use ostack_image::base::tool::Tool;
use ostack_image::lab::qemu::{self, Disk, Firmware, Machine, Spec, Start};
use ostack_image::model::load::Project;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

/// An emulated boot takes a minute on two quiet cores, the programs of the first steps as long.
const PATIENCE: Duration = Duration::from_secs(600);
/// The disk's size in bytes.
const SIZE: u64 = 20 << 30;

/// The disk as the service leaves it.
fn deploy(image: &Path, drive: &Path, disk: &Path) {
    Tool::new("qemu-img").args(["convert", "-O", "raw"]).arg(image).arg(disk).run().unwrap();
    File::options().write(true).open(disk).unwrap().set_len(SIZE).unwrap();
    Tool::new("sgdisk").args(["--move-second-header", "--new=0:-64MiB:0"]).arg(disk).run().unwrap();
    let table = Table::read(&File::open(disk).unwrap(), SIZE / SECTOR).unwrap().unwrap();
    let first = table.partitions.values().map(|partition| partition.first).max().unwrap();
    let (from, to) = (format!("if={}", drive.display()), format!("of={}", disk.display()));
    Tool::new("dd").args(["bs=512", "conv=notrunc", "status=none", &format!("seek={first}"), &from, &to]).run().unwrap();
}

#[test]
fn a_compute_node_that_the_bare_metal_service_deployed_comes_up_and_waits_for_controllers() {
    let folder = shipped("roles");
    ostack(&folder).args(["secrets", "init"]).run().unwrap();
    ostack(&folder).args(["build", "compute", "--relock"]).run().unwrap();
    ostack(&folder).args(["seed", "compute01", "--config-drive"]).run().unwrap();
    let disk = folder.join("disk.raw");
    deploy(&folder.join("out/compute.qcow2"), &folder.join("out/compute01.config-2.iso"), &disk);
    let site = Project::site(&folder.join("site.toml")).unwrap();
    let spec = Spec {
        disk: Disk::Own(disk),
        disks: Vec::new(),
        cards: qemu::isolated(&site, site.node("compute01").unwrap(), None),
        seed: None,
        firmware: Firmware::Bios,
        start: Start::default(),
        memory: 4096,
        cpus: 2,
        kernel: None,
    };
    let mut machine = Machine::start(&spec, &folder.join("machine")).unwrap();
    let report = machine.wait_for_report(1, PATIENCE).unwrap();
    assert_eq!((report.node.as_str(), report.role.as_str(), report.state.as_str()), ("compute01", "compute", "running"));
    assert_eq!(report.failed, Vec::<String>::new());
    comes_to(&machine, include_str!("fixtures/alone/compute01.txt"), PATIENCE);
    // The state lies between the system and the drive, which is as it was.
    let labels =
        on_node(&machine, "lsblk --noheadings --raw --output NAME,LABEL /dev/vda | grep -E 'config-2|ostack-state' | sort -k 2");
    assert_eq!(labels, "vda4 config-2\nvda5 ostack-state\n");
    drop(machine);
    std::fs::remove_dir_all(&folder).unwrap();
}
