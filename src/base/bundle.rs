//! The `ostack-system` partition: what the disk writer puts there and a booting node reads.
//!
//! ```text
//! byte 0        8        12       16           48                 1 MiB
//!      +--------+--------+--------+------------+---------+--------+---------+----+---------+--
//!      | magic  | version| length | sha256     | JSON    | zeros  | layer 0 |    | layer 1 | …
//!      | 8      | u32    | u32    | 32, of JSON| length  |        | bottom  |    |         |
//!      +--------+--------+--------+------------+---------+--------+---------+----+---------+--
//! ```
//!
//! Integers are little-endian. Every layer begins at a multiple of [`ALIGNMENT`]; the gap before it is zeros.
//! Offsets count from the partition's first byte.

use crate::base::digest::Digest;
use crate::base::error::{Context, Error, Result};
use crate::base::path::RelPath;
use serde::{Deserialize, Serialize};

/// The partition's name in the GPT.
pub const SYSTEM_PARTITION: &str = "ostack-system";
/// The name of the partition that keeps what outlives a reboot.
pub const STATE_PARTITION: &str = "ostack-state";
/// The state partition's name until its filesystem is complete: one found so may be made again.
pub const STATE_PARTITION_NEW: &str = "ostack-state-new";
/// The volume name of a seed's filesystem.
pub const SEED_VOLUME: &str = "OSTACK-SEED";
/// The volume label of a config drive, as OpenStack's bare metal and compute services make it.
pub const CONFIG_DRIVE: &str = "config-2";
/// Where a seed is on a config drive.
pub const CONFIG_DRIVE_SEED: &str = "ostack/seed.img";
/// The file in a seed that has the node's secrets.
pub const SEED_SECRETS: &str = "secrets.json";
/// The kernel argument that names the image to boot: `ostack.image=sha256:…`.
pub const IMAGE_ARGUMENT: &str = "ostack.image";

/// Room for the index at the front of the partition, in bytes.
pub const INDEX_SIZE: u64 = 1 << 20;
/// Where layers begin, in bytes: a qcow2 cluster, so that a layer is copied as one file range; small enough
/// that thirty layers of a few kilobytes do not waste tens of megabytes, as 1 MiB would.
pub const ALIGNMENT: u64 = 64 << 10;

const MAGIC: &[u8; 8] = b"OSTACKIX";
const VERSION: u32 = 1;
const HEADER: usize = 48;

/// What a system partition holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootIndex {
    /// The digest of the image's manifest.
    pub image: Digest,
    /// What the image is for; a seed must say the same.
    pub role: String,
    /// The release it was built from.
    pub release: String,
    /// The layers, the bottom one first.
    pub layers: Vec<BootLayer>,
    /// What outlives a reboot.
    pub state: Vec<BootState>,
}

/// One layer on the partition: an erofs or squashfs filesystem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootLayer {
    /// For people.
    pub name: String,
    /// The sha256 of the stored bytes.
    pub digest: Digest,
    /// Where it begins, in bytes from the partition's start; a multiple of [`ALIGNMENT`].
    pub offset: u64,
    /// Its length in bytes.
    pub size: u64,
}

/// A path that outlives a reboot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootState {
    /// The path in the root.
    pub path: RelPath,
    /// The folder of the state partition that keeps it: one path part.
    pub class: String,
    /// The owner of a directory that the image does not have.
    pub uid: u32,
    /// The group of a directory that the image does not have.
    pub gid: u32,
    /// The permission bits of a directory that the image does not have.
    pub mode: u32,
}

impl BootIndex {
    /// The index as the first bytes of the partition, without the zeros up to [`INDEX_SIZE`].
    ///
    /// # Errors
    /// It does not fit, or a class is no single path part.
    pub fn encode(&self) -> Result<Vec<u8>> {
        for state in &self.state {
            let class: RelPath = state.class.parse()?;
            if class.is_root() || class.as_str() != state.class || class.as_str().contains('/') {
                return Err(Error::new(format!("the state class `{}` is no folder name", state.class)));
            }
        }
        let json = serde_json::to_vec(self).doing(|| "writing the boot index")?;
        if json.len() + HEADER > INDEX_SIZE as usize {
            return Err(Error::new(format!("the boot index has {} bytes; {INDEX_SIZE} is the most", json.len()))
                .next("use fewer layers or state paths"));
        }
        let mut bytes = Vec::with_capacity(HEADER + json.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&(json.len() as u32).to_le_bytes());
        bytes.extend_from_slice(Digest::of(&json).bytes());
        bytes.extend_from_slice(&json);
        Ok(bytes)
    }

    /// Reads an index from the first [`INDEX_SIZE`] bytes of a partition (or fewer, if all of it is there).
    ///
    /// # Errors
    /// Another magic or version, a torn index, or one whose sha256 differs.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let torn = || Error::new("the boot index is incomplete").next("write the image to this disk again");
        let header = bytes.get(..HEADER).ok_or_else(torn)?;
        if &header[..8] != MAGIC {
            return Err(Error::new("there is no boot index at its front").next("write the image to this disk again"));
        }
        let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        if word(8) != VERSION {
            return Err(Error::new(format!("the boot index has version {}; this program reads {VERSION}", word(8)))
                .next("boot with the initrd that belongs to the image"));
        }
        let json = bytes.get(HEADER..HEADER + word(12) as usize).ok_or_else(torn)?;
        if Digest::of(json).bytes() != &header[16..48] {
            return Err(Error::new("the boot index does not match its sha256").next("write the image to this disk again"));
        }
        serde_json::from_slice(json).doing(|| "reading the boot index")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> BootIndex {
        BootIndex {
            image: Digest::of("image"),
            role: "controller".into(),
            release: "epoxy-debian13".into(),
            layers: vec![BootLayer { name: "base".into(), digest: Digest::of("base"), offset: INDEX_SIZE, size: 4096 }],
            state: vec![BootState {
                path: "/var/lib/db".parse().unwrap(),
                class: "replicated".into(),
                uid: 101,
                gid: 102,
                mode: 0o750,
            }],
        }
    }

    #[test]
    fn an_index_reads_back_from_a_whole_index_block() {
        let mut block = index().encode().unwrap();
        assert_eq!(&block[..16], b"OSTACKIX\x01\0\0\0\x62\x01\0\0");
        block.resize(INDEX_SIZE as usize, 0);
        assert_eq!(BootIndex::decode(&block).unwrap(), index());
    }

    #[test]
    fn every_damaged_byte_of_an_index_is_noticed() {
        let good = index().encode().unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(BootIndex::decode(&bad).is_err(), "byte {at}");
            assert!(BootIndex::decode(&good[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_class_that_leaves_its_folder_is_refused() {
        for class in ["", "..", "a/b", "/a"] {
            let mut index = index();
            index.state[0].class = class.into();
            assert!(index.encode().is_err(), "{class}");
        }
    }
}
