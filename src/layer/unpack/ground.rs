//! The root that packages are laid down in: what is there, and making what is missing.

use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use crate::base::path::RelPath;
use crate::layer::marks;
use crate::layer::tree::xattrs;
use std::collections::{BTreeMap, HashSet};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A root: one directory, or an overlayfs's two while it is not mounted.
pub struct Ground {
    /// What is written.
    upper: PathBuf,
    /// What lies under it and is only read.
    lower: Option<PathBuf>,
    /// Directories that are known to be in `upper`.
    made: HashSet<RelPath>,
}

/// What a path is already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing is there.
    Nothing,
    /// A directory.
    Directory,
    /// A file, a link, or the mark of one that was taken away.
    Something,
}

impl Ground {
    /// A root that is one directory.
    pub fn new(root: &Path) -> Self {
        Self { upper: root.to_path_buf(), lower: None, made: HashSet::new() }
    }

    /// `upper` of an overlayfs over `lower`.
    pub fn over(lower: &Path, upper: &Path) -> Self {
        Self { upper: upper.to_path_buf(), lower: Some(lower.to_path_buf()), made: HashSet::new() }
    }

    /// What is at a path. Every directory above it must be a directory of the root, for a link would lead elsewhere.
    ///
    /// # Errors
    /// The root cannot be read.
    pub fn find(&self, path: &RelPath) -> Result<Found> {
        for root in std::iter::once(&self.upper).chain(&self.lower) {
            let place = path.under(root);
            match std::fs::symlink_metadata(&place) {
                Ok(meta) if meta.is_dir() => return Ok(Found::Directory),
                Ok(_) => return Ok(Found::Something),
                // A file in `upper` where `lower` has a directory hides what is in it.
                Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => return Ok(Found::Something),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).doing(|| format!("looking for {}", place.display())),
            }
        }
        Ok(Found::Nothing)
    }

    /// The text of a file of the package tools; empty where there is none.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn text(&self, path: &str) -> Result<String> {
        for root in std::iter::once(&self.upper).chain(&self.lower) {
            let place = root.join(path);
            match std::fs::symlink_metadata(&place) {
                Ok(meta) if meta.file_type().is_char_device() && meta.rdev() == 0 => return Ok(String::new()),
                Ok(_) => return fs::read_text(&place),
                Err(_) => {}
            }
        }
        Ok(String::new())
    }

    /// The numbers of the accounts in `/etc/passwd` or `/etc/group`, by name.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn accounts(&self, path: &str) -> Result<BTreeMap<String, u32>> {
        let text = self.text(path)?;
        let one = |line: &str| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            Some((name.to_string(), fields.nth(1)?.parse().ok()?))
        };
        Ok(text.lines().filter_map(one).collect())
    }

    /// Where a path is written. Its directory must have been made or [opened](Self::open).
    pub fn place(&self, path: &RelPath) -> PathBuf {
        path.under(&self.upper)
    }

    /// Where a path lies in the lower directory, if there is one.
    pub fn below(&self, path: &RelPath) -> Option<PathBuf> {
        self.lower.as_ref().map(|lower| path.under(lower))
    }

    /// Makes sure that a directory of the root is one that can be written in: in an overlayfs it becomes one of the upper
    /// directory, with all that it is in the lower, as the kernel does for whoever writes there.
    ///
    /// # Errors
    /// It is no directory of the root, or cannot be made.
    pub fn open(&mut self, path: &RelPath) -> Result<()> {
        if path.is_root() || self.made.contains(path) {
            return Ok(());
        }
        let place = self.place(path);
        let lower = match (std::fs::symlink_metadata(&place), &self.lower) {
            (Ok(meta), _) if meta.is_dir() => None,
            (Err(error), Some(lower)) if error.kind() == std::io::ErrorKind::NotFound => Some(path.under(lower)),
            _ => return Err(Error::new(format!("{path} is no directory of the root"))),
        };
        if let Some(lower) = lower {
            self.open(&path.parent().unwrap_or_default())?;
            copy_directory(&lower, &place).doing(|| format!("opening {path}"))?;
        }
        self.made.insert(path.clone());
        Ok(())
    }

    /// Remembers a directory that was made.
    pub fn has_made(&mut self, path: &RelPath) {
        self.made.insert(path.clone());
    }
}

/// A directory with the owner, mode and attributes of another.
fn copy_directory(from: &Path, to: &Path) -> Result<()> {
    let what = || format!("copying the directory {}", from.display());
    let meta = std::fs::symlink_metadata(from).doing(what)?;
    if !meta.is_dir() {
        return Err(Error::new(format!("{} is no directory", from.display())));
    }
    std::fs::create_dir(to).doing(what)?;
    std::os::unix::fs::chown(to, Some(meta.uid()), Some(meta.gid())).doing(what)?;
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(meta.mode() & 0o7777)).doing(what)?;
    for (name, value) in xattrs(from)?.into_iter().filter(|(name, _)| !marks::is_note(name)) {
        rustix::fs::lsetxattr(to, name.as_str(), &value, rustix::fs::XattrFlags::empty()).doing(what)?;
    }
    Ok(())
}
