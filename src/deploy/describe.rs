//! A role's image as an installer writes it: partitions, and blobs with their places on the disk.

use crate::base::digest::{Blob, Digest, Hasher};
use crate::base::error::{Context, Error, Result};
use crate::base::gpt::{Guid, Partition, SECTOR, Table};
use crate::image::artifact::Maker;
use crate::image::disk::{self, Laid};
use crate::image::extent::{Extent, Source};
use crate::model::install::{CHUNK, Description, FORMAT, Piece, SEED_PARTITION, SEED_ROOM};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::io::{Read, Write};
use std::path::Path;

/// The system partition's number, as the disk writer counts.
const SYSTEM: u32 = 3;
const MIB: u64 = 1 << 20;

/// An image's description, and the one blob that is in no store: what lies in front of the layers.
pub struct Described {
    /// The description.
    pub description: Description,
    /// Boot loader, ESP and index, as far as they are no zeros, one after the other.
    pub boot: Vec<u8>,
}

/// Describes an image. `tools` is the root that has GRUB.
///
/// # Errors
/// A blob of the image is damaged.
pub fn describe(maker: &Maker<'_>, tools: &Path) -> Result<Described> {
    let layers = maker.layers();
    let laid = maker.with_disk(tools, &layers, None, disk::lay)?;
    let image = maker.image;
    let mut boot = Vec::new();
    let mut runs = Vec::new();
    let mut pieces = Vec::new();
    for extent in &laid.extents {
        match &extent.source {
            Source::Bytes(bytes, from) => {
                boot.extend_from_slice(&bytes[*from..*from + extent.length as usize]);
                runs.push((extent.offset, extent.length));
            }
            Source::File(path, _) => pieces.push((path.clone(), extent)),
        }
    }
    let chunks = boot.chunks(CHUNK as usize).map(Digest::of).collect();
    let blob = Blob { digest: Digest::of(&boot), size: boot.len() as u64 };
    let mut all = vec![Piece { name: "boot".into(), blob, runs, chunks }];
    for (layer, (path, extent)) in layers.iter().zip(pieces) {
        all.push(piece(layer, &path, extent).map_err(|error| error.doing(format!("reading the layer {}", layer.name)))?);
    }
    let table = with_seed(laid.plan.table(&image.manifest.digest)?, &laid, &image.manifest.digest)?;
    let description = Description {
        format: FORMAT,
        image: image.manifest.digest,
        role: image.role.clone(),
        boot_code: STANDARD.encode(laid.boot),
        disk: table.disk,
        partitions: table.partitions.into_values().collect(),
        pieces: all,
        kernel: image.kernel,
        initrd: image.initrd,
        command_line: maker.command_line(),
    };
    Ok(Described { description, boot })
}

fn piece(layer: &disk::Layer, path: &Path, extent: &Extent) -> Result<Piece> {
    let mut file = crate::base::fs::open(path)?;
    let mut whole = Hasher::new(std::io::sink());
    let mut chunks = Vec::new();
    let mut chunk = vec![0; CHUNK as usize];
    let mut left = layer.size;
    while left > 0 {
        let count = left.min(CHUNK) as usize;
        file.read_exact(&mut chunk[..count]).doing(|| format!("reading {}", path.display()))?;
        chunks.push(Digest::of(&chunk[..count]));
        whole.write_all(&chunk[..count]).doing(|| "hashing")?;
        left -= count as u64;
    }
    let (digest, size) = whole.finish();
    if digest != layer.digest {
        return Err(
            Error::new(format!("the blob {} is damaged: it is {digest}", layer.digest)).next("run: ostack-image store verify")
        );
    }
    Ok(Piece { name: layer.name.clone(), blob: Blob { digest, size }, runs: vec![(extent.offset, extent.length)], chunks })
}

/// The table with a place for the seed: the end of what the system partition has reserved and does not need, so that the state
/// begins where it begins on a disk that was written as a whole. Where there is no such end, it is behind.
fn with_seed(mut table: Table, laid: &Laid, image: &Digest) -> Result<Table> {
    let used = laid.extents.iter().map(Extent::end).max().unwrap_or(0).next_multiple_of(MIB);
    let (begin, length) = laid.plan.system;
    let end = begin + length;
    let seed = if used + SEED_ROOM <= end { end - SEED_ROOM } else { end };
    if let Some(system) = table.partitions.get_mut(&SYSTEM) {
        system.last = seed / SECTOR - 1;
    }
    // The plan's disk is the smallest; the installer's is whatever there is.
    table.sectors += SEED_ROOM / SECTOR;
    table.add(Partition {
        kind: Guid::LINUX,
        id: Guid::derived(image, SEED_PARTITION),
        first: seed / SECTOR,
        last: (seed + SEED_ROOM) / SECTOR - 1,
        attributes: 0,
        name: SEED_PARTITION.into(),
    })?;
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::disk::DiskPlan;

    /// Where system and seed lie, in MiB, when the system has reserved and used so much.
    fn places(reserved: u64, used: u64) -> [(u64, u64); 2] {
        let plan = DiskPlan::new(64 * MIB, &[used * MIB - MIB], reserved * MIB, None).unwrap();
        let image = Digest::of("image");
        let table = plan.table(&image).unwrap();
        let extents = vec![Extent::file(plan.system.0 + plan.layers[0], Path::new("x"), used * MIB - MIB)];
        let table = with_seed(table, &Laid { plan, boot: [0; 440], extents }, &image).unwrap();
        [3, 4].map(|number| {
            let one = &table.partitions[&number];
            (one.first * SECTOR / MIB, (one.last + 1) * SECTOR / MIB)
        })
    }

    #[test]
    fn the_seed_takes_the_end_of_what_is_reserved_for_the_system() {
        assert_eq!(places(1000, 500), [(66, 1050), (1050, 1066)]);
        assert_eq!(places(1000, 984), [(66, 1050), (1050, 1066)]);
    }

    #[test]
    fn where_the_system_needs_all_that_is_reserved_the_seed_is_behind_it() {
        assert_eq!(places(1000, 985), [(66, 1066), (1066, 1082)]);
        assert_eq!(places(0, 500), [(66, 566), (566, 582)]);
    }
}
