//! An erofs written in this process: uncompressed, for a few small files that are in memory.
//!
//! In: a tree of files, directories and symbolic links. Out: the bytes of the filesystem. Equal trees give equal bytes.
//!
//! ```text
//! byte 0   1024         1152                                           a multiple of 4096
//!      +---+------------+----------------------------------------------+--------------------------+
//!      | 0 | superblock | inodes, each followed by the end of its data | whole blocks of the data |
//!      +---+------------+----------------------------------------------+--------------------------+
//! ```
//!
//! The format is that of `fs/erofs/erofs_fs.h` of the kernel. Every inode is of the long form (64 bytes, own time). Data
//! beyond the last whole block follows its inode, unless both together are larger than a block: neither may cross the border
//! of one. A directory's data are blocks of entries, sorted by name over all blocks.

use super::erofs::uuid;
use super::tree::{Content, Entry, Kind, Tree};
use crate::base::digest::Digest;
use crate::base::error::{Error, Result};
use std::collections::HashMap;

const BLOCK: usize = 4096;
const SUPERBLOCK: usize = 1024;
const FIRST_INODE: usize = SUPERBLOCK + 128;
const INODE: usize = 64;
/// Inodes are numbered by where they stand, in units of this many bytes.
const SLOT: usize = 32;
const DIRENT: usize = 12;

const MAGIC: u32 = 0xe0f5_e1e2;
/// The superblock has a checksum; inodes have times of their own.
const COMPATIBLE_FEATURES: u32 = 0x1 | 0x2;
/// An inode of the long form.
const LONG: u16 = 1;
/// Data in whole blocks only, and with its end behind the inode.
const PLAIN: u16 = 0;
const INLINE: u16 = 2;
/// The address of data that has no block.
const NOWHERE: u32 = u32::MAX;

/// One inode on its way to the image.
struct Inode<'a> {
    entry: &'a Entry,
    /// A directory's entries by name, `.` and `..` among them, each with the position of its inode in the list.
    names: Vec<(&'a str, usize)>,
    /// Bytes of data.
    size: usize,
    /// Where the inode stands in the image.
    at: usize,
    /// The first whole block of the data.
    block: usize,
}

/// The bytes of an erofs with this tree: whole blocks. Its UUID comes from `id`, its time (seconds since 1970) from `epoch`;
/// `label` has 16 bytes at most.
///
/// # Errors
/// The tree has something else than files in memory, directories and symbolic links, or extended attributes.
pub fn image(tree: &Tree, id: &Digest, epoch: i64, label: &str) -> Result<Vec<u8>> {
    let mut inodes = inodes(tree)?;
    let mut end = FIRST_INODE;
    for inode in &mut inodes {
        inode.at = within_a_block(end, INODE + inode.behind());
        end = inode.at + INODE + inode.behind();
    }
    let mut blocks = end.div_ceil(BLOCK);
    for inode in &mut inodes {
        inode.block = blocks;
        blocks += (inode.size - inode.behind()).div_ceil(BLOCK);
    }
    let mut image = vec![0; blocks * BLOCK];
    for (index, inode) in inodes.iter().enumerate() {
        let data = inode.data(&inodes);
        let (whole, rest) = data.split_at(inode.size - inode.behind());
        put(&mut image, inode.at, &inode.encode(index, &inodes));
        put(&mut image, inode.at + INODE, rest);
        put(&mut image, inode.block * BLOCK, whole);
    }
    let superblock = superblock(id, epoch, label, inodes.len(), blocks);
    put(&mut image, SUPERBLOCK, &superblock);
    let checksum = crc32c(&image[SUPERBLOCK..BLOCK]);
    put(&mut image, SUPERBLOCK + 4, &checksum.to_le_bytes());
    Ok(image)
}

fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    if !bytes.is_empty() {
        image[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

/// The first place from `at` on where `length` bytes, one block at most, cross no border of blocks.
fn within_a_block(at: usize, length: usize) -> usize {
    let at = at.next_multiple_of(SLOT);
    if at % BLOCK + length <= BLOCK { at } else { at.next_multiple_of(BLOCK) }
}

fn inodes(tree: &Tree) -> Result<Vec<Inode<'_>>> {
    let mut inodes: Vec<Inode<'_>> = Vec::with_capacity(tree.len());
    let mut positions: HashMap<&str, usize> = HashMap::with_capacity(tree.len());
    for (path, entry) in tree.iter() {
        let size = match &entry.kind {
            Kind::File(Content::Bytes(bytes)) => bytes.len(),
            Kind::Symlink(target) => target.len(),
            Kind::Directory { opaque: false } => 0,
            _ => return Err(Error::new(format!("{path} is no file in memory, directory or symbolic link"))),
        };
        if !entry.xattrs.is_empty() {
            return Err(Error::new(format!("{path} has extended attributes")));
        }
        let own = inodes.len();
        // A tree has every directory before what is in it, the root first.
        let parent = path.as_str().rsplit_once('/').map_or("", |(parent, _)| parent);
        let parent = if path.is_root() { own } else { positions[parent] };
        let names = match entry.kind {
            Kind::Directory { .. } => vec![(".", own), ("..", parent)],
            _ => Vec::new(),
        };
        inodes.push(Inode { entry, names, size, at: 0, block: 0 });
        positions.insert(path.as_str(), own);
        if parent != own {
            inodes[parent].names.push((path.name(), own));
        }
    }
    for inode in inodes.iter_mut().filter(|inode| !inode.names.is_empty()) {
        inode.names.sort_unstable();
        inode.size = directory(inode.names.iter().map(|(name, _)| (*name, 0, 0))).len();
    }
    Ok(inodes)
}

impl Inode<'_> {
    /// How many bytes of the data follow the inode.
    fn behind(&self) -> usize {
        let rest = self.size % BLOCK;
        if INODE + rest <= BLOCK { rest } else { 0 }
    }

    fn number(&self) -> u64 {
        (self.at / SLOT) as u64
    }

    /// The type in a directory entry, and in the upper bits of the mode.
    fn kind(&self) -> (u8, u16) {
        match self.entry.kind {
            Kind::Directory { .. } => (2, 0o040_000),
            Kind::Symlink(_) => (7, 0o120_000),
            _ => (1, 0o100_000),
        }
    }

    fn data(&self, inodes: &[Self]) -> Vec<u8> {
        match &self.entry.kind {
            Kind::File(Content::Bytes(bytes)) => bytes.clone(),
            Kind::Symlink(target) => target.clone().into_bytes(),
            _ => directory(self.names.iter().map(|(name, index)| (*name, inodes[*index].number(), inodes[*index].kind().0))),
        }
    }

    fn encode(&self, index: usize, inodes: &[Self]) -> [u8; INODE] {
        let mut bytes = [0; INODE];
        let layout = if self.behind() > 0 { INLINE } else { PLAIN };
        let block = if self.size > self.behind() { self.block as u32 } else { NOWHERE };
        // A directory is named by its parent, by itself and by every directory in it; `.` and `..` are among the names.
        let directories = self.names.iter().filter(|(_, index)| !inodes[*index].names.is_empty()).count();
        let links = directories.max(1) as u32;
        put(&mut bytes, 0, &(LONG | layout << 1).to_le_bytes());
        put(&mut bytes, 4, &(self.kind().1 | self.entry.mode as u16 & 0o7777).to_le_bytes());
        put(&mut bytes, 8, &(self.size as u64).to_le_bytes());
        put(&mut bytes, 16, &block.to_le_bytes());
        put(&mut bytes, 20, &(index as u32 + 1).to_le_bytes());
        put(&mut bytes, 24, &self.entry.uid.to_le_bytes());
        put(&mut bytes, 28, &self.entry.gid.to_le_bytes());
        put(&mut bytes, 32, &self.entry.mtime.to_le_bytes());
        put(&mut bytes, 44, &links.to_le_bytes());
        bytes
    }
}

/// A directory's data: each block has its entries (inode, place of the name, type), then their names.
fn directory<'a>(entries: impl Iterator<Item = (&'a str, u64, u8)>) -> Vec<u8> {
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

fn superblock(id: &Digest, epoch: i64, label: &str, inodes: usize, blocks: usize) -> [u8; 128] {
    let mut bytes = [0; 128];
    put(&mut bytes, 0, &MAGIC.to_le_bytes());
    put(&mut bytes, 8, &COMPATIBLE_FEATURES.to_le_bytes());
    put(&mut bytes, 12, &[BLOCK.ilog2() as u8]);
    put(&mut bytes, 14, &((FIRST_INODE / SLOT) as u16).to_le_bytes());
    put(&mut bytes, 16, &(inodes as u64).to_le_bytes());
    put(&mut bytes, 24, &epoch.to_le_bytes());
    put(&mut bytes, 36, &(blocks as u32).to_le_bytes());
    put(&mut bytes, 48, &uuid(id));
    put(&mut bytes, 64, label.as_bytes());
    bytes
}

/// CRC-32C as erofs has it: without the inversion at the end.
fn crc32c(bytes: &[u8]) -> u32 {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::path::RelPath;
    use crate::base::tool::Tool;
    use crate::layer::times::Times;
    use std::path::Path;

    const EPOCH: i64 = 1_700_000_000;

    fn file(length: usize) -> Entry {
        let bytes = (0..length).map(|index| (index * 7 % 251) as u8).collect();
        Entry::new(Kind::File(Content::Bytes(bytes)), 0o640, EPOCH)
    }

    /// Every length at which data moves from behind the inode to a block, directories of several blocks, names that sort
    /// before `.`, long links, large owners, every bit of a mode.
    fn tree() -> Tree {
        let mut tree = Tree::new(EPOCH);
        let mut add = |path: String, entry: Entry| tree.insert(path.parse().unwrap(), entry);
        for length in [0, 1, 31, 32, 33, 4031, 4032, 4033, 4095, 4096, 4097, 8127, 8128, 8129, 8192, 100_000] {
            add(format!("lengths/{length}"), file(length));
        }
        for index in 0..300 {
            add(format!("many/{index}-{}", "x".repeat(index % 250)), file(index));
        }
        for name in ["!", "-a", ".a", "..a", "a", "ä"] {
            add(format!("names/{name}"), file(3));
        }
        for length in [1, 4031, 4032, 4033, 4094] {
            add(format!("links/{length}"), Entry::new(Kind::Symlink("t".repeat(length)), 0o777, EPOCH));
        }
        add("a/b/c/d".to_string(), Entry::new(Kind::Directory { opaque: false }, 0o3771, EPOCH - 5).owned_by(70_000, 80_000));
        add("a/set-user".to_string(), Entry { mode: 0o4755, mtime: 1, ..file(10) }.owned_by(64_055, 4_000_000_000));
        tree
    }

    /// What a directory has, as the writer's input would be.
    fn read(root: &Path) -> Tree {
        let mut tree = Tree::default();
        for (path, entry) in Tree::settle(root, None, &Times::KEPT).unwrap().iter() {
            let kind = match &entry.kind {
                Kind::File(Content::OnDisk(file, _)) => Kind::File(Content::Bytes(std::fs::read(file).unwrap())),
                other => other.clone(),
            };
            tree.insert(path.clone(), Entry { kind, ..entry.clone() });
        }
        tree
    }

    fn shell(folder: &Path, line: &str) -> Result<()> {
        // Mounts and their loop devices end with the shell's namespace.
        Tool::new("unshare").args(["--mount", "sh", "-ec"]).arg(format!("cd {}; {line}", folder.display())).run().map(|_| ())
    }

    #[test]
    fn the_kernel_and_the_formats_own_tools_read_back_the_same_tree() {
        let folder = tempfile::tempdir().unwrap();
        let image = image(&tree(), &Digest::of("x"), EPOCH, "OSTACK-SEED").unwrap();
        std::fs::write(folder.path().join("image"), image).unwrap();
        shell(folder.path(), "mkdir at by-kernel by-tool; mount -t erofs -o loop,ro image at; cp -a at/. by-kernel").unwrap();
        shell(folder.path(), "fsck.erofs --extract=by-tool --overwrite --preserve image").unwrap();
        assert!(read(&folder.path().join("by-kernel")) == tree());
        // The tool gives a file its owner after its mode, which costs it the set-user-id bit.
        let mut by_tool = tree();
        let path: RelPath = "a/set-user".parse().unwrap();
        by_tool.insert(path.clone(), Entry { mode: 0o755, ..tree().get(&path).unwrap().clone() });
        assert!(read(&folder.path().join("by-tool")) == by_tool);
    }

    #[test]
    fn label_identity_and_time_are_the_callers_and_the_same_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = image(&tree(), &Digest::of("x"), EPOCH, "OSTACK-SEED").unwrap();
        assert!(bytes == image(&tree(), &Digest::of("x"), EPOCH, "OSTACK-SEED").unwrap());
        std::fs::write(folder.path().join("image"), &bytes).unwrap();
        let said = Tool::new("blkid").args(["-p", "-o", "export"]).arg(folder.path().join("image")).run().unwrap().text();
        let uuid = crate::layer::erofs::uuid_text(&Digest::of("x"));
        for line in ["LABEL=OSTACK-SEED".to_string(), format!("UUID={uuid}"), "TYPE=erofs".to_string()] {
            assert!(said.lines().any(|one| one == line), "{line} is not in\n{said}");
        }
        assert_eq!(bytes[SUPERBLOCK + 24..][..8], EPOCH.to_le_bytes());
    }

    #[test]
    fn the_kernel_refuses_a_damaged_superblock() {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = image(&tree(), &Digest::of("x"), EPOCH, "").unwrap();
        bytes[SUPERBLOCK + 64] ^= 1;
        std::fs::write(folder.path().join("image"), bytes).unwrap();
        let error = shell(folder.path(), "mkdir at; mount -t erofs -o loop,ro image at").unwrap_err().to_string();
        assert!(error.contains("cannot mount") || error.contains("wrong fs type"), "{error}");
    }

    #[test]
    fn what_the_format_could_hold_and_this_writer_cannot_is_refused() {
        let mut tree = Tree::new(EPOCH);
        tree.insert("pipe".parse().unwrap(), Entry::new(Kind::Fifo, 0o600, EPOCH));
        let error = image(&tree, &Digest::of("x"), EPOCH, "").unwrap_err();
        assert_eq!(error.to_string(), "/pipe is no file in memory, directory or symbolic link");
    }
}
