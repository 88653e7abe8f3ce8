//! An erofs read in this process: those that `write` writes, and no others.
//!
//! In: the file of a stored layer, whose digest has been checked. Out: its tree. What files have in them is read when it is asked
//! for, and decompressed by extents; the last extent stays, because packed files come one after the other.

use super::WINDOW;
use super::format::{BLOCK, INODE, InodeRecord, Layout, MAP_HEADER, OPAQUE, SLOT};
use super::parse::{self, Places, StoredExtent};
use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use crate::base::path::RelPath;
use crate::layer::content::Content;
use crate::layer::tree::{Entry, Kind, Tree};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// The tree of a stored layer, as `Tree::settle` would give it of the mounted filesystem.
///
/// # Errors
/// The file cannot be read, or is no filesystem of this program's.
pub fn tree(image: &Path) -> Result<Tree> {
    let what = || format!("reading the filesystem {}", image.display());
    let image = Arc::new(Image::open(image).doing(what)?);
    let mut reading = Reading { entries: BTreeMap::new(), names: HashMap::new(), image };
    let root = reading.image.root;
    reading.add(RelPath::root(), root).doing(what)?;
    Ok(Tree::from_entries(reading.entries))
}

/// A file in a stored layer.
#[derive(Clone)]
pub struct StoredFile {
    image: Arc<Image>,
    number: u64,
    size: u64,
}

impl StoredFile {
    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Writes `length` bytes from `from` on; both must lie in the file.
    ///
    /// # Errors
    /// The filesystem cannot be read, or `out` fails.
    pub fn copy(&self, from: u64, length: u64, out: &mut impl Write) -> Result<()> {
        let inode = self.image.inode(self.number)?;
        self.image.copy(&inode, from, length, out).doing(|| format!("reading a file in {}", self.image.path.display()))
    }
}

impl PartialEq for StoredFile {
    fn eq(&self, other: &Self) -> bool {
        (&self.image.path, self.number) == (&other.image.path, other.number)
    }
}

impl Eq for StoredFile {}

impl std::fmt::Debug for StoredFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes in {}", self.size, self.image.path.display())
    }
}

/// An open filesystem.
struct Image {
    path: PathBuf,
    file: File,
    /// The first byte of inode 0.
    inodes_at: u64,
    root: u64,
    packed: Option<u64>,
    /// The extent that was decompressed last, by where it is stored.
    last: Mutex<Option<(u32, Arc<Vec<u8>>)>>,
}

/// An inode and its first byte.
struct Inode {
    at: u64,
    record: InodeRecord,
}

struct Reading {
    image: Arc<Image>,
    entries: BTreeMap<RelPath, Entry>,
    /// The first name of each file.
    names: HashMap<u64, RelPath>,
}

impl Reading {
    fn add(&mut self, path: RelPath, number: u64) -> Result<()> {
        let inode = self.image.inode(number)?;
        let mut xattrs = self.image.xattrs(&inode)?;
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).map_err(|_| Error::new(format!("{path} is not UTF-8")));
        let InodeRecord { mode, size, uid, gid, mtime, .. } = inode.record;
        let device = inode.record.place.unwrap_or_default();
        let kind = match mode & 0o170_000 {
            0o040_000 => Kind::Directory { opaque: xattrs.remove(OPAQUE).is_some() },
            0o120_000 => Kind::Symlink(text(self.image.bytes(&inode)?)?),
            0o100_000 => match self.names.get(&number) {
                Some(first) => Kind::HardLink(first.clone()),
                None => Kind::File(Content::Stored(StoredFile { image: self.image.clone(), number, size })),
            },
            0o010_000 => Kind::Fifo,
            0o020_000 if device == 0 => Kind::Whiteout,
            kind @ (0o020_000 | 0o060_000) => {
                let (major, minor) = parse::device(device);
                Kind::Device { character: kind == 0o020_000, major, minor }
            }
            _ => return Err(Error::new(format!("{path} is of no known type"))),
        };
        let names = if matches!(kind, Kind::Directory { .. }) {
            parse::directory(&self.image.bytes(&inode)?).ok_or_else(|| Error::new(format!("the directory {path} is damaged")))?
        } else {
            Vec::new()
        };
        match kind {
            Kind::File(_) => drop(self.names.insert(number, path.clone())),
            Kind::HardLink(_) => xattrs.clear(),
            _ => {}
        }
        let entry = Entry { kind, uid, gid, mode: u32::from(mode) & 0o7777, mtime, xattrs };
        self.entries.insert(path.clone(), entry);
        for (name, number) in names {
            if name != "." && name != ".." {
                self.add(path.join(&name)?, number)?;
            }
        }
        Ok(())
    }
}

impl Image {
    fn open(path: &Path) -> Result<Self> {
        let file = fs::open(path)?;
        let mut block = vec![0; BLOCK];
        file.read_exact_at(&mut block, 0).doing(|| "reading its first block")?;
        let Places { inodes_at, root, packed } = parse::superblock(&block).ok_or_else(|| {
            Error::new("it is none, or none that this program writes").next("build the image again with this version")
        })?;
        let inodes_at = u64::from(inodes_at) * BLOCK as u64;
        Ok(Self { path: path.to_path_buf(), file, inodes_at, root, packed, last: Mutex::default() })
    }

    fn read(&self, at: u64, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, at).doing(|| format!("reading {length} bytes from {at} on"))?;
        Ok(bytes)
    }

    fn inode(&self, number: u64) -> Result<Inode> {
        let at = self.inodes_at + number * SLOT as u64;
        let record = parse::inode(&self.read(at, INODE)?);
        Ok(Inode { at, record: record.ok_or_else(|| Error::new(format!("the inode {number} is of no known form")))? })
    }

    fn xattrs(&self, inode: &Inode) -> Result<BTreeMap<String, Vec<u8>>> {
        let bytes = self.read(inode.at + INODE as u64, inode.record.xattrs)?;
        parse::xattrs(&bytes).ok_or_else(|| Error::new("its extended attributes are damaged"))
    }

    /// All that an inode has in it.
    fn bytes(&self, inode: &Inode) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(inode.record.size as usize);
        self.copy(inode, 0, inode.record.size, &mut bytes)?;
        Ok(bytes)
    }

    fn copy(&self, inode: &Inode, from: u64, length: u64, out: &mut impl Write) -> Result<()> {
        let InodeRecord { size, place, xattrs, .. } = inode.record;
        let behind = inode.at + (INODE + xattrs) as u64;
        let in_blocks = match inode.record.layout {
            Layout::Plain => size,
            Layout::Inline => size / BLOCK as u64 * BLOCK as u64,
            Layout::Compressed => return self.copy_compressed(inode, behind.next_multiple_of(8), from, length, out),
        };
        let end = from + length;
        let blocks = u64::from(place.unwrap_or_default()) * BLOCK as u64;
        for (start, stop, at) in [(from, end.min(in_blocks), blocks), (from.max(in_blocks), end, behind.wrapping_sub(in_blocks))]
        {
            let mut start = start;
            while start < stop {
                let part = (stop - start).min(WINDOW as u64);
                out.write_all(&self.read(at.wrapping_add(start), part as usize)?).doing(|| "writing bytes")?;
                start += part;
            }
        }
        Ok(())
    }

    fn copy_compressed(&self, inode: &Inode, map_at: u64, from: u64, length: u64, out: &mut impl Write) -> Result<()> {
        let first = self.read(map_at, 8)?;
        if let Some(start) = parse::fragment(&first) {
            let packed = self.packed.ok_or_else(|| Error::new("it has no packed files"))?;
            return self.copy(&self.inode(packed)?, start + from, length, out);
        }
        // Only as much of the map as is asked for: an extent is found from its head, which is never far.
        let per_extent = (WINDOW / BLOCK) as u64;
        let first = from / BLOCK as u64 / per_extent * per_extent;
        let last = inode.record.size.min((from + length).next_multiple_of(WINDOW as u64)).div_ceil(BLOCK as u64);
        let map = self.read(map_at + MAP_HEADER as u64 + first * 8, (last - first) as usize * 8)?;
        let damaged = || Error::new("the map of a compressed file is damaged");
        let mut at = first * BLOCK as u64;
        for extent in parse::extents(&map).ok_or_else(damaged)? {
            let length_here = ((extent.blocks * BLOCK) as u64).min(inode.record.size - at);
            let (start, stop) = (from.max(at), (from + length).min(at + length_here));
            if start < stop {
                let bytes = self.extent(&extent, length_here as usize)?;
                let part = bytes.get((start - at) as usize..(stop - at) as usize).ok_or_else(damaged)?;
                out.write_all(part).doing(|| "writing bytes")?;
            }
            at += length_here;
        }
        Ok(())
    }

    /// An extent's bytes, at most `length`.
    fn extent(&self, extent: &StoredExtent, length: usize) -> Result<Arc<Vec<u8>>> {
        let panicked = || Error::new("reading a filesystem panicked");
        if let Some((_, bytes)) = self.last.lock().map_err(|_| panicked())?.as_ref().filter(|(at, _)| *at == extent.address) {
            return Ok(bytes.clone());
        }
        let stored = self.read(u64::from(extent.address) * BLOCK as u64, extent.stored * BLOCK)?;
        let bytes = if extent.compressed {
            let frame = stored.iter().position(|byte| *byte != 0).unwrap_or(stored.len());
            zstd::bulk::decompress(&stored[frame..], length).doing(|| "decompressing")?
        } else {
            stored
        };
        let bytes = Arc::new(bytes);
        *self.last.lock().map_err(|_| panicked())? = Some((extent.address, bytes.clone()));
        Ok(bytes)
    }
}
