//! Secrets into the node's files, before any service starts.
//!
//! In: the image's layers and the node's own files, which have placeholders, and the values that the seed brought. Out: in the
//! root, every file that has placeholders is there with the values in their places, with the owner and the mode that the layer
//! gives it. What must hold: nobody reads a file who may not, not even for a moment; a file is replaced whole; either every
//! file can be filled or none is touched.
//!
//! The text is read from the layers and not from the root: there it may be filled already, and below a state path it is what an
//! earlier boot left. So the same can be done again at any time, and a secret that was drawn anew arrives with the next seed.
//!
//! ```text
//! /run/ostack/secrets.json    0600, tmpfs   the node's values, as the seed has them
//! ```
//!
//! The values stay there, for root alone, who can read them in the files anyway, so that `ostack-node activate` can fill a
//! file again that somebody broke.

use crate::base::bundle::SEED_SECRETS;
use crate::base::error::{Context, Error, Result};
use crate::base::fs::{read, read_text, sorted_dir};
use crate::base::path::RelPath;
use crate::model::placeholder::{self, LISTS, Values};
use crate::node::console;
use crate::node::stack::{self, RUN};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid, fchmod, fchown, mkdirat, open, openat, renameat, unlinkat};
use std::collections::BTreeSet;
use std::fs::Metadata;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A file in the making. Its name is fixed, so that one that a crash left is found and replaced.
const NEW: &str = ".ostack-secrets.new";

/// `ostack-node activate`, on a running node.
///
/// # Errors
/// As [`fill`]'s.
pub fn run() -> Result<()> {
    let count = fill(&stack::mounted()?, Path::new("/"), &values()?)?;
    console::print(&format!("{count} files filled"));
    Ok(())
}

/// `ostack-node fill ROOT OWN`: fills the files of a root that an installer has made of packages or of an archive. `own` has the node's
/// own files once more. The values come as JSON by standard input, so that they are in no file but those that they are for.
///
/// # Errors
/// As [`fill`]'s, or standard input has something else.
pub fn run_in(root: &Path, own: &Path) -> Result<()> {
    let values = std::io::read_to_string(std::io::stdin()).doing(|| "reading standard input")?;
    // serde's message could quote a value.
    let values = serde_json::from_str(&values).map_err(|_| Error::new("standard input has no values of secrets"))?;
    fill(&[own.to_path_buf(), root.to_path_buf()], root, &values).map(|_| ())
}

/// The values that the seed brought.
///
/// # Errors
/// The file cannot be read, or has another form.
pub fn values() -> Result<Values> {
    values_of(&Path::new(RUN).join(SEED_SECRETS))
}

/// The values in a file; none where there is no file.
///
/// # Errors
/// As [`values`]'s.
pub fn values_of(path: &Path) -> Result<Values> {
    if !path.exists() {
        return Ok(Values::default());
    }
    // serde's message could quote a value.
    serde_json::from_slice(&read(path)?)
        .map_err(|_| Error::new("these are no values of secrets").at(path, None).next("make the seed again"))
}

/// Fills every file of `layers`, the topmost one first, that has placeholders, in `root`; says how many that were.
///
/// # Errors
/// A file that a layer lists is not there, a placeholder has no value, or a file cannot be written.
pub fn fill(layers: &[PathBuf], root: &Path, values: &Values) -> Result<usize> {
    let mut filled = Vec::new();
    for path in listed(layers)? {
        let (source, meta) = topmost(layers, &path).ok_or_else(|| {
            Error::new(format!("{path} should have secrets and is in no layer")).next("write the image to this machine again")
        })?;
        // A later layer may have put a link there, or a file without secrets.
        if !meta.is_file() {
            continue;
        }
        let bytes = read(&source)?;
        if placeholder::references(&bytes).is_empty() {
            continue;
        }
        let bytes = placeholder::fill(&bytes, values).map_err(|error| {
            error.doing(format!("filling {path}")).next("make the node's seed again, with: ostack-image seed NODE, and attach it")
        })?;
        filled.push((path, bytes, meta));
    }
    for (path, bytes, meta) in &filled {
        write(layers, root, path, bytes, meta).map_err(|error| error.doing(format!("filling {path}")))?;
    }
    Ok(filled.len())
}

/// What may have placeholders: the files that layers list, and all of the node's own, which is the topmost layer.
fn listed(layers: &[PathBuf]) -> Result<BTreeSet<RelPath>> {
    let mut paths = BTreeSet::new();
    for layer in layers {
        for list in sorted_dir(&layer.join(LISTS))? {
            for line in read_text(&list)?.lines() {
                paths.insert(line.parse::<RelPath>().map_err(|error| error.at(&list, None))?);
            }
        }
    }
    let Some(node) = layers.first() else { return Ok(paths) };
    for entry in walkdir::WalkDir::new(node) {
        let entry = entry.doing(|| "reading the node's files")?;
        if let Some(path) = entry.path().strip_prefix(node).ok().and_then(Path::to_str).filter(|_| entry.file_type().is_file()) {
            paths.insert(path.parse()?);
        }
    }
    Ok(paths)
}

/// What the topmost layer that has the path has there.
fn topmost(layers: &[PathBuf], path: &RelPath) -> Option<(PathBuf, Metadata)> {
    layers.iter().map(|layer| path.under(layer)).find_map(|file| {
        let meta = std::fs::symlink_metadata(&file).ok()?;
        Some((file, meta))
    })
}

fn write(layers: &[PathBuf], root: &Path, path: &RelPath, bytes: &[u8], meta: &Metadata) -> Result<()> {
    let folder = folder(layers, root, path)?;
    // What a crash left; mostly it is not there.
    let _ = unlinkat(&folder, NEW, AtFlags::empty());
    let create = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let new = openat(&folder, NEW, create, Mode::RUSR | Mode::WUSR).doing(|| "making the file")?;
    let mut new = std::fs::File::from(new);
    new.write_all(bytes).doing(|| "writing the file")?;
    // The owner first: a mode that lets the group read must not meet another group.
    attributes(&new, meta)?;
    new.sync_all().doing(|| "writing the file")?;
    renameat(&folder, NEW, &folder, path.name()).doing(|| "putting the file into its place")
}

fn attributes(file: impl std::os::fd::AsFd, meta: &Metadata) -> Result<()> {
    fchown(&file, Some(Uid::from_raw(meta.uid())), Some(Gid::from_raw(meta.gid()))).doing(|| "setting the owner")?;
    fchmod(&file, Mode::from_raw_mode(meta.mode() & 0o7777)).doing(|| "setting the mode")
}

/// Opens the folder that `path` lies in, one part after the other and never through a link: below a state path a service could
/// have put one, and it would lead root anywhere. A part that is missing, because the state is older than the image, is made as
/// the layers have it.
fn folder(layers: &[PathBuf], root: &Path, path: &RelPath) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at = open(root, flags, Mode::empty()).doing(|| format!("opening {}", root.display()))?;
    let mut above: Vec<RelPath> = std::iter::successors(path.parent(), RelPath::parent).filter(|path| !path.is_root()).collect();
    above.reverse();
    for part in &above {
        at = match openat(&at, part.name(), flags, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) => {
                mkdirat(&at, part.name(), Mode::RWXU).doing(|| format!("making {part}"))?;
                let new = openat(&at, part.name(), flags, Mode::empty()).doing(|| format!("opening {part}"))?;
                let meta = layers.iter().find_map(|layer| std::fs::symlink_metadata(part.under(layer)).ok());
                if let Some(meta) = meta {
                    attributes(&new, &meta)?;
                }
                new
            }
            Err(rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR) => {
                return Err(Error::new(format!("{part} is no folder of its own: a link would lead elsewhere"))
                    .next("declare the path that the link leads to, or remove the link"));
            }
            other => other.doing(|| format!("opening {part}"))?,
        };
    }
    Ok(at)
}

#[cfg(test)]
mod tests;
