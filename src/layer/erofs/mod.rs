//! The stored form of a layer: a read-only erofs, written here; see `docs/decisions/002-layer-filesystem.md`.
//!
//! `format` the records of the disk format · `pack` where data go, compressed or not · `write` the whole. What reads it is the
//! kernel; or, where that cannot, the `fsck.erofs` of the locked tools.

mod format;
mod pack;
#[cfg(test)]
mod tests;
mod write;

pub use write::{Spec, image, write};

use super::sandbox::Sandbox;
use crate::base::digest::Digest;
use crate::base::error::{Context, Error, Result};
use std::path::Path;

/// The largest part of a file that is compressed at once, which is what a reader needs memory for.
const WINDOW: usize = 512 * 1024;

/// The tools that read filesystems: a root of the locked tool packages, entered by namespace.
pub struct Tools<'a> {
    /// The unpacked tools.
    pub root: &'a Path,
}

impl Tools<'_> {
    /// Unpacks an erofs into an empty directory, with owners, modes, times and attributes; but without file capabilities:
    /// `fsck.erofs` sets them before it changes owners, by which the kernel takes them away.
    ///
    /// # Errors
    /// The filesystem is damaged, or the directory cannot be written.
    pub fn extract_erofs(&self, image: &Path, directory: &Path) -> Result<()> {
        let folder = image.parent().ok_or_else(|| Error::new("the image has no folder"))?;
        let name = image.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let image = format!("/run/ostack/in/{name}");
        Sandbox::new(self.root)
            .bind(folder, "/run/ostack/in")
            .bind_writable(directory, "/run/ostack/out")
            .run(["fsck.erofs", "--extract=/run/ostack/out", "--overwrite", "--preserve", "--xattrs", &image], b"")
            .map(|_| ())
            .doing(|| format!("unpacking the filesystem {name}"))
    }
}

/// A UUID (version 8, RFC 9562: vendor-made) from a digest's first bytes.
fn uuid(id: &Digest) -> [u8; 16] {
    let mut bytes: [u8; 16] = std::array::from_fn(|index| id.bytes()[index]);
    bytes[6] = (bytes[6] & 0x0f) | 0x80;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    bytes
}
