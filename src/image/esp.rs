//! The EFI system partition: FAT32 with every file in one piece, the same bytes for the same files.
//!
//! ```text
//! sector 0     1        6, 7      32                          cluster 2
//!      +-------+--------+---------+-----+-----+-------+-------+------+---------+-----------+------+
//!      | boot  | FSInfo | copies  | FAT | FAT | label, entries| other folders  | files …   | free |
//!      | sector|        | of both |     |     | of the root   |                |           |      |
//!      +-------+--------+---------+-----+-----+---------------+----------------+-----------+------+
//! ```
//!
//! Since all files are known beforehand nothing has to be searched or chained piecemeal. (The fatfs crate gives `.` and
//! `..` long names, which `fsck.fat` calls damage.) Format: Microsoft's FAT specification 1.03. Every time is
//! FAT's first, 1980-01-01: the real one belongs to the content, not to its container.

use crate::base::error::{Error, Result};
use crate::image::extent::Extent;
use std::collections::BTreeMap;

/// The volume label, by which GRUB finds the partition.
pub const LABEL: &str = "OSTACK-ESP";

const MIB: u64 = 1 << 20;
/// FAT32 needs 65525 clusters at least; with one sector each that is about 33 MiB, and firmware is known to dislike
/// partitions near that limit.
const MIN_SIZE: u64 = 64 * MIB;
const SECTOR: usize = 512;
/// Sectors before the first table.
const RESERVED: usize = 32;
const END_OF_CHAIN: u32 = 0x0fff_ffff;
/// 1980-01-01 as FAT writes it.
const DATE: u16 = 0x0021;
const FOLDER: u8 = 0x10;
const ARCHIVE: u8 = 0x20;
const VOLUME: u8 = 0x08;
const LONG_NAME: u8 = 0x0f;
/// UTF-16 units in one long-name entry.
const PER_LONG_NAME: usize = 13;

/// A file on the partition.
pub struct EspFile {
    /// Its path, parts separated by `/`, without a leading one; ASCII.
    pub path: String,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// A partition's size in bytes: what the files need, in whole MiB.
pub fn size(files: &[EspFile]) -> u64 {
    // Every file and folder may waste a cluster, and the two tables take 8 bytes for each cluster of 512.
    let content: u64 = files.iter().map(|file| file.bytes.len() as u64 + 8 * 4096).sum();
    (content + content / 32 + 2 * MIB).next_multiple_of(MIB).max(MIN_SIZE)
}

/// The partition of `size` bytes as extents that begin at `offset` bytes of the disk. `volume_id` is what a firmware shows as serial number.
///
/// # Errors
/// The files do not fit into `size`, or a path is not plain ASCII.
pub fn build(files: Vec<EspFile>, size: u64, volume_id: u32, offset: u64) -> Result<Vec<Extent>> {
    let shape = Shape::new(size);
    let mut folders = folders(&files)?;
    let mut fat = vec![0x0fff_fff8, END_OF_CHAIN];
    let mut chain = |bytes: usize| -> u32 {
        let (first, count) = (fat.len() as u32, bytes.div_ceil(shape.cluster));
        fat.extend((1..count as u32).map(|at| first + at));
        fat.push(END_OF_CHAIN);
        first
    };
    let paths: Vec<String> = folders.keys().cloned().collect();
    let firsts: BTreeMap<String, u32> =
        paths.iter().map(|path| (path.clone(), chain(folders[path].length(path.is_empty())))).collect();
    let contents: Vec<u32> = files.iter().map(|file| if file.bytes.is_empty() { 0 } else { chain(file.bytes.len()) }).collect();
    let used = fat.len() - 2;
    if used > shape.clusters {
        return Err(Error::new(format!("the boot files do not fit on an ESP of {} MiB", size / MIB)));
    }

    // Everything up to the files' content is one piece of memory.
    let at = |cluster: u32| (shape.data() + (cluster as usize - 2) * shape.cluster) as u64;
    let folder_clusters: usize = paths.iter().map(|path| folders[path].length(path.is_empty()).div_ceil(shape.cluster)).sum();
    let mut meta = vec![0; at(2 + folder_clusters as u32) as usize];
    let mut put = |at: usize, bytes: &[u8]| meta[at..at + bytes.len()].copy_from_slice(bytes);
    for (sector, bytes) in [(0, shape.boot_sector(volume_id, offset)), (1, information(shape.clusters - used, fat.len()))] {
        put(sector * SECTOR, &bytes);
        put((sector + 6) * SECTOR, &bytes);
    }
    let table: Vec<u8> = fat.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    put(RESERVED * SECTOR, &table);
    put((RESERVED + shape.fat_sectors) * SECTOR, &table);
    for (path, folder) in &mut folders {
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        // The root counts as cluster 0 when it is a parent.
        let above = if parent.is_empty() { 0 } else { firsts[parent] };
        let head = if path.is_empty() {
            entry(&short_field(LABEL, ""), VOLUME, 0, 0)
        } else {
            [entry(b".          ", FOLDER, firsts[path], 0), entry(b"..         ", FOLDER, above, 0)].concat()
        };
        let mut bytes = head;
        for (name, child) in &folder.children {
            let (attributes, first, length) = match child {
                Child::Folder(path) => (FOLDER, firsts[path], 0),
                Child::File(index) => (ARCHIVE, contents[*index], files[*index].bytes.len() as u32),
            };
            let short = folder.short_names[name];
            bytes.extend(long_entries(name, &short));
            bytes.extend(entry(&short, attributes, first, length));
        }
        put(at(firsts[path]) as usize, &bytes);
    }
    let mut extents = Extent::sparse(offset, meta, 64 << 10);
    for (file, first) in files.into_iter().zip(contents).filter(|(file, _)| !file.bytes.is_empty()) {
        extents.push(Extent::bytes(offset + at(first), file.bytes));
    }
    Ok(extents)
}

/// The filesystem's measures.
struct Shape {
    sectors: usize,
    /// Bytes in a cluster.
    cluster: usize,
    fat_sectors: usize,
    clusters: usize,
}

impl Shape {
    fn new(size: u64) -> Self {
        // The largest clusters that still leave FAT32 its 65525: fewer, larger reads by firmware and boot loader.
        let size = size as usize;
        let cluster = [4096, 2048, 1024].into_iter().find(|cluster| size / cluster > 67_000).unwrap_or(SECTOR);
        let sectors = size / SECTOR;
        let fat_sectors = ((sectors - RESERVED) / (cluster / SECTOR) * 4 + 8).div_ceil(SECTOR);
        let clusters = (sectors - RESERVED - 2 * fat_sectors) / (cluster / SECTOR);
        Self { sectors, cluster, fat_sectors, clusters }
    }

    /// Where clusters begin, in bytes.
    fn data(&self) -> usize {
        (RESERVED + 2 * self.fat_sectors) * SECTOR
    }

    fn boot_sector(&self, volume_id: u32, offset: u64) -> Vec<u8> {
        let mut sector = vec![0; SECTOR];
        let mut put = |at: usize, bytes: &[u8]| sector[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"\xeb\xfe\x90ostack  ");
        put(11, &(SECTOR as u16).to_le_bytes());
        put(13, &[(self.cluster / SECTOR) as u8]);
        put(14, &(RESERVED as u16).to_le_bytes());
        // Two tables, no fixed root folder, a hard disk.
        put(16, &[2, 0, 0, 0, 0, 0xf8]);
        // The geometry that every BIOS of the last decades pretends: 63 sectors, 255 heads.
        put(24, &[63, 0, 255, 0]);
        put(28, &((offset / SECTOR as u64) as u32).to_le_bytes());
        put(32, &(self.sectors as u32).to_le_bytes());
        put(36, &(self.fat_sectors as u32).to_le_bytes());
        // Root folder, FSInfo and copy of the boot sector.
        put(44, &[2, 0, 0, 0, 1, 0, 6, 0]);
        put(64, &[0x80, 0, 0x29]);
        put(67, &volume_id.to_le_bytes());
        put(71, &short_field(LABEL, ""));
        put(82, b"FAT32   ");
        put(510, &[0x55, 0xaa]);
        sector
    }
}

/// The FSInfo sector: how many clusters are free and where to look for one.
fn information(free: usize, next: usize) -> Vec<u8> {
    let mut sector = vec![0; SECTOR];
    sector[..4].copy_from_slice(b"RRaA");
    sector[484..488].copy_from_slice(b"rrAa");
    sector[488..492].copy_from_slice(&(free as u32).to_le_bytes());
    sector[492..496].copy_from_slice(&(next as u32).to_le_bytes());
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

enum Child {
    Folder(String),
    File(usize),
}

#[derive(Default)]
struct Folder {
    children: BTreeMap<String, Child>,
    short_names: BTreeMap<String, [u8; 11]>,
}

impl Folder {
    /// Its entries' length in bytes.
    fn length(&self, root: bool) -> usize {
        let names: usize = self.children.keys().map(|name| 1 + name.len().div_ceil(PER_LONG_NAME)).sum();
        32 * (names + if root { 1 } else { 2 })
    }
}

/// The folders by path, the root's being empty; a folder comes after the one that holds it.
fn folders(files: &[EspFile]) -> Result<BTreeMap<String, Folder>> {
    let mut folders: BTreeMap<String, Folder> = BTreeMap::from([(String::new(), Folder::default())]);
    for (index, file) in files.iter().enumerate() {
        let plain = |part: &str| {
            let good = |c: u8| c.is_ascii_alphanumeric() || b"-_.".contains(&c);
            part.bytes().all(good) && part.len() < 64 && !part.trim_matches('.').is_empty()
        };
        if !file.path.split('/').all(plain) {
            return Err(Error::new(format!("`{}` cannot be a path on the ESP", file.path)).next("use letters, digits, - _ and ."));
        }
        let ends = file.path.match_indices('/').map(|(at, _)| at).chain([file.path.len()]);
        for end in ends {
            let path = &file.path[..end];
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
            let last = end == file.path.len();
            let child = if last { Child::File(index) } else { Child::Folder(path.to_string()) };
            folders.entry(parent.to_string()).or_default().children.insert(name.to_string(), child);
        }
    }
    for folder in folders.values_mut() {
        let names = folder.children.keys().enumerate();
        folder.short_names = names.map(|(index, name)| (name.clone(), short_name(name, index))).collect();
    }
    Ok(folders)
}

/// The 8.3 name of an entry: itself in capitals if that is one, else a shortened one that its place makes unique.
fn short_name(name: &str, index: usize) -> [u8; 11] {
    let upper = name.to_ascii_uppercase();
    let (stem, suffix) = upper.rsplit_once('.').unwrap_or((&upper, ""));
    if stem.len() <= 8 && suffix.len() <= 3 && !stem.contains('.') && !stem.is_empty() {
        return short_field(stem, suffix);
    }
    let number = format!("~{}", index + 1);
    let stem: String = stem.chars().filter(|c| *c != '.').take(8 - number.len()).collect();
    short_field(&(stem + &number), &suffix[..suffix.len().min(3)])
}

/// A name as eleven bytes; a stem longer than eight runs on, as a volume label does.
fn short_field(stem: &str, suffix: &str) -> [u8; 11] {
    let mut field = [b' '; 11];
    field[..stem.len()].copy_from_slice(stem.as_bytes());
    field[11 - 3..11 - 3 + suffix.len()].copy_from_slice(suffix.as_bytes());
    field
}

fn entry(name: &[u8; 11], attributes: u8, first: u32, length: u32) -> Vec<u8> {
    let mut entry = name.to_vec();
    entry.extend([attributes, 0, 0, 0, 0]);
    // Created, accessed.
    entry.extend([DATE, DATE].iter().flat_map(|date| date.to_le_bytes()));
    entry.extend(((first >> 16) as u16).to_le_bytes());
    // Written: time and date.
    entry.extend([0, DATE].iter().flat_map(|field: &u16| field.to_le_bytes()));
    entry.extend((first as u16).to_le_bytes());
    entry.extend(length.to_le_bytes());
    entry
}

/// The entries before a short one that carry the name as written, the last part first.
fn long_entries(name: &str, short: &[u8; 11]) -> Vec<u8> {
    let sum = short.iter().fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
    let mut units: Vec<u16> = name.encode_utf16().collect();
    let count = units.len().div_ceil(PER_LONG_NAME);
    // A name that does not fill its entries ends with one zero; the rest is ones.
    if units.len() < count * PER_LONG_NAME {
        units.push(0);
    }
    units.resize(count * PER_LONG_NAME, 0xffff);
    let mut out = Vec::new();
    for (number, part) in units.chunks(PER_LONG_NAME).enumerate().rev() {
        let bytes: Vec<u8> = part.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        out.push((number as u8 + 1) | if number + 1 == count { 0x40 } else { 0 });
        out.extend_from_slice(&bytes[..10]);
        out.extend([LONG_NAME, 0, sum]);
        out.extend_from_slice(&bytes[10..22]);
        out.extend([0, 0]);
        out.extend_from_slice(&bytes[22..]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::digest::Digest;
    use crate::base::tool::Tool;
    use crate::image::extent::{hash, write};
    use std::path::Path;

    fn written(path: &Path, files: Vec<EspFile>) -> u64 {
        let size = size(&files);
        write(path, &build(files, size, 0x1234_abcd, 0).unwrap(), size).unwrap();
        size
    }

    fn files() -> Vec<EspFile> {
        let file = |path: &str, length: usize| EspFile { path: path.into(), bytes: vec![b'x'; length] };
        vec![
            file("EFI/BOOT/BOOTX64.EFI", 3),
            file("ostack/0123456789ab/vmlinuz", 5_000_000),
            file("grub/grub.cfg", 0),
            file("a-name-of-many-letters.conf", 70_000),
        ]
    }

    #[test]
    fn fsck_and_mtools_read_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("esp");
        written(&path, files());
        Tool::new("fsck.fat").package("dosfstools").arg("-n").arg(&path).run().unwrap();
        let list = Tool::new("mdir").package("mtools").arg("-i").arg(&path).args(["-/", "-b", "::"]).run().unwrap().text();
        assert_eq!(
            list,
            "::/EFI/\n::/a-name-of-many-letters.conf\n::/grub/\n::/ostack/\n::/EFI/BOOT/\n::/EFI/BOOT/BOOTX64.EFI\n\
             ::/grub/grub.cfg\n::/ostack/0123456789ab/\n::/ostack/0123456789ab/vmlinuz\n"
        );
        let back = Tool::new("mtype").package("mtools").arg("-i").arg(&path).arg("::/ostack/0123456789ab/vmlinuz");
        assert_eq!(Digest::of(back.run().unwrap().stdout), Digest::of(vec![b'x'; 5_000_000]));
        let label = Tool::new("mdir").package("mtools").arg("-i").arg(&path).arg("::").run().unwrap().text();
        let head: Vec<&str> = label.lines().take(2).map(str::trim).collect();
        assert_eq!(head, ["Volume in drive : is OSTACK-ESP", "Volume Serial Number is 1234-ABCD"]);
    }

    #[test]
    fn the_same_files_give_the_same_bytes() {
        let once = || hash(&build(files(), size(&files()), 1, 0).unwrap(), size(&files())).unwrap();
        assert_eq!(once(), once());
    }

    #[test]
    fn a_partition_is_as_large_as_its_files_need() {
        assert_eq!(size(&files()), 64 * MIB);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("esp");
        for mib in [66, 70, 140, 300] {
            let size = written(&path, vec![EspFile { path: "a".into(), bytes: vec![1; mib << 20] }]);
            assert_eq!(size % MIB, 0);
            assert!(size < (mib as u64 + mib as u64 / 32 + 4) * MIB, "{size}");
            Tool::new("fsck.fat").package("dosfstools").arg("-n").arg(&path).run().unwrap();
        }
    }

    #[test]
    fn files_that_do_not_fit_are_an_error() {
        let large = vec![EspFile { path: "a".into(), bytes: vec![1; 64 << 20] }];
        assert!(build(large, 64 * MIB, 1, 0).is_err());
        assert!(build(vec![EspFile { path: "../a".into(), bytes: Vec::new() }], 64 * MIB, 1, 0).is_err());
    }
}
