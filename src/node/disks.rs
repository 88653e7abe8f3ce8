//! Which block device is what, told from its first sectors and from what the kernel says about it.

use crate::base::bundle::{BootIndex, INDEX_SIZE, SEED_VOLUME, SYSTEM_PARTITION};
use crate::base::digest::Digest;
use crate::base::error::{Context, Result};
use crate::model::install::SEED_PARTITION;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes at the front of a device that tell what it holds: up to the end of ISO 9660's first descriptor, its sector 16.
const HEAD: usize = 17 * 2048;

/// A block device: a whole disk or a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The kernel's name: `sda`, `nvme0n1p3`.
    pub name: String,
    /// Its size in sectors of 512 bytes.
    pub sectors: u64,
    /// Its partition's name in the table, if it is one and has one.
    pub partition: Option<String>,
}

/// A filesystem, as far as its superblock names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filesystem {
    /// erofs with this volume name.
    Erofs(String),
    /// squashfs; it has no name.
    Squashfs,
    /// ISO 9660 with this volume label.
    Iso(String),
    /// ext2, 3 or 4 with this label and size in bytes.
    Ext(String, u64),
    /// Only zeros where every known superblock would be.
    Blank,
    /// Something else.
    Other,
}

impl Device {
    /// The device's node.
    pub fn path(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }

    /// The device's folder in sysfs.
    pub fn sys(&self) -> PathBuf {
        Path::new("/sys/class/block").join(&self.name)
    }

    /// What filesystem it holds.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn filesystem(&self) -> Result<Filesystem> {
        let mut head = vec![0; HEAD.min(self.sectors as usize * 512)];
        let mut read = || File::open(self.path()).and_then(|file| file.read_exact_at(&mut head, 0));
        read().doing(|| format!("reading {}", self.path().display()))?;
        Ok(probe(&head))
    }
}

/// All block devices that hold something, sorted by name; no loop or memory devices.
pub fn all() -> Vec<Device> {
    let devices = crate::base::fs::sorted_dir(Path::new("/sys/class/block")).unwrap_or_default();
    devices.iter().filter_map(|path| device(path)).collect()
}

fn device(sys: &Path) -> Option<Device> {
    let name = sys.file_name()?.to_str()?.to_string();
    if ["loop", "ram", "zram", "fd"].iter().any(|kind| name.starts_with(kind)) {
        return None;
    }
    let sectors: u64 = std::fs::read_to_string(sys.join("size")).ok()?.trim().parse().ok()?;
    let uevent = std::fs::read_to_string(sys.join("uevent")).ok()?;
    let partition = uevent.lines().find_map(|line| line.strip_prefix("PARTNAME=")).map(str::to_string);
    (sectors >= 8).then_some(Device { name, sectors, partition })
}

/// The system partition of `image` among `devices`, with its index. Also gives why others of that name were not
/// taken.
pub fn system(devices: &[Device], image: &Digest) -> (Option<(Device, BootIndex)>, Vec<String>) {
    let mut refused = Vec::new();
    for device in devices.iter().filter(|device| device.partition.as_deref() == Some(SYSTEM_PARTITION)) {
        match index(device) {
            Ok(index) if index.image == *image => return (Some((device.clone(), index)), refused),
            Ok(index) => refused.push(format!("{} has another image, {}", device.name, index.image)),
            Err(error) => refused.push(format!("{}: {error}", device.name)),
        }
    }
    (None, refused)
}

fn index(device: &Device) -> Result<BootIndex> {
    let mut bytes = vec![0; INDEX_SIZE as usize];
    let mut read = || File::open(device.path()).and_then(|file| file.read_exact_at(&mut bytes, 0));
    read().doing(|| format!("reading {}", device.path().display()))?;
    BootIndex::decode(&bytes)
}

/// The device that holds a seed: one that somebody has attached before one that an installer has put on a disk.
pub fn seed(devices: &[Device]) -> Option<Device> {
    let installed = |device: &&&Device| device.partition.as_deref() == Some(SEED_PARTITION);
    devices.iter().filter(|device| is_seed(device)).min_by_key(|device| installed(&device)).cloned()
}

/// Whether a device holds a seed.
pub fn is_seed(device: &Device) -> bool {
    device.filesystem().is_ok_and(|fs| fs == Filesystem::Erofs(SEED_VOLUME.into()))
}

/// Tells a filesystem from the first 4 KiB or more of a device.
pub fn probe(head: &[u8]) -> Filesystem {
    let at = |offset: usize, length: usize| head.get(offset..offset + length).unwrap_or_default();
    let label = |offset: usize| {
        let bytes = at(offset, 16);
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    };
    let word = |offset: usize| u64::from(u32::from_le_bytes(at(offset, 4).try_into().unwrap_or_default()));
    // struct erofs_super_block at 1024: magic, and volume_name 64 bytes on.
    if at(1024, 4) == [0xe2, 0xe1, 0xf5, 0xe0] {
        return Filesystem::Erofs(label(1024 + 64));
    }
    // struct ext4_super_block at 1024: block count 4 bytes on (and its upper half at 336 with the 64-bit feature), the
    // block size's exponent at 24, magic at 56, features at 96, label at 120.
    if at(1024 + 56, 2) == [0x53, 0xef] {
        let high = if word(1024 + 96) & 0x80 == 0 { 0 } else { word(1024 + 336) };
        let blocks = high << 32 | word(1024 + 4);
        return Filesystem::Ext(label(1024 + 120), blocks << (10 + word(1024 + 24).min(6)));
    }
    // ECMA-119, 8.4: the primary volume descriptor in sector 16; its volume identifier is padded with spaces.
    if at(0x8000, 6) == b"\x01CD001" {
        return Filesystem::Iso(String::from_utf8_lossy(at(0x8028, 32)).trim_end().to_string());
    }
    match at(0, 4) {
        b"hsqs" => Filesystem::Squashfs,
        _ if head.iter().all(|byte| *byte == 0) => Filesystem::Blank,
        _ => Filesystem::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::tool::Tool;

    fn made(program: &str, package: &'static str, args: &[&str]) -> Filesystem {
        let folder = tempfile::tempdir().unwrap();
        let (image, tree) = (folder.path().join("image"), folder.path().join("tree"));
        std::fs::create_dir(&tree).unwrap();
        std::fs::File::create(&image).unwrap().set_len(if program == "mke2fs" { 8 << 20 } else { 0 }).unwrap();
        let mut tool = Tool::new(program).package(package).args(args).arg(&image);
        if program == "mkfs.erofs" {
            tool = tool.arg(&tree);
        }
        tool.run().unwrap();
        probe(&std::fs::read(&image).unwrap())
    }

    #[test]
    fn filesystems_are_told_as_their_own_tools_made_them() {
        assert_eq!(made("mkfs.erofs", "erofs-utils", &[]), Filesystem::Erofs(String::new()));
        for bits in ["64bit", "^64bit"] {
            let found = made("mke2fs", "e2fsprogs", &["-q", "-t", "ext4", "-O", bits, "-L", "ostack-state"]);
            assert_eq!(found, Filesystem::Ext("ostack-state".into(), 8 << 20), "{bits}");
        }
        assert_eq!(probe(&[0; 4096]), Filesystem::Blank);
        assert_eq!(probe(&[7; 4096]), Filesystem::Other);
    }

    #[test]
    fn a_seed_is_known_by_its_volume_name() {
        let mut head = vec![0; 4096];
        head[1024..1028].copy_from_slice(&0xe0f5_e1e2_u32.to_le_bytes());
        head[1088..1099].copy_from_slice(b"OSTACK-SEED");
        assert_eq!(probe(&head), Filesystem::Erofs("OSTACK-SEED".into()));
    }
}
