//! Control groups: one for a lab, one in it for each node, so that a power cut takes every process of a node at once.
//!
//! Version 2 alone, wherever the machine has it mounted: nspawn's systemd wants nothing else.

use crate::base::digest::Digest;
use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long processes may take to die.
const PATIENCE: Duration = Duration::from_secs(10);

/// The group of a lab's node; without a name, of the lab itself.
///
/// # Errors
/// The machine has no control groups of version 2.
pub fn of(folder: &Path, node: Option<&str>) -> Result<PathBuf> {
    let table = fs::read_text(Path::new("/proc/self/mountinfo"))?;
    let base = mounted(&table).ok_or_else(|| {
        Error::new("no cgroup2 filesystem is mounted").next("mount one: mount -t cgroup2 none /sys/fs/cgroup/unified")
    })?;
    // Two labs at once have folders of their own.
    let digits = Digest::of(folder.as_os_str().as_encoded_bytes()).hex();
    let lab = base.join(format!("ostack-lab-{}", &digits[..12]));
    Ok(node.map_or(lab.clone(), |node| lab.join(node)))
}

/// The mount point of cgroup2 in a table such as `/proc/self/mountinfo`.
fn mounted(table: &str) -> Option<PathBuf> {
    let line = table.lines().find(|line| line.split(" - ").nth(1).is_some_and(|rest| rest.starts_with("cgroup2 ")))?;
    line.split(' ').nth(4).map(PathBuf::from)
}

/// Makes a group and moves this process into it; what it starts from now on is in it, too.
///
/// # Errors
/// The kernel refuses.
pub fn join(group: &Path) -> Result<()> {
    fs::create_dir_all(group)?;
    std::fs::write(group.join("cgroup.procs"), "0").doing(|| format!("joining the control group {}", group.display()))
}

/// Kills every process of a group and of those in it, and removes them; an absent group is well.
///
/// # Errors
/// A process does not die.
pub fn end(group: &Path) -> Result<()> {
    if !group.exists() {
        return Ok(());
    }
    std::fs::write(group.join("cgroup.kill"), "1").doing(|| format!("ending the processes of {}", group.display()))?;
    let begin = Instant::now();
    loop {
        match remove(group) {
            Ok(()) => return Ok(()),
            Err(error) if begin.elapsed() > PATIENCE => {
                return Err(error).doing(|| format!("removing the control group {}", group.display()));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Removes a group and those in it: `rmdir`, the innermost first. Files in it are the kernel's.
fn remove(group: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    std::fs::remove_dir(group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_groups_are_found_where_version_2_is_mounted() {
        let table = "25 1 0:21 / /proc rw - proc proc rw\n\
                     31 30 0:26 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu\n\
                     40 30 0:35 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw\n";
        assert_eq!(mounted(table), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(mounted("25 1 0:21 / /proc rw - proc proc rw\n"), None);
    }
}
