//! Where a filesystem's data go, and how: on every core, written in the tree's order.
//!
//! ```text
//! not compressed   whole blocks one after the other; the end of a file behind its inode
//! compressed       up to 192 bytes       behind the inode, as they are
//!                  up to half an extent  one after the other in the packed inode, which is compressed like a large file
//!                  larger                extents of their own
//! ```
//!
//! An extent is 512 KiB of a file (the last one less), compressed at once by zstd and filled up to whole blocks, zeros first. One
//! that takes as many blocks as before is stored as it is; a file of which this holds throughout is not compressed at all.

use super::WINDOW;
use super::format::{BLOCK, compressed_extent, raw_extent};
use super::write::Inode;
use crate::base::error::{Context, Result};
use crate::base::parallel;
use crate::layer::content::Content;
use crate::model::release::Compression;
use std::cell::RefCell;
use std::io::Write;

/// Bytes of a file that are compressed at once. `docs/decisions/002-layer-filesystem.md` has the sizes and times of others.
const EXTENT: usize = WINDOW;
/// The largest file that is packed with others.
const PACKED: u64 = EXTENT as u64 / 2;
/// The largest file whose bytes stand behind its inode: about what a map and its share of an extent would take.
const BEHIND: u64 = 192;
/// Bytes that one thread takes at a time.
const TURN: u64 = 4 * EXTENT as u64;
const LEVEL: i32 = 3;

/// Where an inode's data are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stored {
    /// Nowhere: it has none, or `write` makes them.
    Nothing,
    /// In blocks from `block` on, the end behind the inode.
    Flat {
        /// The first block; `None` where all of it is behind the inode.
        block: Option<u32>,
        /// The end.
        tail: Vec<u8>,
    },
    /// In extents.
    Compressed {
        /// Entries for each block of the file.
        map: Vec<u8>,
        /// How many blocks are stored.
        blocks: u32,
    },
    /// In the packed inode, from this byte on.
    Packed(u64),
}

/// The inode of packed files.
pub(super) struct PackedInode {
    pub size: u64,
    pub stored: Stored,
}

/// Writes all data from block 1 on, and says in each inode where they are; how many blocks that were, and the packed inode of
/// a compressed filesystem.
///
/// # Errors
/// A file cannot be read any more or has another size, or `out` fails.
pub(super) fn data(
    inodes: &mut [Inode<'_>],
    compression: Compression,
    out: &mut impl Write,
) -> Result<(usize, Option<PackedInode>)> {
    match compression {
        Compression::None => Ok((flat(inodes, out)?, None)),
        Compression::Zstd => compressed(inodes, out),
    }
}

/// Not compressed; how many blocks that were.
fn flat(inodes: &mut [Inode<'_>], out: &mut impl Write) -> Result<usize> {
    let mut blocks = 0;
    for inode in inodes {
        if let Some(content) = inode.content() {
            blocks += flat_one(inode, content.bytes()?.into_owned(), 1 + blocks, out)?;
        }
        if let Some(target) = inode.target() {
            blocks += flat_one(inode, target.to_vec(), 1 + blocks, out)?;
        }
    }
    Ok(blocks)
}

/// Writes all but the end, if that has room behind the inode; how many blocks that were.
fn flat_one(inode: &mut Inode<'_>, mut bytes: Vec<u8>, at: usize, out: &mut impl Write) -> Result<usize> {
    let rest = bytes.len() % BLOCK;
    let tail = if inode.has_room(rest) { bytes.split_off(bytes.len() - rest) } else { Vec::new() };
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    out.write_all(&bytes).doing(|| "writing a filesystem")?;
    let block = (!bytes.is_empty()).then_some(at as u32);
    inode.stored = Stored::Flat { block, tail };
    Ok(bytes.len() / BLOCK)
}

/// A part of a file.
struct Piece<'a> {
    content: &'a Content,
    from: u64,
    length: u64,
}

/// What one thread takes at a time: bytes that are one after the other in one inode.
struct Turn<'a> {
    /// Its position; `None` for the packed one.
    inode: Option<usize>,
    pieces: Vec<Piece<'a>>,
}

/// Some blocks of a file as they are stored.
struct Extent {
    /// How many blocks of the file.
    blocks: usize,
    compressed: bool,
    bytes: Vec<u8>,
}

/// How far a file has been written.
#[derive(Default)]
struct Progress {
    map: Vec<u8>,
    first: u32,
    blocks: usize,
    compressed: bool,
}

fn compressed(inodes: &mut [Inode<'_>], out: &mut impl Write) -> Result<(usize, Option<PackedInode>)> {
    let mut turns = Vec::new();
    let mut packing: Vec<Piece<'_>> = Vec::new();
    let mut packed = 0;
    let mut written = 0;
    for (position, inode) in inodes.iter_mut().enumerate() {
        if let Some(target) = inode.target() {
            written += flat_one(inode, target.to_vec(), 1 + written, out)?;
        }
        let Some(content) = inode.content() else { continue };
        let size = content.size();
        if size <= BEHIND && inode.has_room(size as usize) {
            inode.stored = Stored::Flat { block: None, tail: content.bytes()?.into_owned() };
        } else if size <= PACKED {
            inode.stored = Stored::Packed(packed);
            packed = pack(content, packed, &mut packing, &mut turns);
        } else {
            let starts = (0..size).step_by(TURN as usize);
            turns.extend(starts.map(|from| Turn {
                inode: Some(position),
                pieces: vec![Piece { content, from, length: TURN.min(size - from) }],
            }));
        }
    }
    if !packing.is_empty() {
        turns.push(Turn { inode: None, pieces: packing });
    }
    let mut packed_progress = Progress::default();
    let mut progress = Progress::default();
    let last_of_file = |index: usize| turns.get(index + 1).is_none_or(|next| next.inode != turns[index].inode);
    parallel::in_order(
        &turns,
        parallel::cores(),
        "compressing",
        |turn| turn.compress(),
        |index, extents: Vec<Extent>| {
            let progress = if turns[index].inode.is_some() { &mut progress } else { &mut packed_progress };
            for extent in &extents {
                out.write_all(&extent.bytes).doing(|| "writing a filesystem")?;
                progress.add(extent, 1 + written as u32);
                written += extent.bytes.len() / BLOCK;
            }
            if let Some(inode) = turns[index].inode.filter(|_| last_of_file(index)) {
                inodes[inode].stored = std::mem::take(progress).stored();
            }
            Ok(())
        },
    )?;
    let stored = match packed_progress {
        Progress { blocks: 0, .. } => Stored::Nothing,
        Progress { map, blocks, .. } => Stored::Compressed { map, blocks: blocks as u32 },
    };
    Ok((written, Some(PackedInode { size: packed, stored })))
}

/// Adds a file to what is packed; where the next begins. Whole turns go to the list.
fn pack<'a>(content: &'a Content, at: u64, packing: &mut Vec<Piece<'a>>, turns: &mut Vec<Turn<'a>>) -> u64 {
    let mut from = 0;
    while from < content.size() {
        let room = TURN - (at + from) % TURN;
        let length = room.min(content.size() - from);
        packing.push(Piece { content, from, length });
        from += length;
        if length == room {
            turns.push(Turn { inode: None, pieces: std::mem::take(packing) });
        }
    }
    at + content.size()
}

impl Progress {
    fn add(&mut self, extent: &Extent, address: u32) {
        if self.blocks == 0 {
            self.first = address;
        }
        let stored = extent.bytes.len() / BLOCK;
        if extent.compressed {
            compressed_extent(&mut self.map, address, extent.blocks, stored);
        } else {
            raw_extent(&mut self.map, address, extent.blocks);
        }
        self.blocks += stored;
        self.compressed |= extent.compressed;
    }

    fn stored(self) -> Stored {
        if self.compressed {
            Stored::Compressed { map: self.map, blocks: self.blocks as u32 }
        } else {
            Stored::Flat { block: Some(self.first), tail: Vec::new() }
        }
    }
}

impl Turn<'_> {
    fn compress(&self) -> Result<Vec<Extent>> {
        let mut bytes = Vec::with_capacity(TURN as usize);
        for piece in &self.pieces {
            piece.content.copy_part(piece.from, piece.length, &mut bytes)?;
        }
        bytes.chunks(EXTENT).map(extent).collect()
    }
}

fn extent(bytes: &[u8]) -> Result<Extent> {
    thread_local! {
        static COMPRESSOR: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
    }
    let blocks = bytes.len().div_ceil(BLOCK);
    let packed = COMPRESSOR.with_borrow_mut(|kept| -> std::io::Result<Vec<u8>> {
        let compressor = match kept {
            Some(compressor) => compressor,
            None => kept.insert(zstd::bulk::Compressor::new(LEVEL)?),
        };
        compressor.compress(bytes)
    });
    let packed = packed.doing(|| "compressing")?;
    if packed.len().div_ceil(BLOCK) < blocks {
        // A reader skips the zeros before the first byte of a frame, which is none.
        let mut stored = vec![0; packed.len().next_multiple_of(BLOCK) - packed.len()];
        stored.extend(packed);
        return Ok(Extent { blocks, compressed: true, bytes: stored });
    }
    let mut stored = bytes.to_vec();
    stored.resize(blocks * BLOCK, 0);
    Ok(Extent { blocks, compressed: false, bytes: stored })
}
