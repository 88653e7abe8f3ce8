//! The EFI system partition: FAT32 in memory, the same bytes for the same files.

use crate::base::error::{Context, Result};
use fatfs::{Date, DateTime, FatType, FileSystem, FormatVolumeOptions, FsOptions, Time, TimeProvider};
use std::io::{Cursor, Write};

/// The volume label, by which GRUB finds the partition.
pub const LABEL: &str = "OSTACK-ESP";

const MIB: u64 = 1 << 20;
/// FAT32 needs 65525 clusters at least; with one sector each that is about 33 MiB, and firmware is known to dislike
/// partitions near that limit.
const MIN_SIZE: u64 = 64 * MIB;

/// A file on the partition.
pub struct EspFile {
    /// Its path, parts separated by `/`, without a leading one.
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

/// The partition's bytes. `volume_id` is what a firmware shows as serial number.
///
/// # Errors
/// The files do not fit into `size`, or a path is no FAT path.
pub fn build(files: &[EspFile], size: u64, volume_id: u32) -> Result<Vec<u8>> {
    let mut disk = Cursor::new(vec![0; size as usize]);
    let mut label = [b' '; 11];
    label[..LABEL.len()].copy_from_slice(LABEL.as_bytes());
    // The largest clusters that still leave FAT32 its 65525: fewer, larger reads by firmware and boot loader.
    let cluster = [4096, 2048, 1024, 512].into_iter().find(|cluster| size / cluster > 66_000).unwrap_or(512);
    let options = FormatVolumeOptions::new()
        .fat_type(FatType::Fat32)
        .bytes_per_cluster(cluster as u32)
        .volume_id(volume_id)
        .volume_label(label);
    fatfs::format_volume(&mut disk, options).doing(|| "formatting the ESP")?;
    let esp = FileSystem::new(&mut disk, FsOptions::new().time_provider(&EPOCH)).doing(|| "opening the ESP")?;
    for file in files {
        let what = || format!("writing {} to the ESP", file.path);
        for (at, _) in file.path.match_indices('/') {
            esp.root_dir().create_dir(&file.path[..at]).doing(what)?;
        }
        let mut out = esp.root_dir().create_file(&file.path).doing(what)?;
        out.truncate().doing(what)?;
        out.write_all(&file.bytes).doing(what)?;
        out.flush().doing(what)?;
    }
    esp.unmount().doing(|| "closing the ESP")?;
    Ok(disk.into_inner())
}

/// Every timestamp: FAT's first, since the real one belongs to the content, not to its container.
#[derive(Debug)]
struct Epoch;

static EPOCH: Epoch = Epoch;

impl TimeProvider for Epoch {
    fn get_current_date(&self) -> Date {
        Date { year: 1980, month: 1, day: 1 }
    }

    fn get_current_date_time(&self) -> DateTime {
        DateTime { date: self.get_current_date(), time: Time { hour: 0, min: 0, sec: 0, millis: 0 } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::digest::Digest;
    use crate::base::tool::Tool;

    fn files() -> Vec<EspFile> {
        let file = |path: &str, length: usize| EspFile { path: path.into(), bytes: vec![b'x'; length] };
        vec![file("EFI/BOOT/BOOTX64.EFI", 3), file("ostack/0123456789ab/vmlinuz", 5_000_000), file("grub/grub.cfg", 0)]
    }

    #[test]
    fn fsck_and_mtools_read_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("esp");
        std::fs::write(&path, build(&files(), size(&files()), 0x1234_abcd).unwrap()).unwrap();
        Tool::new("fsck.fat").package("dosfstools").arg("-n").arg(&path).run().unwrap();
        let list = Tool::new("mdir").package("mtools").arg("-i").arg(&path).args(["-/", "-b", "::"]).run().unwrap().text();
        assert_eq!(
            list,
            "::/EFI/\n::/EFI/BOOT/\n::/EFI/BOOT/BOOTX64.EFI\n::/ostack/\n::/ostack/0123456789ab/\n\
             ::/ostack/0123456789ab/vmlinuz\n::/grub/\n::/grub/grub.cfg\n"
        );
        let label = Tool::new("mdir").package("mtools").arg("-i").arg(&path).arg("::").run().unwrap().text();
        let head: Vec<&str> = label.lines().take(2).map(str::trim).collect();
        assert_eq!(head, ["Volume in drive : is OSTACK-ESP", "Volume Serial Number is 1234-ABCD"]);
    }

    #[test]
    fn the_same_files_give_the_same_bytes() {
        let once = || Digest::of(build(&files(), size(&files()), 1).unwrap());
        assert_eq!(once(), once());
    }

    #[test]
    fn a_partition_is_as_large_as_its_files_need() {
        assert_eq!(size(&files()), 64 * MIB);
        let large = vec![EspFile { path: "a".into(), bytes: vec![1; 200 << 20] }];
        assert_eq!(size(&large) % MIB, 0);
        let built = build(&large, size(&large), 1).unwrap();
        assert_eq!(built.len() as u64, size(&large));
        assert!(size(&large) < 210 * MIB, "{}", size(&large));
    }
}
