//! GUID partition tables, as much as the disk writer and a booting node need.
//!
//! ```text
//! sector 0   1        2 … 33    34 …                     n-33 … n-2   n-1
//!      +-----+--------+---------+------------------------+------------+--------+
//!      | MBR | header | entries | partitions             | entries    | header |
//!      +-----+--------+---------+------------------------+------------+--------+
//! ```
//!
//! A table is a value: read it, change it, write it. Sectors have 512 bytes; 128 entries of 128 bytes each.
//! Format: UEFI specification, chapter 5.

use crate::base::digest::Digest;
use crate::base::error::{Context, Error, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::str::FromStr;

/// Bytes in a sector.
pub const SECTOR: u64 = 512;
/// Partitions begin at multiples of this, in sectors: 1 MiB.
pub const ALIGNMENT: u64 = 2048;
/// Sectors that a table takes at the front of a disk, with its MBR.
pub const FRONT: u64 = 34;
/// Sectors that the backup takes at the end.
pub const BACK: u64 = 33;

const ENTRIES: usize = 128;
const ENTRY_SIZE: usize = 128;

/// A GUID in its on-disk byte order: the first three groups little-endian.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Guid(pub [u8; 16]);

impl Guid {
    /// GRUB's core image for BIOS: 21686148-6449-6E6F-744E-656564454649 (`Hah!IdontNeedEFI`).
    pub const BIOS_BOOT: Self = Self(*b"Hah!IdontNeedEFI");
    /// The EFI system partition: C12A7328-F81F-11D2-BA4B-00A0C93EC93B.
    pub const ESP: Self = Self([0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b]);
    /// Linux data: 0FC63DAF-8483-4772-8E79-3D69D8477DE4.
    pub const LINUX: Self =
        Self([0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4]);

    /// The GUID of a thing named `what` of `image`: the first 16 bytes of the sha256 of
    /// `ostack-guid`, the digest's text and `what`, each ended by a zero byte, marked as version 8 (RFC 9562).
    pub fn derived(image: &Digest, what: &str) -> Self {
        Self::custom(&Digest::of(format!("ostack-guid\0{image}\0{what}\0")).bytes()[..16])
    }

    /// A GUID from 16 bytes of any origin, its version and variant bits set.
    ///
    /// # Panics
    /// `bytes` has another length.
    pub fn custom(bytes: &[u8]) -> Self {
        let mut guid: [u8; 16] = bytes.try_into().expect("a GUID has 16 bytes");
        guid[7] = guid[7] & 0x0f | 0x80;
        guid[8] = guid[8] & 0x3f | 0x80;
        Self(guid)
    }
}

/// Which byte stands where in a GUID's text.
const TEXT: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];

impl FromStr for Guid {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        let wrong = || Error::new(format!("`{text}` is no GUID"));
        let number = u128::from_str_radix(&digits, 16).map_err(|_| wrong())?;
        let mut guid = Self([0; 16]);
        for (byte, index) in number.to_be_bytes().into_iter().zip(TEXT) {
            guid.0[index] = byte;
        }
        if guid.to_string().eq_ignore_ascii_case(text) { Ok(guid) } else { Err(wrong()) }
    }
}

impl Serialize for Guid {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Guid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, index) in TEXT.into_iter().enumerate() {
            let dash = if matches!(at, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{dash}{:02X}", self.0[index])?;
        }
        Ok(())
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// What it is for.
    pub kind: Guid,
    /// Its own identity.
    pub id: Guid,
    /// The first sector.
    pub first: u64,
    /// The last sector, inclusive.
    pub last: u64,
    /// Attribute bits, kept as they are.
    pub attributes: u64,
    /// At most 36 UTF-16 units.
    pub name: String,
}

/// A disk's partition table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The disk's identity.
    pub disk: Guid,
    /// The disk's size in sectors, by which the backup's place is known.
    pub sectors: u64,
    /// The partitions by number, from 1.
    pub partitions: BTreeMap<u32, Partition>,
}

impl Table {
    /// The first sector that a partition may use.
    pub fn first_usable(&self) -> u64 {
        FRONT
    }

    /// The last sector that a partition may use.
    pub fn last_usable(&self) -> u64 {
        self.sectors - BACK - 1
    }

    /// The last sector that a partition with aligned end may use.
    pub fn last_aligned(&self) -> u64 {
        (self.last_usable() + 1) / ALIGNMENT * ALIGNMENT - 1
    }

    /// The partition with this name, the lowest number first.
    pub fn named(&self, name: &str) -> Option<(u32, &Partition)> {
        self.partitions.iter().find(|(_, partition)| partition.name == name).map(|(number, partition)| (*number, partition))
    }

    /// The last sector of the last partition, or of the table itself.
    pub fn end(&self) -> u64 {
        self.partitions.values().map(|partition| partition.last).max().unwrap_or(FRONT - 1)
    }

    /// The table at the front, from the protective MBR on: 34 sectors. `boot` is the MBR's boot code.
    pub fn front(&self, boot: &[u8; 440]) -> Vec<u8> {
        let mut bytes = boot.to_vec();
        bytes.resize(446, 0);
        bytes.extend_from_slice(&self.protective());
        bytes.resize(510, 0);
        bytes.extend_from_slice(&[0x55, 0xaa]);
        bytes.extend_from_slice(&self.header(1, self.sectors - 1, 2));
        bytes.extend_from_slice(&self.entries());
        bytes
    }

    /// The backup, for the last 33 sectors.
    pub fn back(&self) -> Vec<u8> {
        let mut bytes = self.entries();
        bytes.extend_from_slice(&self.header(self.sectors - 1, 1, self.sectors - BACK));
        bytes
    }

    /// Reads the table of a disk of `sectors`: the one at the front or, if that is damaged, the one at the end.
    /// `None` when there is neither. The result describes a disk of `sectors`, wherever the backup was.
    ///
    /// # Errors
    /// Reading fails.
    pub fn read(disk: &File, sectors: u64) -> Result<Option<Self>> {
        for lba in [1, sectors.saturating_sub(1)] {
            if let Some(table) = Self::read_at(disk, lba, sectors).doing(|| "reading the partition table")? {
                return Ok(Some(table));
            }
        }
        Ok(None)
    }

    /// Writes the table to a disk that has one: the backup first, so that one of both is whole at any moment. The
    /// boot code stays.
    ///
    /// # Errors
    /// Writing or syncing fails.
    pub fn write(&self, disk: &File) -> Result<()> {
        let front = self.front(&[0; 440]);
        let write = |bytes: &[u8], offset: u64| -> std::io::Result<()> {
            disk.write_all_at(bytes, offset)?;
            disk.sync_all()
        };
        write(&self.back(), (self.sectors - BACK) * SECTOR)
            .and_then(|()| write(&front[512..], SECTOR))
            .and_then(|()| write(&self.protective(), 446))
            .doing(|| "writing the partition table")
    }

    fn read_at(disk: &File, lba: u64, sectors: u64) -> std::io::Result<Option<Self>> {
        let mut header = [0; 512];
        disk.read_exact_at(&mut header, lba * SECTOR)?;
        let double = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("8 bytes"));
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("4 bytes"));
        let mut blank = header;
        blank[16..20].fill(0);
        let shape = (word(12), word(80) as usize, word(84) as usize) == (92, ENTRIES, ENTRY_SIZE);
        if &header[..8] != b"EFI PART" || !shape || crc32(&blank[..92]) != word(16) || double(24) != lba {
            return Ok(None);
        }
        let mut entries = vec![0; ENTRIES * ENTRY_SIZE];
        let Some(start) = double(72).checked_mul(SECTOR) else { return Ok(None) };
        disk.read_exact_at(&mut entries, start)?;
        if crc32(&entries) != word(88) {
            return Ok(None);
        }
        let used = entries.chunks(ENTRY_SIZE).enumerate().filter(|(_, entry)| entry[..16] != [0; 16]);
        Ok(Some(Self {
            disk: Guid(header[56..72].try_into().expect("16 bytes")),
            sectors,
            partitions: used.map(|(at, entry)| (at as u32 + 1, Partition::decode(entry))).collect(),
        }))
    }

    fn protective(&self) -> [u8; 16] {
        let length = u32::try_from(self.sectors - 1).unwrap_or(u32::MAX);
        let mut record = [0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0, 0, 0, 0];
        record[12..].copy_from_slice(&length.to_le_bytes());
        record
    }

    fn header(&self, own: u64, other: u64, entries: u64) -> [u8; 512] {
        let mut header = [0; 512];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"EFI PART\0\0\x01\0");
        put(12, &92_u32.to_le_bytes());
        put(24, &own.to_le_bytes());
        put(32, &other.to_le_bytes());
        put(40, &self.first_usable().to_le_bytes());
        put(48, &self.last_usable().to_le_bytes());
        put(56, &self.disk.0);
        put(72, &entries.to_le_bytes());
        put(80, &(ENTRIES as u32).to_le_bytes());
        put(84, &(ENTRY_SIZE as u32).to_le_bytes());
        put(88, &crc32(&self.entries()).to_le_bytes());
        let sum = crc32(&header[..92]);
        header[16..20].copy_from_slice(&sum.to_le_bytes());
        header
    }

    fn entries(&self) -> Vec<u8> {
        let mut bytes = vec![0; ENTRIES * ENTRY_SIZE];
        for (number, partition) in &self.partitions {
            let at = (*number as usize - 1) * ENTRY_SIZE;
            bytes[at..at + ENTRY_SIZE].copy_from_slice(&partition.encode());
        }
        bytes
    }

    /// Adds a partition under the lowest free number after the last one in use and gives that number.
    ///
    /// # Errors
    /// The table is full, or the partition leaves the disk or overlaps another.
    pub fn add(&mut self, partition: Partition) -> Result<u32> {
        let number = self.partitions.keys().last().map_or(1, |last| last + 1);
        let free = |other: &Partition| partition.last < other.first || partition.first > other.last;
        if number as usize > ENTRIES {
            return Err(Error::new(format!("the partition table already has a partition {ENTRIES}")));
        }
        if partition.first < self.first_usable() || partition.last > self.last_usable() || partition.first > partition.last {
            return Err(Error::new(format!("the partition {} does not fit on the disk", partition.name)));
        }
        if let Some(other) = self.partitions.values().find(|other| !free(other)) {
            return Err(Error::new(format!("the partition {} would overlap {}", partition.name, other.name)));
        }
        self.partitions.insert(number, partition);
        Ok(number)
    }
}

impl Partition {
    /// How many sectors it has.
    pub fn sectors(&self) -> u64 {
        self.last + 1 - self.first
    }

    fn encode(&self) -> [u8; ENTRY_SIZE] {
        let mut entry = [0; ENTRY_SIZE];
        entry[..16].copy_from_slice(&self.kind.0);
        entry[16..32].copy_from_slice(&self.id.0);
        entry[32..40].copy_from_slice(&self.first.to_le_bytes());
        entry[40..48].copy_from_slice(&self.last.to_le_bytes());
        entry[48..56].copy_from_slice(&self.attributes.to_le_bytes());
        for (pair, unit) in entry[56..].chunks_mut(2).zip(self.name.encode_utf16()) {
            pair.copy_from_slice(&unit.to_le_bytes());
        }
        entry
    }

    fn decode(entry: &[u8]) -> Self {
        let double = |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().expect("8 bytes"));
        let units = entry[56..ENTRY_SIZE].chunks(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
        let name: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
        Self {
            kind: Guid(entry[..16].try_into().expect("16 bytes")),
            id: Guid(entry[16..32].try_into().expect("16 bytes")),
            first: double(32),
            last: double(40),
            attributes: double(48),
            name: String::from_utf16_lossy(&name),
        }
    }
}

/// The CRC-32 of IEEE 802.3, which GPT uses; gzip's is the same.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::tool::Tool;

    fn table(sectors: u64) -> Table {
        let mut table = Table { disk: Guid::derived(&Digest::of("x"), "disk"), sectors, partitions: BTreeMap::new() };
        for (name, kind, first, last) in
            [("one", Guid::ESP, ALIGNMENT, 2 * ALIGNMENT - 1), ("two", Guid::LINUX, 2 * ALIGNMENT, 4 * ALIGNMENT - 1)]
        {
            let id = Guid::derived(&Digest::of("x"), name);
            table.add(Partition { kind, id, first, last, attributes: 0, name: name.into() }).unwrap();
        }
        table
    }

    fn written(table: &Table) -> tempfile::NamedTempFile {
        let disk = tempfile::NamedTempFile::new().unwrap();
        disk.as_file().set_len(table.sectors * SECTOR).unwrap();
        disk.as_file().write_all_at(&table.front(&[0xf4; 440]), 0).unwrap();
        disk.as_file().write_all_at(&table.back(), (table.sectors - BACK) * SECTOR).unwrap();
        disk
    }

    #[test]
    fn a_guid_is_read_as_it_is_written() {
        assert_eq!(Guid::ESP.to_string(), "C12A7328-F81F-11D2-BA4B-00A0C93EC93B");
        assert_eq!("c12a7328-f81f-11d2-ba4b-00a0c93ec93b".parse::<Guid>().unwrap(), Guid::ESP);
        for wrong in ["", "C12A7328F81F11D2BA4B00A0C93EC93B", "C12A7328-F81F-11D2-BA4B-00A0C93EC93X"] {
            assert!(wrong.parse::<Guid>().is_err(), "{wrong}");
        }
    }

    fn verified(disk: &tempfile::NamedTempFile) -> String {
        Tool::new("sgdisk").package("gdisk").arg("-v").arg(disk.path()).run().unwrap().text()
    }

    #[test]
    fn a_guid_is_printed_as_people_write_it() {
        assert_eq!(Guid::BIOS_BOOT.to_string(), "21686148-6449-6E6F-744E-656564454649");
        assert_eq!(Guid::ESP.to_string(), "C12A7328-F81F-11D2-BA4B-00A0C93EC93B");
        assert_eq!(Guid::LINUX.to_string(), "0FC63DAF-8483-4772-8E79-3D69D8477DE4");
    }

    #[test]
    fn sgdisk_finds_no_fault_in_a_written_table() {
        let disk = written(&table(20 * ALIGNMENT));
        assert!(verified(&disk).contains("No problems found"), "{}", verified(&disk));
    }

    #[test]
    fn a_damaged_front_is_read_from_the_end() {
        let table = table(20 * ALIGNMENT);
        let disk = written(&table);
        for damage in [512, 1024] {
            disk.as_file().write_all_at(&[0xff; 8], damage).unwrap();
            assert_eq!(Table::read(disk.as_file(), table.sectors).unwrap(), Some(table.clone()));
        }
        disk.as_file().write_all_at(&[0xff; 8], (table.sectors - 1) * SECTOR).unwrap();
        assert_eq!(Table::read(disk.as_file(), table.sectors).unwrap(), None);
    }

    #[test]
    fn a_table_moves_to_the_end_of_a_grown_disk_and_keeps_the_boot_code() {
        let old = table(20 * ALIGNMENT);
        let disk = written(&old);
        disk.as_file().set_len(40 * ALIGNMENT * SECTOR).unwrap();
        let mut new = Table::read(disk.as_file(), 40 * ALIGNMENT).unwrap().unwrap();
        let last = new.last_aligned();
        let first = new.end() + 1;
        let id = Guid::custom(&[7; 16]);
        let number = new.add(Partition { kind: Guid::LINUX, id, first, last, attributes: 0, name: "three".into() });
        assert_eq!(number.unwrap(), 3);
        new.write(disk.as_file()).unwrap();
        assert!(verified(&disk).contains("No problems found"), "{}", verified(&disk));
        assert_eq!(Table::read(disk.as_file(), 40 * ALIGNMENT).unwrap(), Some(new));
        let mut boot = [0; 440];
        disk.as_file().read_exact_at(&mut boot, 0).unwrap();
        assert_eq!(boot, [0xf4; 440]);
    }

    #[test]
    fn partitions_may_not_overlap_or_leave_the_disk() {
        let mut table = table(20 * ALIGNMENT);
        for (first, last) in [(1, 40), (ALIGNMENT, ALIGNMENT), (5 * ALIGNMENT, 20 * ALIGNMENT)] {
            let new = Partition { kind: Guid::LINUX, id: Guid([1; 16]), first, last, attributes: 0, name: "n".into() };
            assert!(table.add(new).is_err(), "{first}");
        }
    }
}
