//! Disks of a lab's nodes: files of the lab's folder, as loop devices for as long as a container has power.

use super::machine::{Disk, Folder, Machine};
use crate::base::error::{Context, Result};
use crate::base::fs;
use crate::base::tool::Tool;
use crate::node::loops;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where a node's systemd reads which links to make in `/dev`.
const LINKS: &str = "etc/tmpfiles.d/ostack-lab.conf";

/// The start of the names that udev gives to disks of virtual machines.
const BY_SERIAL: &str = "/dev/disk/by-id/virtio-";

/// The serial number by which a virtual machine's udev gives a disk the site's name; none where QEMU cannot give it.
pub fn serial(disk: &Disk) -> Option<&str> {
    let serial = disk.path.to_str()?.strip_prefix(BY_SERIAL)?;
    // virtio-blk's limit, and what needs no quoting on QEMU's command line.
    let plain = serial.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    // The machine's own disks have names of their own.
    (plain && (1..=20).contains(&serial.len()) && !serial.starts_with("ostack-")).then_some(serial)
}

/// A node's disk of this number, as a file; blank when it is new.
///
/// # Errors
/// The lab's folder cannot be written.
pub fn file(folder: &Folder, node: &str, number: usize, disk: &Disk) -> Result<PathBuf> {
    let file = folder.disks(node).join(number.to_string());
    if !file.exists() {
        fs::create_dir_all(&folder.disks(node))?;
        use std::os::unix::fs::OpenOptionsExt;
        let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file);
        made.and_then(|file| file.set_len(disk.bytes)).doing(|| format!("making {}", file.display()))?;
    }
    Ok(file)
}

/// Makes a loop device of each disk, and lets the node's `root` have links of the site's names to them. Gives the devices' nodes
/// below `place`, and the paths at which the node has them.
///
/// They last as long as a process that is started here, in the caller's control group, or any that has the device open.
///
/// # Errors
/// The kernel has no loop devices, or the lab's folder cannot be written.
pub fn attach(folder: &Folder, machine: &Machine, place: &Path, root: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
    let name = machine.node.as_str();
    let (mut binds, mut links) = (Vec::new(), String::new());
    for (number, disk) in machine.disks.iter().enumerate() {
        let file = file(folder, name, number, disk)?;
        let (device, open) = loops::attach_disk(&file)?;
        // A node of its own: the host's /dev/loopN belongs to whoever has N next.
        let number = open.metadata().doing(|| format!("reading {}", device.display()))?.rdev();
        let node = place.join(device.file_name().unwrap_or_default());
        fs::create_dir_all(place)?;
        let mode = rustix::fs::Mode::from_raw_mode(0o660);
        rustix::fs::mknodat(rustix::fs::CWD, &node, rustix::fs::FileType::BlockDevice, mode, number)
            .doing(|| format!("making {}", node.display()))?;
        Tool::new("sleep").arg("infinity").launch_holding(open).doing(|| format!("keeping {}", device.display()))?;
        links.push_str(&format!("L+ {} - - - - {}\n", disk.path.display(), device.display()));
        binds.push((node, device));
    }
    if !binds.is_empty() {
        fs::write_atomic(&root.join(LINKS), links.as_bytes())?;
    }
    Ok(binds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_virtual_machines_disk_has_its_name_by_its_serial_number() {
        let of = |path: &str| serial(&Disk { path: path.into(), bytes: 1 }).map(str::to_string);
        assert_eq!(of("/dev/disk/by-id/virtio-osd").as_deref(), Some("osd"));
        assert_eq!(of("/dev/disk/by-id/virtio-a,b"), None);
        assert_eq!(of("/dev/vdb"), None);
        assert_eq!(of("/dev/disk/by-id/virtio-ostack-seed"), None);
    }
}
