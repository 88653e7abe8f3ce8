//! The disk format's numbers and records, as far as they are written here. Source: `fs/erofs/erofs_fs.h` of Linux 6.12.

use crate::base::digest::Digest;

pub(super) const BLOCK: usize = 4096;
pub(super) const SUPERBLOCK: usize = 1024;
/// Behind the superblock: the settings of the one compression, with their length before them.
pub(super) const SETTINGS: usize = SUPERBLOCK + 128;
pub(super) const FIRST_INODE: usize = SETTINGS + 32;
pub(super) const INODE: usize = 64;
/// Inodes are numbered by where they stand, in units of this many bytes.
pub(super) const SLOT: usize = 32;
pub(super) const DIRENT: usize = 12;
/// What stands between a compressed file's inode and the list of its blocks: settings, and room that older kernels used.
pub(super) const MAP_HEADER: usize = 16;

/// What stands before an inode's extended attributes.
pub(super) const XATTR_HEADER: usize = 12;
/// The attribute by which overlayfs knows a directory that hides lower ones.
pub(super) const OPAQUE: &str = "trusted.overlay.opaque";

pub(super) const MAGIC: u32 = 0xe0f5_e1e2;
/// The superblock has a checksum; inodes have times of their own.
const COMPATIBLE_FEATURES: u32 = 0x1 | 0x2;
/// Compressed bytes end where their last block ends; settings of the compression; one cluster is many blocks; packed files.
pub(super) const INCOMPATIBLE_FEATURES: u32 = 0x1 | 0x2 | 0x20;
const ZSTD: u16 = 3;
/// An inode of the long form.
pub(super) const LONG: u16 = 1;
/// The address of data that has no block.
pub(super) const NOWHERE: u32 = u32::MAX;

/// How an inode's data are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// In whole blocks only.
    Plain = 0,
    /// Compressed, with a list of 8 bytes for each block.
    Compressed = 1,
    /// In whole blocks, and with its end behind the inode.
    Inline = 2,
}

/// What an inode says.
pub(super) struct InodeRecord {
    pub layout: Layout,
    /// Type and permissions.
    pub mode: u16,
    pub size: u64,
    /// First block, number of compressed blocks, or a device's number; `None` where there is no data.
    pub place: Option<u32>,
    /// For programs that know 32 bits only.
    pub number: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: i64,
    pub links: u32,
    /// Bytes of extended attributes behind it, as [`xattrs`] gives them.
    pub xattrs: usize,
}

impl InodeRecord {
    pub(super) fn bytes(&self) -> [u8; INODE] {
        let mut bytes = [0; INODE];
        // The header counts as one.
        let xattrs = if self.xattrs == 0 { 0 } else { ((self.xattrs - XATTR_HEADER) / 4 + 1) as u16 };
        put(&mut bytes, 0, &(LONG | (self.layout as u16) << 1).to_le_bytes());
        put(&mut bytes, 2, &xattrs.to_le_bytes());
        put(&mut bytes, 4, &self.mode.to_le_bytes());
        put(&mut bytes, 8, &self.size.to_le_bytes());
        put(&mut bytes, 16, &self.place.unwrap_or(NOWHERE).to_le_bytes());
        put(&mut bytes, 20, &self.number.to_le_bytes());
        put(&mut bytes, 24, &self.uid.to_le_bytes());
        put(&mut bytes, 28, &self.gid.to_le_bytes());
        put(&mut bytes, 32, &self.mtime.to_le_bytes());
        put(&mut bytes, 44, &self.links.to_le_bytes());
        bytes
    }
}

/// The start of a compressed file's list: its blocks are in clusters of many.
pub(super) fn map_header() -> [u8; MAP_HEADER] {
    let mut bytes = [0; MAP_HEADER];
    put(&mut bytes, 4, &0x2_u16.to_le_bytes());
    put(&mut bytes, 6, &[ZSTD as u8]);
    bytes
}

/// What a packed file has in the list's place: where it begins in the packed inode.
pub(super) fn fragment(offset: u64) -> [u8; 8] {
    (offset | 1 << 63).to_le_bytes()
}

/// A list's entry for a block that is stored as it is, for the first of an extent, for those that follow it.
pub(super) const RAW: u16 = 0;
pub(super) const HEAD: u16 = 1;
const FOLLOWER: u16 = 2;
/// Marks the first follower's number as that of stored blocks.
pub(super) const STORED: u16 = 1 << 11;

/// A list's entries for an extent that holds `blocks` blocks of the file, compressed to `stored` blocks from `address` on.
pub(super) fn compressed_extent(list: &mut Vec<u8>, address: u32, blocks: usize, stored: usize) {
    entry(list, HEAD, address.to_le_bytes());
    for index in 1..blocks {
        // The first that follows says how many blocks are stored; the others, how far the head is. All say how far the next is.
        let back = if index == 1 { stored as u16 | STORED } else { index as u16 };
        let [a, b] = back.to_le_bytes();
        let [c, d] = ((blocks - index) as u16).to_le_bytes();
        entry(list, FOLLOWER, [a, b, c, d]);
    }
}

/// A list's entries for blocks that are stored as they are.
pub(super) fn raw_extent(list: &mut Vec<u8>, address: u32, blocks: usize) {
    (0..blocks).for_each(|index| entry(list, RAW, (address + index as u32).to_le_bytes()));
}

fn entry(list: &mut Vec<u8>, kind: u16, rest: [u8; 4]) {
    list.extend(kind.to_le_bytes());
    list.extend([0; 2]);
    list.extend(rest);
}

/// A directory's data: each block has its entries (inode, place of the name, type), then their names.
pub(super) fn directory<'a>(entries: impl Iterator<Item = (&'a str, u64, u8)>) -> Vec<u8> {
    let entries: Vec<(&str, u64, u8)> = entries.collect();
    let mut data = Vec::new();
    let mut rest = &entries[..];
    while !rest.is_empty() {
        data.resize(data.len().next_multiple_of(BLOCK), 0);
        let mut used = 0;
        let fits = |(name, _, _): &&(&str, u64, u8)| {
            used += DIRENT + name.len();
            used <= BLOCK
        };
        let (block, later) = rest.split_at(rest.iter().take_while(fits).count());
        let mut name_at = (block.len() * DIRENT) as u16;
        for (name, inode, kind) in block {
            data.extend(inode.to_le_bytes());
            data.extend(name_at.to_le_bytes());
            data.extend([*kind, 0]);
            name_at += name.len() as u16;
        }
        data.extend(block.iter().flat_map(|(name, _, _)| name.bytes()));
        rest = later;
    }
    data
}

/// What attributes' names begin with, and its number.
pub(super) const PREFIXES: [(&str, u8); 5] =
    [("user.", 1), ("system.posix_acl_access", 2), ("system.posix_acl_default", 3), ("trusted.", 4), ("security.", 6)];

/// Extended attributes as they stand behind an inode; nothing where there are none. `None`: one has a name that the format
/// does not know, or is too long.
pub(super) fn xattrs<'a>(attributes: impl Iterator<Item = (&'a str, &'a [u8])>) -> Option<Vec<u8>> {
    let mut bytes = vec![0; XATTR_HEADER];
    for (name, value) in attributes {
        let (rest, prefix) = PREFIXES.iter().find_map(|(prefix, index)| Some((name.strip_prefix(prefix)?, *index)))?;
        bytes.push(u8::try_from(rest.len()).ok()?);
        bytes.push(prefix);
        bytes.extend(u16::try_from(value.len()).ok()?.to_le_bytes());
        bytes.extend(rest.bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    Some(if bytes.len() == XATTR_HEADER { Vec::new() } else { bytes })
}

/// What the superblock says.
pub(super) struct Superblock<'a> {
    pub id: &'a Digest,
    /// Seconds since 1970.
    pub epoch: i64,
    pub label: &'a str,
    pub inodes: usize,
    pub blocks: usize,
    /// The block where inodes begin to be counted.
    pub inodes_at: usize,
    pub root: u64,
    /// The inode of packed files, where there are compressed ones.
    pub packed: Option<u64>,
    /// The window of the compression: a power of two, 1024 bytes or more.
    pub window: usize,
}

impl Superblock<'_> {
    /// The block's bytes from the superblock on, the settings of the compression among them; the checksum is not there yet.
    pub(super) fn bytes(&self) -> [u8; FIRST_INODE - SUPERBLOCK] {
        let mut bytes = [0; FIRST_INODE - SUPERBLOCK];
        put(&mut bytes, 0, &MAGIC.to_le_bytes());
        put(&mut bytes, 8, &COMPATIBLE_FEATURES.to_le_bytes());
        put(&mut bytes, 12, &[BLOCK.ilog2() as u8]);
        put(&mut bytes, 14, &(self.root as u16).to_le_bytes());
        put(&mut bytes, 16, &(self.inodes as u64).to_le_bytes());
        put(&mut bytes, 24, &self.epoch.to_le_bytes());
        put(&mut bytes, 36, &(self.blocks as u32).to_le_bytes());
        put(&mut bytes, 40, &(self.inodes_at as u32).to_le_bytes());
        put(&mut bytes, 48, &super::uuid(self.id));
        put(&mut bytes, 64, self.label.as_bytes());
        if let Some(packed) = self.packed {
            put(&mut bytes, 80, &INCOMPATIBLE_FEATURES.to_le_bytes());
            put(&mut bytes, 84, &(1_u16 << ZSTD).to_le_bytes());
            put(&mut bytes, 96, &packed.to_le_bytes());
            let settings = [6, 0, 0, self.window.ilog2() as u8 - 10];
            put(&mut bytes, SETTINGS - SUPERBLOCK, &settings);
        }
        bytes
    }
}

pub(super) fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

/// CRC-32C as erofs has it: without the inversion at the end.
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut index = 0;
        while index < 256 {
            let mut value = index as u32;
            let mut bit = 0;
            while bit < 8 {
                value = if value & 1 == 1 { value >> 1 ^ 0x82f6_3b78 } else { value >> 1 };
                bit += 1;
            }
            table[index] = value;
            index += 1;
        }
        table
    };
    bytes.iter().fold(u32::MAX, |crc, byte| crc >> 8 ^ TABLE[(crc as u8 ^ byte) as usize])
}
