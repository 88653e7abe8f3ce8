//! Artifacts: an image as a file that a cloud, a hypervisor or a disk takes.
//!
//! An artifact is a pure function of the manifest, the disk's settings and the tools, so it lies in no store: it is
//! written straight to the output folder, by rename, with a note beside it of what it was made from.

use super::disk::{self, Disk};
use super::extent;
use super::grub::MkImage;
use super::manifest::Image;
use super::qcow2;
use super::step::{Runner, Watch, output};
use crate::base::bundle::IMAGE_ARGUMENT;
use crate::base::digest::Digest;
use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use crate::layer::sandbox::Sandbox;
use crate::model::disk::DiskSpec;
use crate::plan::{Key, version};
use crate::store::{Record, Store};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A file format of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// qcow2 version 3, without backing or data file.
    Qcow2,
    /// The disk's bytes, with a `.sha256` file beside it.
    Raw,
    /// No disk, but the root that the layers are: for installers that unpack one, and for containers.
    Root,
}

impl Format {
    /// The format's name, which is also the file's suffix.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
            Self::Root => "tar.gz",
        }
    }
}

/// A file that was made or found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Artifact {
    /// `qcow2`, `raw`, `tar.gz` or `iso`.
    pub format: String,
    /// Where it is.
    pub path: PathBuf,
    /// sha256 of the file.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// What the note beside an artifact says. Time and inode only tell whether somebody touched the file since.
#[derive(Serialize, Deserialize, PartialEq, Eq)]
struct Note {
    key: Digest,
    digest: Digest,
    size: u64,
    mtime: (i64, i64),
    inode: u64,
}

/// What a disk is made from.
pub struct Maker<'a> {
    /// The store that has the image.
    pub store: &'a Store,
    /// The image.
    pub image: &'a Image,
    /// The disk's settings.
    pub spec: &'a DiskSpec,
    /// The key of the tools.
    pub tools_key: Digest,
    /// Who hears of steps.
    pub watch: &'a dyn Watch,
}

impl Maker<'_> {
    fn key(&self, format: Format) -> Key {
        Key::new("disk", version::DISK)
            .with("image", self.image.manifest.digest)
            .with("format", format.as_str())
            .with("size", self.spec.size)
            .with("system partition", self.spec.system)
            .with("menu timeout", self.spec.menu_timeout)
            .with("tools", self.tools_key)
    }

    /// The artifact in the output folder, if it is still the one that was made from these inputs.
    pub fn found(&self, out: &Path, format: Format) -> Option<Artifact> {
        let path = self.path(out, format);
        let note: Note = serde_json::from_slice(&std::fs::read(note_path(&path)).ok()?).ok()?;
        let now = note_of(&path, note.key, note.digest).ok()?;
        (note == now && note.key == self.key(format).digest()).then(|| Artifact {
            format: format.as_str().to_string(),
            path,
            digest: note.digest,
            size: note.size,
        })
    }

    fn path(&self, out: &Path, format: Format) -> PathBuf {
        out.join(format!("{}.{}", self.image.role, format.as_str()))
    }

    /// Writes the artifact. `tools` is the root that has GRUB.
    ///
    /// # Errors
    /// A blob of the image is damaged, the image is too large for the disk, or the output folder cannot be written;
    /// an older artifact is then untouched.
    pub fn make(&self, out: &Path, format: Format, tools: &Path) -> Result<Artifact> {
        let path = self.path(out, format);
        let image = self.image;
        let layers = self.layers();
        let new = out.join(format!("{}.{}.new", image.role, format.as_str()));
        let write = || match format {
            Format::Root => super::archive::write(&layers, &new),
            Format::Qcow2 | Format::Raw => {
                let (extents, size) = self.with_disk(tools, &layers, Some(self.spec.size), disk::layout)?;
                let (extents, size) = if format == Format::Qcow2 { qcow2::layout(&extents, size)? } else { (extents, size) };
                extent::write(&new, &extents, size)
            }
        };
        // A damaged layer must not reach a disk: its digest is checked while the other core hashes and copies.
        let digest = std::thread::scope(|scope| {
            let check = scope.spawn(|| layers.iter().try_for_each(|layer| self.store.verify_again(&layer.digest)));
            let digest = write()?;
            check.join().map_err(|_| Error::new("checking layers panicked"))??;
            Ok::<_, Error>(digest)
        });
        let digest = match digest {
            Ok(digest) => digest,
            Err(error) => {
                let _ = std::fs::remove_file(&new);
                return Err(error);
            }
        };
        std::fs::rename(&new, &path).doing(|| format!("writing {}", path.display()))?;
        if format == Format::Raw {
            let line = format!("{}  {}.raw\n", digest.hex(), image.role);
            fs::write_atomic(&path.with_extension("raw.sha256"), line.as_bytes())?;
        }
        let note = note_of(&path, self.key(format).digest(), digest)?;
        fs::write_atomic(&note_path(&path), &serde_json::to_vec(&note).doing(|| "writing the artifact's note")?)?;
        Ok(Artifact { format: format.as_str().to_string(), size: note.size, path, digest })
    }

    /// What `grub-mkimage` makes, which is the same for every image: made once per version of GRUB.
    fn grub(&self, tools: &Path, request: &MkImage) -> Result<Vec<u8>> {
        let key = Key::new(&format!("grub {}", request.format), version::GRUB)
            .with("tools", self.tools_key)
            .with("prefix", &request.prefix)
            .with("configuration", &request.config)
            .with("modules", request.modules.join(" "));
        let record = Runner { store: self.store, watch: self.watch }.run(&key, || {
            let core = mkimage(tools, &self.store.scratch(), request)?;
            let outputs = BTreeMap::from([("core".to_string(), self.store.put_bytes(&core)?)]);
            Ok(Record { outputs, ..Record::default() })
        })?;
        self.store.read(&output(&record, "core")?.digest)
    }

    /// The image's layers as files of the store.
    pub fn layers(&self) -> Vec<disk::Layer> {
        let layer = |layer: &super::manifest::Layer| disk::Layer {
            name: layer.name.clone(),
            digest: layer.blob.digest,
            path: self.store.path(&layer.blob.digest),
            size: layer.blob.size,
        };
        self.image.layers.iter().map(layer).collect()
    }

    /// The kernel's command line, with the image's digest.
    pub fn command_line(&self) -> String {
        format!("{IMAGE_ARGUMENT}={} {}", self.image.manifest.digest, self.image.command_line).trim().to_string()
    }

    /// Does something with the disk of `size` bytes, or the smallest. `tools` is the root that has GRUB.
    ///
    /// # Errors
    /// The kernel or the initrd is damaged, GRUB cannot be made, or `then` fails.
    pub fn with_disk<R>(
        &self,
        tools: &Path,
        layers: &[disk::Layer],
        size: Option<u64>,
        then: impl FnOnce(&Disk) -> Result<R>,
    ) -> Result<R> {
        let image = self.image;
        let boot_img = fs::read(&tools.join("usr/lib/grub/i386-pc/boot.img"))?;
        let mkimage = |request: &MkImage| self.grub(tools, request);
        then(&Disk {
            image: image.manifest.digest,
            role: &image.role,
            release: &image.release,
            layers,
            state: &image.state,
            kernel: &self.store.read(&image.kernel.digest)?,
            initrd: &self.store.read(&image.initrd.digest)?,
            cmdline: &self.command_line(),
            timeout: self.spec.menu_timeout,
            boot_img: &boot_img,
            mkimage: &mkimage,
            reserve: self.spec.system,
            size,
        })
    }
}

fn note_path(artifact: &Path) -> PathBuf {
    let name = artifact.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    artifact.with_file_name(format!(".{name}.json"))
}

fn note_of(path: &Path, key: Digest, digest: Digest) -> Result<Note> {
    let meta = path.metadata().doing(|| format!("reading {}", path.display()))?;
    Ok(Note { key, digest, size: meta.len(), mtime: (meta.mtime(), meta.mtime_nsec()), inode: meta.ino() })
}

/// Runs the locked `grub-mkimage`.
///
/// # Errors
/// It fails, in its own words.
pub fn mkimage(tools: &Path, scratch: &Path, request: &MkImage) -> Result<Vec<u8>> {
    let folder = tempfile::tempdir_in(scratch).doing(|| "creating a scratch folder")?;
    std::fs::write(folder.path().join("early.cfg"), &request.config).doing(|| "writing GRUB's early configuration")?;
    let mut command = vec![
        "grub-mkimage".to_string(),
        format!("--format={}", request.format),
        format!("--prefix={}", request.prefix),
        "--config=/run/ostack/out/early.cfg".to_string(),
        "--output=/run/ostack/out/core".to_string(),
    ];
    command.extend(request.modules.iter().cloned());
    Sandbox::new(tools).bind_writable(folder.path(), "/run/ostack/out").run(command, b"")?;
    fs::read(&folder.path().join("core"))
}
