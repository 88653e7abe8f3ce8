//! The stored form of a layer: a read-only erofs, written and read here; see `docs/decisions/002-layer-filesystem.md`.
//!
//! `format` the records of the disk format · `pack` where data go, compressed or not · `write` the whole · `parse` the records read back ·
//! `read` the whole. Hosts read it by their kernel.

mod format;
mod pack;
mod parse;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub use read::{StoredFile, tree};
pub use write::{Spec, image, write};

use crate::base::digest::Digest;

/// The largest part of a file that is compressed at once, which is what a reader needs memory for.
const WINDOW: usize = 512 * 1024;

/// A UUID (version 8, RFC 9562: vendor-made) from a digest's first bytes.
fn uuid(id: &Digest) -> [u8; 16] {
    let mut bytes: [u8; 16] = std::array::from_fn(|index| id.bytes()[index]);
    bytes[6] = (bytes[6] & 0x0f) | 0x80;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    bytes
}
