//! A root tree as a value: every path with its type, owner, mode, time and content, sorted.
//!
//! Equal trees give equal tar streams and so equal digests. A tree comes from an overlay's rendered files or
//! from a directory that package tools have filled ([`Tree::settle`]).

pub use super::content::Content;
use super::marks;
use super::owner;
use super::times::Times;
use crate::base::error::{Context, Error, Result};
use crate::base::path::RelPath;
use crate::plan::files::{FileKind, FileSet};
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::btree_map::Entry as Slot;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// A root tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree(BTreeMap<RelPath, Entry>);

/// One path of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Owner's number.
    pub uid: u32,
    /// Group's number.
    pub gid: u32,
    /// Permission bits, with set-uid, set-gid and sticky.
    pub mode: u32,
    /// Modification time in seconds since 1970.
    pub mtime: i64,
    /// Extended attributes by full name.
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

/// What a path is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File(Content),
    /// Another name of a file that sorts before it.
    HardLink(RelPath),
    /// A directory; `opaque` hides what lower layers have in it.
    Directory {
        /// Whether lower layers' entries are hidden.
        opaque: bool,
    },
    /// A symbolic link and its target.
    Symlink(String),
    /// A device (character if `character`) with its numbers.
    Device {
        /// Character or block device.
        character: bool,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// Hides the same path of lower layers.
    Whiteout,
}

impl Entry {
    /// A root-owned entry.
    pub fn new(kind: Kind, mode: u32, mtime: i64) -> Self {
        Self { kind, uid: 0, gid: 0, mode, mtime, xattrs: BTreeMap::new() }
    }

    /// The same with another owner.
    #[must_use]
    pub fn owned_by(mut self, uid: u32, gid: u32) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }
}

impl Tree {
    /// A tree that has only its root directory, root:root 0755.
    pub fn new(mtime: i64) -> Self {
        let root = Entry::new(Kind::Directory { opaque: false }, 0o755, mtime);
        Self(BTreeMap::from([(RelPath::root(), root)]))
    }

    /// The tree of an overlay's or a node's rendered files.
    pub fn of_files(files: &FileSet, mtime: i64) -> Self {
        let mut tree = Self::new(mtime);
        for (path, file) in files {
            let kind = match &file.kind {
                FileKind::Regular(bytes) => Kind::File(Content::Bytes(bytes.clone())),
                FileKind::Link(target) => Kind::Symlink(target.clone()),
                FileKind::Directory => Kind::Directory { opaque: false },
            };
            tree.insert(path.clone(), Entry::new(kind, file.mode, mtime).owned_by(file.uid, file.gid));
        }
        tree
    }

    /// The same tree with nothing but these files: for a root whose directories have owners and modes of their own.
    #[must_use]
    pub fn only(mut self, files: &FileSet) -> Self {
        self.0.retain(|path, _| files.contains_key(path));
        self
    }

    /// The same tree one directory deeper: everything lies below `folder`.
    ///
    /// # Errors
    /// `folder` is no path inside a root.
    pub fn below(self, folder: &RelPath, mtime: i64) -> Result<Self> {
        let mut tree = Self::new(mtime);
        for (path, entry) in self.0 {
            let path = if path.is_root() { folder.clone() } else { format!("{}/{}", folder.as_str(), path.as_str()).parse()? };
            tree.insert(path, entry);
        }
        Ok(tree)
    }

    /// Adds an entry, and the directories above it (root:root 0755) where they are missing.
    /// A directory may be added again, with other attributes; anything else replaces.
    pub fn insert(&mut self, path: RelPath, entry: Entry) {
        let mut above = path.parent();
        while let Some(parent) = above {
            above = parent.parent();
            if let Slot::Vacant(slot) = self.0.entry(parent) {
                slot.insert(Entry::new(Kind::Directory { opaque: false }, 0o755, entry.mtime));
            }
        }
        self.0.insert(path, entry);
    }

    /// The entries, directories before what is in them.
    pub fn iter(&self) -> impl Iterator<Item = (&RelPath, &Entry)> {
        self.0.iter()
    }

    /// One entry.
    pub fn get(&self, path: &RelPath) -> Option<&Entry> {
        self.0.get(path)
    }

    /// The tree of these entries; each one's directory must be among them.
    pub(super) fn from_entries(entries: BTreeMap<RelPath, Entry>) -> Self {
        Self(entries)
    }

    /// Its entries.
    pub(super) fn into_entries(self) -> BTreeMap<RelPath, Entry> {
        self.0
    }

    /// How many entries there are, the root included.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nothing but the root.
    pub fn is_empty(&self) -> bool {
        self.0.len() <= 1
    }

    /// Settles a directory that package tools have filled, and reads it: files get the times that `times` gives them,
    /// because what the build itself wrote must not show its clock, and overlayfs's notes about lower layers go.
    /// Its other marks become whiteouts: 0:0 devices are some, and a directory that hides all that `lower` has in it gets one for each
    /// (overlayfs makes every new directory such a one, whether there is anything to hide or not).
    /// The directory afterwards is what [`Tree::write_to`] would make of the tree.
    ///
    /// # Errors
    /// A path cannot be read or settled, is not UTF-8, or is a socket.
    pub fn settle(root: &Path, lower: Option<&Path>, times: &Times) -> Result<Self> {
        if let Some(lower) = lower {
            marks::spell_out(lower, root, times)?;
        }
        let mut tree = BTreeMap::new();
        let mut inodes: HashMap<(u64, u64), RelPath> = HashMap::new();
        // The walk's order is RelPath's own (a directory, then its entries by name), so a hard link points at the first of its names.
        for found in walkdir::WalkDir::new(root).sort_by_file_name() {
            let found = found.doing(|| format!("reading the tree {}", root.display()))?;
            let inside = found.path().strip_prefix(root).unwrap_or(Path::new(""));
            let Some(text) = inside.to_str() else {
                return Err(Error::new(format!("the name {} is not UTF-8", inside.display())));
            };
            let path: RelPath = text.parse()?;
            let meta = std::fs::symlink_metadata(found.path()).doing(|| format!("reading {}", found.path().display()))?;
            let entry = entry_of(found.path(), &path, &meta, times, &mut inodes)?;
            tree.insert(path, entry);
        }
        Ok(Self(tree))
    }

    /// Writes the tree into an empty directory, as root.
    ///
    /// # Errors
    /// Something cannot be written or owned.
    pub fn write_to(&self, root: &Path) -> Result<()> {
        for (path, entry) in self.iter() {
            let (target, what) = (path.under(root), || format!("writing {path}"));
            if let Kind::File(content) = &entry.kind {
                content.copy_to(&mut std::fs::File::create(&target).doing(what)?).doing(what)?;
            }
            write_entry(&target, root, entry).doing(what)?;
        }
        // Writing into a directory changes its time, so directories get theirs at the end, deepest first.
        for (path, entry) in self.0.iter().rev() {
            if matches!(entry.kind, Kind::Directory { .. }) {
                set_mtime(&path.under(root), entry.mtime).doing(|| format!("setting the time of {path}"))?;
            }
        }
        Ok(())
    }
}

fn entry_of(
    file: &Path,
    path: &RelPath,
    meta: &std::fs::Metadata,
    times: &Times,
    inodes: &mut HashMap<(u64, u64), RelPath>,
) -> Result<Entry> {
    let kind = meta.file_type();
    let rdev = meta.rdev();
    let mut xattrs = xattrs(file)?;
    let (uid, gid) = owner::take(&mut xattrs, meta.mode()).unwrap_or((meta.uid(), meta.gid()));
    let kind = if kind.is_dir() {
        Kind::Directory { opaque: marks::take_opaque(&mut xattrs) }
    } else if kind.is_symlink() {
        let target = std::fs::read_link(file).doing(|| format!("reading the link {path}"))?;
        Kind::Symlink(target.to_str().ok_or_else(|| Error::new(format!("the link {path} is not UTF-8")))?.to_string())
    } else if kind.is_char_device() && rdev == 0 {
        Kind::Whiteout
    } else if kind.is_char_device() || kind.is_block_device() {
        Kind::Device { character: kind.is_char_device(), major: rustix::fs::major(rdev), minor: rustix::fs::minor(rdev) }
    } else if kind.is_fifo() {
        Kind::Fifo
    } else if kind.is_file() {
        match inodes.get(&(meta.dev(), meta.ino())) {
            Some(first) => Kind::HardLink(first.clone()),
            None => {
                if meta.nlink() > 1 {
                    inodes.insert((meta.dev(), meta.ino()), path.clone());
                }
                Kind::File(Content::OnDisk(file.to_path_buf(), meta.len()))
            }
        }
    } else {
        return Err(Error::new(format!("{path} is a socket, which no layer can hold"))
            .next("name it under [clean] remove in the release's file"));
    };
    for name in xattrs.keys().filter(|name| marks::is_note(name)) {
        rustix::fs::lremovexattr(file, name.as_str()).doing(|| format!("removing {name} of {path}"))?;
    }
    xattrs.retain(|name, _| !marks::is_note(name));
    let mtime = times.of(meta);
    if meta.mtime() != mtime || (mtime == times.epoch() && meta.mtime_nsec() > 0) {
        set_mtime(file, mtime).doing(|| format!("setting the time of {path}"))?;
    }
    if matches!(kind, Kind::HardLink(_)) {
        xattrs.clear();
    }
    let mode = if matches!(kind, Kind::Symlink(_)) { 0o777 } else { meta.mode() & 0o7777 };
    Ok(Entry { kind, uid, gid, mode, mtime, xattrs })
}

/// A path's extended attributes, overlayfs's notes included; none where the filesystem has none.
pub(super) fn xattrs(file: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    use rustix::fs::{lgetxattr, llistxattr};
    let what = || format!("reading the extended attributes of {}", file.display());
    let mut names = [0u8; 4096];
    let length = match llistxattr(file, &mut names[..]) {
        Ok(length) => length,
        Err(rustix::io::Errno::NOTSUP) => 0,
        Err(error) => return Err(error).doing(what),
    };
    let mut xattrs = BTreeMap::new();
    for name in names[..length].split(|&c| c == 0).filter(|name| !name.is_empty()) {
        let Ok(name) = std::str::from_utf8(name) else { continue };
        let mut value = vec![0u8; 65536];
        let size = lgetxattr(file, name, &mut value[..]).doing(what)?;
        value.truncate(size);
        xattrs.insert(name.to_string(), value);
    }
    Ok(xattrs)
}

/// Makes what has no content, and gives everything its attributes.
fn write_entry(target: &Path, root: &Path, entry: &Entry) -> std::io::Result<()> {
    use rustix::fs::{FileType, Mode, XattrFlags};
    match &entry.kind {
        Kind::Directory { .. } => {
            std::fs::create_dir(target).or_else(|error| if target.is_dir() { Ok(()) } else { Err(error) })?
        }
        Kind::File(_) => {}
        Kind::HardLink(first) => return std::fs::hard_link(first.under(root), target),
        Kind::Symlink(to) => std::os::unix::fs::symlink(to, target)?,
        Kind::Fifo => rustix::fs::mknodat(rustix::fs::CWD, target, FileType::Fifo, Mode::RUSR, 0)?,
        Kind::Whiteout => rustix::fs::mknodat(rustix::fs::CWD, target, FileType::CharacterDevice, Mode::RUSR, 0)?,
        Kind::Device { character, major, minor } => {
            let kind = if *character { FileType::CharacterDevice } else { FileType::BlockDevice };
            rustix::fs::mknodat(rustix::fs::CWD, target, kind, Mode::RUSR, rustix::fs::makedev(*major, *minor))?;
        }
    }
    owner::give(target, entry.uid, entry.gid)?;
    if !matches!(entry.kind, Kind::Symlink(_)) {
        rustix::fs::chmod(target, Mode::from_raw_mode(entry.mode))?;
    }
    for (name, value) in &entry.xattrs {
        owner::set_attribute(target, name, value)?;
    }
    if matches!(entry.kind, Kind::Directory { opaque: true }) {
        rustix::fs::lsetxattr(target, "trusted.overlay.opaque", b"y", XattrFlags::empty())?;
    }
    set_mtime(target, entry.mtime)
}

/// Sets a path's own time, also a symbolic link's.
pub(super) fn set_mtime(target: &Path, seconds: i64) -> std::io::Result<()> {
    use rustix::fs::{AtFlags, Timespec, Timestamps, utimensat};
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(utimensat(rustix::fs::CWD, target, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}
