//! What an installer works from: its orders in the initrd, and a role's description beside the blobs.
//!
//! ```text
//! etc/ostack/install.json      Orders: who the site's machines are, where blobs come from, each role's description by digest
//! └── blobs/sha256/…           Description: partitions, pieces, kernel, initrd
//!     └── blobs/sha256/…       what a piece is: one blob, cut into runs on the disk, with a digest per chunk
//! ```
//!
//! The orders are in the initrd that the machine has started, so whoever gave it that is who it trusts; everything else is
//! named by digest from there.

use crate::base::digest::{Blob, Digest};
use crate::base::error::{Error, Result};
use crate::base::gpt::Partition;
use crate::model::site::{DiskHint, Node, Site};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// Where the orders are in the initrd.
pub const ORDERS: &str = "etc/ostack/install.json";
/// The kernel argument that makes the initrd an installer: `ostack.install=KIND`, a [`Kind`].
pub const INSTALL_ARGUMENT: &str = "ostack.install";
/// The kernel argument that says which node this machine is, where nothing else tells: `ostack.node=NAME`.
pub const NODE_ARGUMENT: &str = "ostack.node";
/// The volume label of a medium with an installer and blobs.
pub const MEDIUM_VOLUME: &str = "OSTACK-INSTALL";
/// The partition that has the seed.
pub const SEED_PARTITION: &str = "ostack-seed";
/// The partition that covers the system's place while it is being written: such a disk is none to start from.
pub const UNFINISHED_PARTITION: &str = "ostack-unfinished";
/// Room for a seed in bytes.
pub const SEED_ROOM: u64 = 16 << 20;
/// How much is checked before it is written, in bytes: what the installer needs of memory is a few of these.
pub const CHUNK: u64 = 4 << 20;
/// The format of both files.
pub const FORMAT: u32 = 1;

/// What a machine is to do that has started an installer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Install what is not there, and start it: for servers of static files, and media.
    Missing,
    /// Ask the server, which has been told to expect this node, and install anew.
    Armed,
}

impl Kind {
    /// The word on the kernel's command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Armed => "armed",
        }
    }

    /// The kind that a word names.
    ///
    /// # Errors
    /// It is another word.
    pub fn parse(word: &str) -> Result<Self> {
        let all = [Self::Missing, Self::Armed];
        all.into_iter().find(|kind| kind.as_str() == word).ok_or_else(|| {
            Error::new(format!("`{INSTALL_ARGUMENT}={word}` is no way to install"))
                .next(format!("write {INSTALL_ARGUMENT}=missing or {INSTALL_ARGUMENT}=armed"))
        })
    }
}

/// What the initrd's installer knows of its site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orders {
    /// [`FORMAT`].
    pub format: u32,
    /// The site's name.
    pub site: String,
    /// Where blobs come from.
    pub source: Source,
    /// The site's machines.
    pub machines: Vec<Machine>,
    /// The description of each role's image.
    pub roles: BTreeMap<String, Blob>,
}

/// Where blobs come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// A web server.
    Http {
        /// The tree's URL, without a final `/`.
        base: String,
        /// The URL of `ostack-image serve`'s own door, for what is secret; `https`.
        secure: Option<String>,
        /// The authority that has signed that server's certificate, as PEM.
        authority: Option<String>,
    },
    /// A medium with the volume label [`MEDIUM_VOLUME`].
    Medium,
}

/// A machine of the site: how it is known, and what the installer needs of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The node's name.
    pub node: String,
    /// Its role.
    pub role: String,
    /// The MAC addresses by which it is known, lower case.
    pub macs: Vec<String>,
    /// Its SMBIOS serial number or UUID.
    pub serial: Option<String>,
    /// Its address in the management network, with the length of the network's prefix.
    pub address: (Ipv4Addr, u8),
    /// That network's gateway.
    pub gateway: Option<Ipv4Addr>,
    /// Which disk is the system's.
    pub disk: Option<DiskHint>,
}

impl Machine {
    /// What an installer needs to know of a site's node.
    pub fn of(site: &Site, node: &Node) -> Self {
        Self {
            node: node.name.to_string(),
            role: node.role.to_string(),
            macs: node.mac.iter().cloned().collect(),
            serial: node.serial.clone(),
            address: (node.management, site.management.subnet.prefix()),
            gateway: site.management.gateway,
            disk: node.disk.clone(),
        }
    }
}

/// How a role's image lies on a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// [`FORMAT`].
    pub format: u32,
    /// The digest of the image's manifest.
    pub image: Digest,
    /// The image's role.
    pub role: String,
    /// The MBR's code, 440 bytes in base64.
    pub boot_code: String,
    /// The disk's GUID.
    pub disk: crate::base::gpt::Guid,
    /// The partitions, in the order of their numbers: the last one ends where the state may begin.
    pub partitions: Vec<Partition>,
    /// What lies in them; where no piece has a run, up to the end of the last run, there are zeros.
    pub pieces: Vec<Piece>,
    /// The kernel, to start the image with.
    pub kernel: Blob,
    /// The initrd, to start the image with.
    pub initrd: Blob,
    /// The kernel's command line, with the image's digest.
    pub command_line: String,
}

/// A blob, and where its bytes lie on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// For people: a layer's name, or `boot`.
    pub name: String,
    /// Its bytes.
    #[serde(flatten)]
    pub blob: Blob,
    /// Where they lie, one after the other: first byte on the disk, and length.
    pub runs: Vec<(u64, u64)>,
    /// The sha256 of each [`CHUNK`] bytes of the blob; the last may be shorter.
    pub chunks: Vec<Digest>,
}

impl Description {
    /// How many bytes have to come.
    pub fn bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.blob.size).sum()
    }

    /// The first byte behind the system's partitions.
    pub fn end(&self) -> u64 {
        self.partitions.iter().map(|partition| (partition.last + 1) * crate::base::gpt::SECTOR).max().unwrap_or(0)
    }

    /// Where there must be zeros: what no run covers, from the first partition's begin to the end of the last run.
    pub fn gaps(&self) -> Vec<(u64, u64)> {
        let mut runs: Vec<(u64, u64)> = self.pieces.iter().flat_map(|piece| piece.runs.iter().copied()).collect();
        runs.sort_unstable();
        let mut at = self.partitions.iter().map(|partition| partition.first * crate::base::gpt::SECTOR).min().unwrap_or(0);
        let mut gaps = Vec::new();
        for (begin, length) in runs {
            if begin > at {
                gaps.push((at, begin - at));
            }
            at = at.max(begin + length);
        }
        gaps
    }
}

/// What the server says to a machine that it expects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Armed {
    /// Whether the state partition is to go.
    pub wipe_state: bool,
}

/// How far a machine is, as it tells the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// The node, or the first MAC address of a machine that is none.
    pub node: String,
    /// What it does.
    pub stage: Stage,
    /// The image it installs.
    pub image: Option<Digest>,
    /// Bytes that are on the disk.
    pub done: u64,
    /// Bytes that will be.
    pub total: u64,
    /// Why it could not go on, the last time.
    pub error: Option<String>,
}

/// What a machine does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// It looks for who it is, its disk, its orders.
    Looking,
    /// It writes the image.
    Writing,
    /// It gets its seed.
    Seed,
    /// The disk is whole, and starts next.
    Done,
    /// It could not go on, and tries again after a while.
    Failed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_run_covers_is_zeros_up_to_the_last_run() {
        let blob = Blob { digest: Digest::of("x"), size: 1 };
        let piece = |runs: &[(u64, u64)]| Piece { name: "p".into(), blob, runs: runs.to_vec(), chunks: Vec::new() };
        let partition = |first| Partition {
            kind: crate::base::gpt::Guid::LINUX,
            id: crate::base::gpt::Guid::LINUX,
            first,
            last: first + 7,
            attributes: 0,
            name: "p".into(),
        };
        let description = Description {
            format: FORMAT,
            image: Digest::of("image"),
            role: "controller".into(),
            boot_code: String::new(),
            disk: crate::base::gpt::Guid::LINUX,
            partitions: vec![partition(2), partition(10)],
            pieces: vec![piece(&[(1024, 100), (2000, 48)]), piece(&[(4096, 10)])],
            kernel: blob,
            initrd: blob,
            command_line: String::new(),
        };
        assert_eq!(description.gaps(), [(1124, 876), (2048, 2048)]);
        assert_eq!(description.end(), 18 * 512);
    }
}
