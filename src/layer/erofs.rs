//! The stored form of a layer: a read-only erofs, written by the `mkfs.erofs` of the locked tools.

use super::sandbox::Sandbox;
use super::tree::Tree;
use crate::base::digest::Digest;
use crate::base::error::{Context, Error, Result};
use std::path::Path;

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all: for the few small files of a node or an overlay.
    None,
    /// lz4: see `docs/decisions/002-layer-filesystem.md` for sizes and times of the others.
    Lz4,
}

/// Options of `mkfs.erofs`, in the order in which they are given. Whoever changes them raises `plan::version::PACKAGES`.
pub fn options(compression: Compression) -> &'static [&'static str] {
    match compression {
        Compression::None => &[],
        Compression::Lz4 => &["-zlz4"],
    }
}

/// The tools that write filesystems: a root of the locked tool packages, entered by namespace.
pub struct Tools<'a> {
    /// The unpacked tools.
    pub root: &'a Path,
}

impl Tools<'_> {
    /// Writes the erofs of a directory to `image`. The filesystem's UUID comes from `id`, its time from `epoch`.
    ///
    /// # Errors
    /// `mkfs.erofs` refuses, or `image` cannot be written.
    pub fn make_erofs(
        &self,
        directory: &Path,
        image: &Path,
        id: &Digest,
        epoch: i64,
        compression: Compression,
        label: &str,
    ) -> Result<()> {
        let folder = image.parent().ok_or_else(|| Error::new("the image has no folder"))?;
        let name = image.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let mut command: Vec<String> =
            ["mkfs.erofs", "--quiet", "-x1", "--preserve-mtime", "--mkfs-time"].map(str::to_string).into();
        command.push(format!("-T{epoch}"));
        command.push(format!("-U{}", uuid_text(id)));
        if !label.is_empty() {
            command.push(format!("-L{label}"));
        }
        command.extend(options(compression).iter().map(|option| (*option).to_string()));
        command.extend([format!("/run/ostack/out/{name}"), "/run/ostack/in".to_string()]);
        Sandbox::new(self.root)
            .bind(directory, "/run/ostack/in")
            .bind_writable(folder, "/run/ostack/out")
            .run(command, b"")
            .map(|_| ())
            .doing(|| format!("writing the filesystem of {}", directory.display()))
    }

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

    /// Writes the erofs of a tree that is in memory.
    ///
    /// # Errors
    /// As [`Self::make_erofs`].
    pub fn make_erofs_of(&self, tree: &Tree, scratch: &Path, image: &Path, id: &Digest, epoch: i64, label: &str) -> Result<()> {
        let folder = tempfile::Builder::new().prefix("tree-").tempdir_in(scratch).doing(|| "creating a scratch folder")?;
        let root = folder.path().join("root");
        tree.write_to(&root)?;
        self.make_erofs(&root, image, id, epoch, Compression::None, label)
    }
}

/// A UUID (version 8, RFC 9562: vendor-made) from a digest's first bytes.
pub(super) fn uuid(id: &Digest) -> [u8; 16] {
    let mut bytes: [u8; 16] = std::array::from_fn(|index| id.bytes()[index]);
    bytes[6] = (bytes[6] & 0x0f) | 0x80;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    bytes
}

/// The same as people and programs write it.
pub(super) fn uuid_text(id: &Digest) -> String {
    let hex: String = uuid(id).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[0..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..32])
}
