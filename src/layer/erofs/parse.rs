//! The disk format's records read back; each gives `None` for what `format` does not write.

use super::format::{
    BLOCK, DIRENT, HEAD, INCOMPATIBLE_FEATURES, InodeRecord, LONG, Layout, MAGIC, NOWHERE, PREFIXES, RAW, STORED, SUPERBLOCK,
    XATTR_HEADER, crc32c,
};
use std::collections::BTreeMap;

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    number(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    number(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    number(bytes, at).map(u64::from_le_bytes)
}

/// Where a filesystem has its parts.
pub(super) struct Places {
    /// The block where inodes begin to be counted.
    pub inodes_at: u32,
    /// The inode of the root.
    pub root: u64,
    /// The inode of packed files, where there are compressed ones.
    pub packed: Option<u64>,
}

/// What the first block says.
pub(super) fn superblock(block: &[u8]) -> Option<Places> {
    let bytes = block.get(SUPERBLOCK..BLOCK)?;
    let mut summed = bytes.to_vec();
    summed[4..8].fill(0);
    let packed = match u32_at(bytes, 80)? {
        0 => None,
        INCOMPATIBLE_FEATURES => Some(u64_at(bytes, 96)?),
        _ => return None,
    };
    let known = u32_at(bytes, 0)? == MAGIC && bytes[12] == BLOCK.ilog2() as u8 && u32_at(bytes, 4)? == crc32c(&summed);
    known.then_some(Places { inodes_at: u32_at(bytes, 40)?, root: u16_at(bytes, 14)?.into(), packed })
}

/// An inode.
pub(super) fn inode(bytes: &[u8]) -> Option<InodeRecord> {
    let format = u16_at(bytes, 0)?;
    let layout = match format >> 1 {
        0 => Layout::Plain,
        1 => Layout::Compressed,
        2 => Layout::Inline,
        _ => return None,
    };
    let xattrs = usize::from(u16_at(bytes, 2)?);
    (format & 1 == LONG).then_some(InodeRecord {
        layout,
        mode: u16_at(bytes, 4)?,
        size: u64_at(bytes, 8)?,
        place: Some(u32_at(bytes, 16)?).filter(|place| *place != NOWHERE),
        number: u32_at(bytes, 20)?,
        uid: u32_at(bytes, 24)?,
        gid: u32_at(bytes, 28)?,
        mtime: u64_at(bytes, 32)?.cast_signed(),
        links: u32_at(bytes, 44)?,
        xattrs: if xattrs == 0 { 0 } else { XATTR_HEADER + (xattrs - 1) * 4 },
    })
}

/// The extended attributes behind an inode, by their full names.
pub(super) fn xattrs(bytes: &[u8]) -> Option<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut at = XATTR_HEADER;
    while at < bytes.len() {
        let (name, value) = (usize::from(*bytes.get(at)?), usize::from(u16_at(bytes, at + 2)?));
        let (prefix, _) = PREFIXES.iter().find(|(_, index)| *index == bytes[at + 1])?;
        let rest = std::str::from_utf8(bytes.get(at + 4..at + 4 + name)?).ok()?;
        let from = at + 4 + name;
        found.insert(format!("{prefix}{rest}"), bytes.get(from..from + value)?.to_vec());
        at = (from + value).next_multiple_of(4);
    }
    Some(found)
}

/// A directory's names, each with its inode.
pub(super) fn directory(data: &[u8]) -> Option<Vec<(String, u64)>> {
    let mut names = Vec::new();
    for block in data.chunks(BLOCK) {
        let count = usize::from(u16_at(block, 8)?) / DIRENT;
        for index in 0..count {
            let at = index * DIRENT;
            let begin = usize::from(u16_at(block, at + 8)?);
            let end = if index + 1 < count { usize::from(u16_at(block, at + DIRENT + 8)?) } else { block.len() };
            // The last name of a block that is full to its end has no zeros behind it.
            let name = block.get(begin..end)?;
            let length = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
            names.push((std::str::from_utf8(&name[..length]).ok()?.to_string(), u64_at(block, at)?));
        }
    }
    Some(names)
}

/// Major and minor number of a device.
pub(super) fn device(place: u32) -> (u32, u32) {
    (place >> 8 & 0xfff, place & 0xff | place >> 12 & !0xff)
}

/// Where a packed file begins in the packed inode; `None` for the begin of a compressed file's map.
pub(super) fn fragment(bytes: &[u8]) -> Option<u64> {
    u64_at(bytes, 0).filter(|entry| entry >> 63 == 1).map(|entry| entry & !(1 << 63))
}

/// Blocks of a file that are stored together.
pub(super) struct StoredExtent {
    /// How many blocks of the file.
    pub blocks: usize,
    /// The first block that is stored, and how many are.
    pub address: u32,
    pub stored: usize,
    pub compressed: bool,
}

/// The extents of a map that begins with one.
pub(super) fn extents(map: &[u8]) -> Option<Vec<StoredExtent>> {
    let entries: Vec<&[u8]> = map.chunks_exact(8).collect();
    let mut found: Vec<StoredExtent> = Vec::new();
    let mut at = 0;
    while at < entries.len() {
        let address = u32_at(entries[at], 4)?;
        match u16_at(entries[at], 0)? {
            RAW => {
                found.push(StoredExtent { blocks: 1, address, stored: 1, compressed: false });
                at += 1;
            }
            HEAD => {
                let stored = u16_at(entries.get(at + 1)?, 4)?;
                let followers = entries[at + 1..].iter().take_while(|entry| !matches!(entry[0].into(), RAW | HEAD)).count();
                if stored & STORED == 0 {
                    return None;
                }
                let stored = usize::from(stored & !STORED);
                found.push(StoredExtent { blocks: 1 + followers, address, stored, compressed: true });
                at += 1 + followers;
            }
            _ => return None,
        }
    }
    Some(found)
}
