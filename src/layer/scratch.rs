//! Where roots are built: memory when there is plenty, the store's disk otherwise. The bytes that come out are the same.
//!
//! The memory is a tmpfs in a mount namespace of this process alone, so that the kernel frees it however the build ends.

use super::user_namespace;
use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use rustix::fs::XattrFlags;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use rustix::thread::UnshareFlags;
use std::path::Path;

/// Available memory from which on roots are built in memory: three times what the largest role unpacks to.
const ENOUGH_KIB: u64 = 12 << 20;

/// Leaves the host's mount namespace; an ordinary user becomes root of a user namespace before, and is told why it has one id only if
/// it has. To be called once, before the process has threads.
///
/// # Errors
/// The caller is not root and cannot become it.
pub fn leave_host_mounts() -> Result<Option<Error>> {
    let why = user_namespace::become_root()?;
    // SAFETY: the process has one thread and shares no file descriptors table.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }
        .doing(|| "making a mount namespace")
        .map_err(|error| error.next("run as root"))?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).doing(|| "making mounts private")?;
    Ok(why)
}

/// Puts a tmpfs over the scratch folder if there is memory enough; says whether it did.
///
/// # Errors
/// The folder cannot be made or mounted on.
pub fn prepare(folder: &Path) -> Result<bool> {
    fs::create_dir_all(folder)?;
    if available_kib() < ENOUGH_KIB {
        return Ok(false);
    }
    mount("tmpfs", folder, "tmpfs", MountFlags::empty(), Some(c"mode=0700,size=80%"))
        .doing(|| format!("mounting a tmpfs at {}", folder.display()))?;
    // In a user namespace overlayfs keeps its notes in attributes that a tmpfs has since Linux 6.6.
    if user_namespace::is_own()? && rustix::fs::setxattr(folder, c"user.ostack", b"", XattrFlags::empty()).is_err() {
        unmount(folder, UnmountFlags::DETACH).doing(|| format!("unmounting {}", folder.display()))?;
        return Ok(false);
    }
    Ok(true)
}

fn available_kib() -> u64 {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
