//! An erofs written in this process.
//!
//! In: a tree. Out: the bytes of the filesystem. Equal trees give equal bytes, on any number of cores.
//!
//! ```text
//! block 0                      1 …                      n …
//! +---+------------+----------+------------------------+-----------------------------+----------------------+
//! | 0 | superblock | settings | data, as `pack` has it | inodes, each with the end   | blocks of            |
//! |   |            |          |                        | or the map of its data      | large directories    |
//! +---+------------+----------+------------------------+-----------------------------+----------------------+
//! ```
//!
//! Without any data the inodes begin in block 0. Every inode is of the long form (64 bytes, own time). Data that follow an
//! inode cross no border of blocks. A directory's data are blocks of entries, sorted by name over all blocks.

use super::WINDOW;
use super::format::{self, BLOCK, FIRST_INODE, INODE, InodeRecord, Layout, MAP_HEADER, SLOT, SUPERBLOCK, Superblock, put};
use super::pack::{self, Stored};
use crate::base::digest::Digest;
use crate::base::error::{Context, Error, Result};
use crate::layer::tree::{Content, Entry, Kind, Tree};
use crate::model::release::Compression;
use std::collections::HashMap;
use std::io::{Cursor, Seek, SeekFrom, Write};

/// Where inodes begin in a block of their own: the number 0 is no inode's.
const FIRST_IN_BLOCK: usize = 4 * SLOT;

/// What a filesystem is besides its tree.
pub struct Spec<'a> {
    /// Its UUID comes from here.
    pub id: &'a Digest,
    /// Its time, seconds since 1970.
    pub epoch: i64,
    /// Its label: 16 bytes at most.
    pub label: &'a str,
    /// How its files are kept.
    pub compression: Compression,
}

/// One inode on its way to the image.
pub(super) struct Inode<'a> {
    pub entry: &'a Entry,
    /// A directory's entries by name, `.` and `..` among them, each with the position of its inode in the list.
    names: Vec<(&'a str, usize)>,
    links: u32,
    xattrs: Vec<u8>,
    /// Bytes of data.
    pub size: u64,
    pub stored: Stored,
    /// Where the inode stands, counted from the first block of inodes.
    at: usize,
}

/// The bytes of an erofs with this tree.
///
/// # Errors
/// As [`write`].
pub fn image(tree: &Tree, spec: &Spec<'_>) -> Result<Vec<u8>> {
    let mut image = Cursor::new(Vec::new());
    write(tree, spec, &mut image)?;
    Ok(image.into_inner())
}

/// Writes an erofs with this tree: whole blocks.
///
/// # Errors
/// A file of the tree cannot be read any more or has another size; an extended attribute is of a kind that the format does not
/// have; `out` fails.
pub fn write(tree: &Tree, spec: &Spec<'_>, out: &mut (impl Write + Seek)) -> Result<()> {
    let what = || "writing a filesystem";
    let mut inodes = inodes(tree)?;
    out.write_all(&[0; BLOCK]).doing(what)?;
    let (data, packed) = pack::data(&mut inodes, spec.compression, out)?;
    let of_packed = Entry::new(Kind::File(Content::Bytes(Vec::new())), 0o600, spec.epoch);
    let packed = packed.map(|packed| {
        inodes.push(Inode::new(&of_packed, packed.size, packed.stored));
        inodes.len() - 1
    });
    // Every inode's place is known before any is written, because directories name them by it.
    let inodes_at = if data == 0 { 0 } else { 1 + data };
    let mut end = if data == 0 { FIRST_INODE } else { FIRST_IN_BLOCK };
    for inode in &mut inodes {
        inode.at = inode.place(end);
        end = inode.at + inode.length();
    }
    let mut table = vec![0; end.next_multiple_of(BLOCK)];
    let mut directories: Vec<Vec<u8>> = Vec::new();
    let mut block = inodes_at + table.len() / BLOCK;
    for (position, inode) in inodes.iter().enumerate() {
        let mut behind = inode.behind();
        let mut place = inode.block();
        if !inode.names.is_empty() {
            let names = inode.names.iter().map(|(name, at)| (*name, inodes[*at].number(), inodes[*at].kind().0));
            let mut bytes = format::directory(names);
            behind = bytes.split_off(bytes.len() - inode.tail());
            bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
            place = (!bytes.is_empty()).then_some(block as u32);
            block += bytes.len() / BLOCK;
            directories.push(bytes);
        }
        put(&mut table, inode.at, &inode.record(position, place).bytes());
        put(&mut table, inode.at + INODE, &inode.xattrs);
        put(&mut table, inode.behind_at(inode.at), &behind);
    }
    let number = |position: usize| inodes[position].number();
    let superblock = Superblock {
        id: spec.id,
        epoch: spec.epoch,
        label: spec.label,
        inodes: inodes.len(),
        blocks: block,
        inodes_at,
        root: number(0),
        packed: packed.map(number),
        window: WINDOW,
    };
    let mut first = if data == 0 { table[..BLOCK].to_vec() } else { vec![0; BLOCK] };
    put(&mut first, SUPERBLOCK, &superblock.bytes());
    let checksum = format::crc32c(&first[SUPERBLOCK..]);
    put(&mut first, SUPERBLOCK + 4, &checksum.to_le_bytes());
    out.write_all(if data == 0 { &table[BLOCK..] } else { &table }).doing(what)?;
    directories.iter().try_for_each(|bytes| out.write_all(bytes)).doing(what)?;
    out.seek(SeekFrom::Start(0)).doing(what)?;
    out.write_all(&first).doing(what)?;
    out.flush().doing(what)
}

fn inodes(tree: &Tree) -> Result<Vec<Inode<'_>>> {
    let mut inodes: Vec<Inode<'_>> = Vec::with_capacity(tree.len());
    let mut positions: HashMap<&str, usize> = HashMap::with_capacity(tree.len());
    for (path, entry) in tree.iter() {
        let missing = |what: &str| Error::new(format!("{path}: the tree has no {what} before it"));
        let own = match &entry.kind {
            Kind::HardLink(first) => *positions.get(first.as_str()).ok_or_else(|| missing("first name"))?,
            _ => {
                inodes.push(Inode::of(entry).ok_or_else(|| Error::new(format!("{path} has an attribute that no erofs holds")))?);
                inodes.len() - 1
            }
        };
        positions.insert(path.as_str(), own);
        // A tree has every directory before what is in it, the root first.
        let parent = path.as_str().rsplit_once('/').map_or("", |(parent, _)| parent);
        let parent = *positions.get(parent).ok_or_else(|| missing("directory"))?;
        if matches!(entry.kind, Kind::Directory { .. }) {
            inodes[own].names = vec![(".", own), ("..", parent)];
        }
        if !path.is_root() {
            inodes[parent].names.push((path.name(), own));
            inodes[own].links += 1;
            if matches!(entry.kind, Kind::Directory { .. }) {
                inodes[parent].links += 1;
            }
        }
    }
    for inode in inodes.iter_mut().filter(|inode| !inode.names.is_empty()) {
        inode.names.sort_unstable();
        // Itself by `.`; the root by its own `..` too.
        inode.links += 1;
        inode.size = format::directory(inode.names.iter().map(|(name, _)| (*name, 0, 0))).len() as u64;
    }
    if let Some(root) = inodes.first_mut() {
        root.links += 1;
    }
    Ok(inodes)
}

impl<'a> Inode<'a> {
    fn new(entry: &'a Entry, size: u64, stored: Stored) -> Self {
        Self { entry, names: Vec::new(), links: 0, xattrs: Vec::new(), size, stored, at: 0 }
    }

    /// `None`: it has an attribute that the format does not hold.
    fn of(entry: &'a Entry) -> Option<Self> {
        let size = match &entry.kind {
            Kind::File(content) => content.size(),
            Kind::Symlink(target) => target.len() as u64,
            _ => 0,
        };
        let opaque = matches!(entry.kind, Kind::Directory { opaque: true }).then_some((format::OPAQUE, &b"y"[..]));
        let attributes = entry.xattrs.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        Some(Self { xattrs: format::xattrs(attributes.chain(opaque))?, ..Self::new(entry, size, Stored::Nothing) })
    }

    pub(super) fn content(&self) -> Option<&'a Content> {
        if let Kind::File(content) = &self.entry.kind { Some(content) } else { None }
    }

    pub(super) fn target(&self) -> Option<&'a [u8]> {
        if let Kind::Symlink(target) = &self.entry.kind { Some(target.as_bytes()) } else { None }
    }

    /// Whether data that end with so many bytes in a block of their own can have these behind the inode instead.
    pub(super) fn has_room(&self, rest: usize) -> bool {
        INODE + self.xattrs.len() + rest <= BLOCK
    }

    /// Bytes of flat data that follow the inode.
    fn tail(&self) -> usize {
        match &self.stored {
            Stored::Flat { tail, .. } => tail.len(),
            _ if !self.names.is_empty() => {
                let rest = self.size as usize % BLOCK;
                if self.has_room(rest) { rest } else { 0 }
            }
            _ => 0,
        }
    }

    /// The first place from `end` on where the inode may stand.
    fn place(&self, end: usize) -> usize {
        let at = end.next_multiple_of(SLOT);
        // What is behind it may not cross a border, and neither may the inode; but a map may.
        let whole = if self.has_room(self.tail()) { INODE + self.xattrs.len() + self.tail() } else { INODE };
        if at % BLOCK + whole <= BLOCK { at } else { at.next_multiple_of(BLOCK) }
    }

    /// Where what follows the inode begins.
    fn behind_at(&self, at: usize) -> usize {
        let end = at + INODE + self.xattrs.len();
        match self.stored {
            Stored::Compressed { .. } | Stored::Packed(_) => end.next_multiple_of(8),
            _ => end,
        }
    }

    fn length(&self) -> usize {
        let behind = match &self.stored {
            Stored::Compressed { map, .. } => MAP_HEADER + map.len(),
            Stored::Packed(_) => 8,
            _ => self.tail(),
        };
        self.behind_at(0) + behind
    }

    /// What follows the inode of anything but a directory.
    fn behind(&self) -> Vec<u8> {
        match &self.stored {
            Stored::Flat { tail, .. } => tail.clone(),
            Stored::Compressed { map, .. } => [&format::map_header()[..], map].concat(),
            Stored::Packed(offset) => format::fragment(*offset).to_vec(),
            Stored::Nothing => Vec::new(),
        }
    }

    fn block(&self) -> Option<u32> {
        match (&self.stored, &self.entry.kind) {
            (Stored::Flat { block, .. }, _) => *block,
            (Stored::Compressed { blocks, .. }, _) => Some(*blocks),
            (Stored::Packed(_), _) => Some(0),
            // The kernel's numbers of devices: 12 bits of the major, 20 of the minor, its lowest 8 first.
            (_, Kind::Device { major, minor, .. }) => Some((minor & 0xff) | major << 8 | (minor & !0xff) << 12),
            (_, Kind::Whiteout) => Some(0),
            _ => None,
        }
    }

    fn number(&self) -> u64 {
        (self.at / SLOT) as u64
    }

    /// The type in a directory entry, and in the upper bits of the mode.
    fn kind(&self) -> (u8, u16) {
        match self.entry.kind {
            Kind::Fifo => (5, 0o010_000),
            Kind::Directory { .. } => (2, 0o040_000),
            Kind::Symlink(_) => (7, 0o120_000),
            Kind::Device { character: false, .. } => (4, 0o060_000),
            Kind::Device { .. } | Kind::Whiteout => (3, 0o020_000),
            _ => (1, 0o100_000),
        }
    }

    fn record(&self, position: usize, place: Option<u32>) -> InodeRecord {
        let layout = match &self.stored {
            Stored::Compressed { .. } | Stored::Packed(_) => Layout::Compressed,
            _ if self.tail() > 0 => Layout::Inline,
            _ => Layout::Plain,
        };
        InodeRecord {
            layout,
            mode: self.kind().1 | self.entry.mode as u16 & 0o7777,
            size: self.size,
            place,
            number: position as u32 + 1,
            uid: self.entry.uid,
            gid: self.entry.gid,
            mtime: self.entry.mtime,
            links: self.links.max(1),
            xattrs: self.xattrs.len(),
        }
    }
}
