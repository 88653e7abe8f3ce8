//! Disks of a lab's nodes: files of the lab's folder, as loop devices for as long as the node has power.

use super::machine::{Folder, Machine};
use crate::base::error::{Context, Result};
use crate::base::fs;
use crate::base::tool::Tool;
use crate::node::loops;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where a node's systemd reads which links to make in `/dev`.
const LINKS: &str = "etc/tmpfiles.d/ostack-lab.conf";

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
        let file = folder.disks(name).join(number.to_string());
        if !file.exists() {
            fs::create_dir_all(&folder.disks(name))?;
            let made = std::fs::File::create(&file).and_then(|file| file.set_len(disk.bytes));
            made.doing(|| format!("making {}", file.display()))?;
        }
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
