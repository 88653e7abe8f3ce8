//! qcow2 version 3, the plain kind: 64 KiB clusters, nothing compressed, no backing file, no snapshot.
//!
//! ```text
//! cluster 0   1               2 …               …          …            …
//!       +---------+----------------+-----------------+----------+-----------+------------------+
//!       | header  | refcount table | refcount blocks | L1 table | L2 tables | data, in order   |
//!       +---------+----------------+-----------------+----------+-----------+------------------+
//! ```
//!
//! Clusters without content are absent. Because data is in the disk's order, a file range on the disk is one
//! file range here too. Format: `docs/interop/qcow2.rst` of QEMU; all integers are big-endian.

use crate::base::error::{Error, Result};
use crate::image::extent::Extent;

/// Bytes in a cluster.
pub const CLUSTER: u64 = 64 << 10;

const CLUSTER_BITS: u32 = 16;
/// Clusters that one L2 table maps.
const PER_L2: u64 = CLUSTER / 8;
/// Clusters that one refcount block counts, at 16 bits each.
const PER_REFCOUNTS: u64 = CLUSTER / 2;
/// The flag of a table entry whose cluster is referenced once.
const COPIED: u64 = 1 << 63;
const HEADER_LENGTH: u32 = 104;

/// The extents and the size of a qcow2 file whose disk has `size` bytes and these extents.
///
/// # Errors
/// The disk is larger than one refcount table covers (16 TiB of content).
pub fn layout(extents: &[Extent], size: u64) -> Result<(Vec<Extent>, u64)> {
    let runs = runs(extents);
    let data: u64 = runs.iter().map(|run| run.count).sum();
    let l2: Vec<u64> = tables(&runs);
    let l1_entries = size.div_ceil(CLUSTER * PER_L2);
    let l1_clusters = (l1_entries * 8).div_ceil(CLUSTER).max(1);
    let fixed = 2 + l1_clusters + l2.len() as u64 + data;
    // Refcount blocks count themselves too.
    let mut blocks = 1;
    while blocks * PER_REFCOUNTS < fixed + blocks {
        blocks += 1;
    }
    if blocks > CLUSTER / 8 {
        return Err(Error::new("the disk's content is too large for a qcow2 file with one refcount table"));
    }
    let (blocks_at, total) = (2, fixed + blocks);
    let l1_at = blocks_at + blocks;
    let l2_at = l1_at + l1_clusters;
    let data_at = l2_at + l2.len() as u64;

    let mut meta = vec![0; (data_at * CLUSTER) as usize];
    let mut put = |at: u64, value: u64| meta[at as usize..at as usize + 8].copy_from_slice(&value.to_be_bytes());
    for block in 0..blocks {
        put(CLUSTER + block * 8, (blocks_at + block) * CLUSTER);
    }
    for (index, table) in l2.iter().enumerate() {
        put(l1_at * CLUSTER + table * 8, ((l2_at + index as u64) * CLUSTER) | COPIED);
    }
    for (host, cluster) in (data_at..).zip(runs.iter().flat_map(|run| run.first..run.first + run.count)) {
        let index = l2.binary_search(&(cluster / PER_L2)).expect("every used table was listed") as u64;
        put((l2_at + index) * CLUSTER + cluster % PER_L2 * 8, (host * CLUSTER) | COPIED);
    }
    for cluster in 0..total {
        let at = (blocks_at * CLUSTER + cluster * 2) as usize;
        meta[at..at + 2].copy_from_slice(&1_u16.to_be_bytes());
    }
    let header = header(size, l1_entries as u32, l1_at * CLUSTER);
    meta[..header.len()].copy_from_slice(&header);

    let mut out = vec![Extent::bytes(0, meta)];
    let mut run = 0;
    let mut host = data_at * CLUSTER;
    for extent in extents.iter().filter(|extent| extent.length > 0) {
        // A run ends where clusters are missing, and no extent reaches over such a gap.
        while extent.offset >= (runs[run].first + runs[run].count) * CLUSTER {
            host += runs[run].count * CLUSTER;
            run += 1;
        }
        out.push(extent.part(0, extent.length, host + extent.offset - runs[run].first * CLUSTER));
    }
    Ok((out, total * CLUSTER))
}

/// Neighbouring clusters with content.
struct Run {
    first: u64,
    count: u64,
}

fn runs(extents: &[Extent]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for extent in extents.iter().filter(|extent| extent.length > 0) {
        let (first, end) = (extent.offset / CLUSTER, extent.end().div_ceil(CLUSTER));
        match runs.last_mut() {
            Some(run) if first <= run.first + run.count => run.count = run.count.max(end - run.first),
            _ => runs.push(Run { first, count: end - first }),
        }
    }
    runs
}

/// The numbers of the L2 tables that are needed, sorted.
fn tables(runs: &[Run]) -> Vec<u64> {
    let mut tables: Vec<u64> = runs.iter().flat_map(|run| run.first / PER_L2..=(run.first + run.count - 1) / PER_L2).collect();
    tables.dedup();
    tables
}

fn header(size: u64, l1_entries: u32, l1_offset: u64) -> Vec<u8> {
    let [size_high, size_low] = halves(size);
    let [l1_high, l1_low] = halves(l1_offset);
    let words: [u32; 25] = [
        // Version; backing file: offset and length.
        [3, 0, 0, 0].as_slice(),
        &[CLUSTER_BITS, size_high, size_low],
        // No encryption.
        &[0, l1_entries, l1_high, l1_low],
        // The refcount table: offset and clusters. Then snapshots: count and offset.
        &[0, CLUSTER as u32, 1, 0, 0, 0],
        // Feature bits: incompatible, compatible, autoclear. Then refcounts of 2^4 bits.
        &[0, 0, 0, 0, 0, 0, 4, HEADER_LENGTH],
    ]
    .concat()
    .try_into()
    .expect("25 words");
    let mut header = b"QFI\xfb".to_vec();
    header.extend(words.iter().flat_map(|word| word.to_be_bytes()));
    header
}

fn halves(value: u64) -> [u32; 2] {
    [(value >> 32) as u32, value as u32]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::tool::Tool;
    use crate::image::extent::write;

    fn pattern(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at * 31 % 251) as u8 | 1).collect()
    }

    /// Writes both formats and lets QEMU's own tool judge.
    fn judged(extents: &[Extent], size: u64) -> (String, String, u64) {
        let folder = tempfile::tempdir().unwrap();
        let (raw, qcow2) = (folder.path().join("disk.raw"), folder.path().join("disk.qcow2"));
        write(&raw, extents, size).unwrap();
        let (extents, length) = layout(extents, size).unwrap();
        write(&qcow2, &extents, length).unwrap();
        let tool = || Tool::new("qemu-img").package("qemu-utils");
        let check = tool().arg("check").arg(&qcow2).run().unwrap().text();
        let compare = tool().args(["compare", "-f", "raw", "-F", "qcow2"]).arg(&raw).arg(&qcow2).run().unwrap().text();
        (check.lines().next().unwrap().to_string(), compare, length)
    }

    #[test]
    fn qemu_finds_no_fault_and_reads_the_same_disk_as_raw() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("layer");
        std::fs::write(&source, pattern(200_000)).unwrap();
        let extents = [
            Extent::bytes(0, pattern(512)),
            Extent::bytes(600, pattern(100)),
            Extent::file(3 * CLUSTER, &source, 200_000),
            Extent::bytes(700 << 20, pattern(70_000)),
            Extent::bytes((2 << 30) - 512, pattern(512)),
        ];
        let (check, compare, length) = judged(&extents, 2 << 30);
        assert_eq!(check, "No errors were found on the image.");
        assert_eq!(compare, "Images are identical.\n");
        // Header, refcount table and block, L1, three L2 tables; 1 + 4 + 2 + 1 clusters of data.
        assert_eq!(length, (7 + 8) * CLUSTER);
    }

    #[test]
    fn an_empty_disk_of_odd_size_is_a_file_of_tables_only() {
        let (check, compare, length) = judged(&[], (1 << 30) + 512);
        assert_eq!((check.as_str(), compare.as_str()), ("No errors were found on the image.", "Images are identical.\n"));
        assert_eq!(length, 4 * CLUSTER);
    }
}
