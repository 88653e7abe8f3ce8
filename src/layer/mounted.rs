//! Stored layers as directories that can be read: mounted where the kernel can, unpacked where it cannot.
//!
//! The mounts are this process's own ([`super::scratch::leave_host_mounts`] comes first), so the kernel ends them however the
//! program ends.

use super::erofs;
use crate::base::error::{Context, Result};
use crate::base::fs;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::path::{Path, PathBuf};

/// A directory in memory with layers in it; both go when it is dropped.
pub struct Mounted {
    folder: PathBuf,
    layers: Vec<PathBuf>,
}

impl Mounted {
    /// An empty directory in memory.
    ///
    /// # Errors
    /// The folder cannot be made, or the caller is not root.
    pub fn new(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        mount("tmpfs", folder, "tmpfs", MountFlags::empty(), Some(c"mode=0755,size=50%"))
            .doing(|| format!("mounting a tmpfs at {}", folder.display()))?;
        Ok(Self { folder: folder.to_path_buf(), layers: Vec::new() })
    }

    /// The directory.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Adds a stored layer under a name; its directory.
    ///
    /// # Errors
    /// It is no filesystem that can be read.
    pub fn layer(&mut self, name: &str, image: &Path) -> Result<PathBuf> {
        let target = self.folder.join(name);
        fs::create_dir_all(&target)?;
        // Since Linux 6.12 a file can be mounted without a loop device.
        if mount(image, &target, "erofs", MountFlags::RDONLY, None).is_ok() {
            self.layers.push(target.clone());
        } else {
            erofs::tree(image)?.write_to(&target)?;
        }
        Ok(target)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for layer in self.layers.iter().rev().chain([&self.folder]) {
            // What stays mounted, the kernel frees with the process.
            let _ = unmount(layer, UnmountFlags::DETACH);
        }
        let _ = std::fs::remove_dir(&self.folder);
    }
}
