//! Which disk is the system's: the one that fits every hint of the site, and the only one that does.
//!
//! What is known of a disk comes from sysfs, with the names that udev would give: a hint may be copied from a running system's
//! `/dev/disk/by-id/wwn-…`, `lsblk -o NAME,SERIAL` or `/dev/disk/by-path`.

use crate::base::error::{Error, Result};
use crate::base::fs::sorted_dir;
use crate::model::disk::bytes;
use crate::model::site::DiskHint;
use std::fmt;
use std::path::Path;

/// Where the kernel lists whole disks.
pub const SYS: &str = "/sys/block";
/// Devices that are no disks of a machine.
const OTHERS: [&str; 8] = ["loop", "ram", "zram", "fd", "sr", "dm-", "md", "nbd"];

/// A disk of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The kernel's name: `sda`.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
    wwn: Option<String>,
    serial: Option<String>,
    paths: Vec<String>,
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} MiB", self.name, self.bytes >> 20)?;
        for (what, value) in [("wwn", &self.wwn), ("serial", &self.serial), ("by-path", &self.paths.first().cloned())] {
            if let Some(value) = value {
                write!(f, ", {what} {value}")?;
            }
        }
        Ok(())
    }
}

/// The disks that can be written, by name. `sys` is [`SYS`].
pub fn all(sys: &Path) -> Vec<Candidate> {
    let disks = sorted_dir(sys).unwrap_or_default();
    disks.iter().filter_map(|disk| candidate(disk)).collect()
}

/// The one disk that fits.
///
/// # Errors
/// None does, or several do; all are listed.
pub fn pick<'a>(disks: &'a [Candidate], hint: Option<&DiskHint>) -> Result<&'a Candidate> {
    let mut fitting = Vec::new();
    for disk in disks {
        if hint.map_or(Ok(true), |hint| fits(disk, hint))? {
            fitting.push(disk);
        }
    }
    let list = |disks: &[&Candidate]| disks.iter().map(|disk| format!("\n  {disk}")).collect::<String>();
    match fitting[..] {
        [disk] => Ok(disk),
        [] if disks.is_empty() => Err(Error::new("the machine has no disk that can be written")
            .next("look whether the disk is plugged in and its adapter's driver is in the initrd")),
        [] => Err(Error::new(format!(
            "no disk is the one that the site names; there are{}",
            list(&disks.iter().collect::<Vec<_>>())
        ))
        .next("correct `disk` of this node in site.toml, and make the tree again")),
        _ => Err(Error::new(format!("several disks could be the system's:{}", list(&fitting)))
            .next("name one in site.toml: disk = { serial = \"…\" }, or wwn, or by-path; and make the tree again")),
    }
}

fn fits(disk: &Candidate, hint: &DiskHint) -> Result<bool> {
    let same = |hint: &Option<String>, has: &Option<String>, plain: fn(&str) -> String| match (hint, has) {
        (None, _) => true,
        (Some(hint), Some(has)) => plain(hint) == plain(has),
        (Some(_), None) => false,
    };
    let large = match &hint.size_min {
        Some(size) => disk.bytes >= bytes(size)?,
        None => true,
    };
    let path = hint.by_path.as_ref().is_none_or(|hint| disk.paths.iter().any(|path| path == hint));
    Ok(large && path && same(&hint.wwn, &disk.wwn, number) && same(&hint.serial, &disk.serial, |text| text.trim().to_string()))
}

/// A world wide name's digits: the kernel writes `naa.…` or `eui.…`, udev `0x…`, links `wwn-0x…`.
fn number(wwn: &str) -> String {
    let lower = wwn.trim().to_ascii_lowercase();
    let bare = lower.strip_prefix("wwn-").unwrap_or(&lower);
    ["naa.", "eui.", "0x"].into_iter().find_map(|kind| bare.strip_prefix(kind)).unwrap_or(bare).to_string()
}

fn candidate(disk: &Path) -> Option<Candidate> {
    let name = disk.file_name()?.to_str()?.to_string();
    let read = |file: &str| {
        let text = std::fs::read_to_string(disk.join(file)).ok()?;
        Some(text.trim().to_string()).filter(|text| !text.is_empty())
    };
    if OTHERS.iter().any(|other| name.starts_with(other)) || read("ro").as_deref() == Some("1") {
        return None;
    }
    // The kernel's sectors have 512 bytes, whatever the disk's have.
    let bytes = read("size")?.parse::<u64>().ok()?.checked_mul(512)?;
    let page = || {
        // Page 80 of the vital product data: four bytes, then the number.
        let bytes = std::fs::read(disk.join("device/vpd_pg80")).ok()?;
        let text: String = bytes.get(4..)?.iter().filter(|byte| byte.is_ascii_graphic()).map(|byte| char::from(*byte)).collect();
        Some(text).filter(|text| !text.is_empty())
    };
    (bytes > 0).then(|| Candidate {
        bytes,
        wwn: read("wwid").or_else(|| read("device/wwid")),
        serial: read("serial").or_else(|| read("device/serial")).or_else(page),
        paths: disk.canonicalize().map(|real| paths(&real.to_string_lossy())).unwrap_or_default(),
        name,
    })
}

/// A disk's names below `/dev/disk/by-path`, from where it lies below `/sys/devices`: as udev's `path_id` makes them, for what is
/// at PCI. Source: `src/udev/udev-builtin-path_id.c` of systemd 257.
fn paths(real: &str) -> Vec<String> {
    let parts: Vec<&str> = real.split('/').collect();
    let is_pci = |part: &&&str| part.len() == 12 && part.as_bytes()[4] == b':' && part.as_bytes()[10] == b'.';
    let Some(pci) = parts.iter().rev().find(is_pci) else { return Vec::new() };
    let numbered =
        |prefix: &str| parts.iter().find_map(|part| part.strip_prefix(prefix).filter(|rest| rest.parse::<u32>().is_ok()));
    // HOST:CHANNEL:TARGET:LUN
    let address =
        parts.iter().rev().find(|part| part.split(':').count() == 4 && part.split(':').all(|n| n.parse::<u32>().is_ok()));
    let pci = format!("pci-{pci}");
    let disk = parts.last().copied().unwrap_or_default();
    if let Some(namespace) = disk.strip_prefix("nvme").and_then(|rest| rest.split_once('n')).map(|(_, namespace)| namespace) {
        return vec![format!("{pci}-nvme-{namespace}")];
    }
    if let Some(port) = numbered("ata") {
        return vec![format!("{pci}-ata-{port}"), format!("{pci}-ata-{port}.0")];
    }
    match address {
        // The host's number depends on the order in which drivers came: udev counts from the adapter's first.
        Some(address) => vec![format!("{pci}-scsi-0{}", address.trim_start_matches(|c: char| c.is_ascii_digit()))],
        None if numbered("virtio").is_some() => vec![pci.clone(), format!("virtio-{pci}")],
        None => vec![pci],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine with a CD drive, a virtio disk, a SATA disk and an NVMe disk.
    fn machine() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let put = |at: &str, files: &[(&str, &str)]| {
            let real = folder.path().join("devices/pci0000:00").join(at);
            for (name, text) in files {
                let path = real.join(name);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
            let block = folder.path().join("block");
            std::fs::create_dir_all(&block).unwrap();
            std::os::unix::fs::symlink(&real, block.join(real.file_name().unwrap())).unwrap();
        };
        put("0000:00:01.1/ata2/host1/target1:0:0/1:0:0:0/block/sr0", &[("size", "100"), ("ro", "0")]);
        put("0000:00:04.0/virtio1/block/vda", &[("size", "41943040"), ("ro", "0"), ("serial", "ostack-system\n")]);
        put(
            "0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda",
            &[
                ("size", "2097152"),
                ("ro", "0"),
                ("device/wwid", "naa.5000c500a1b2c3d4\n"),
                ("device/vpd_pg80", "\0\u{80}\0\u{8} ZA1B2C3D"),
            ],
        );
        put("0000:01:00.0/nvme/nvme0/nvme0n1", &[("size", "2097152"), ("ro", "0"), ("wwid", "eui.0025388b710116a1")]);
        put("0000:00:05.0/virtio2/block/vdb", &[("size", "2048"), ("ro", "1")]);
        folder
    }

    fn hint(hint: &str) -> DiskHint {
        toml::from_str(hint).unwrap()
    }

    fn picked(text: &str) -> String {
        let folder = machine();
        let disks = all(&folder.path().join("block"));
        pick(&disks, Some(&hint(text))).map_or_else(|error| error.to_string(), |disk| disk.name.clone())
    }

    #[test]
    fn the_disks_are_listed_as_an_operator_would_look_for_them() {
        let folder = machine();
        let lines: Vec<String> = all(&folder.path().join("block")).iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "nvme0n1, 1024 MiB, wwn eui.0025388b710116a1, by-path pci-0000:01:00.0-nvme-1",
                "sda, 1024 MiB, wwn naa.5000c500a1b2c3d4, serial ZA1B2C3D, by-path pci-0000:00:1f.2-ata-1",
                "vda, 20480 MiB, serial ostack-system, by-path pci-0000:00:04.0",
            ]
        );
    }

    #[test]
    fn each_kind_of_hint_names_a_disk_however_it_is_written() {
        for wwn in ["0x5000c500a1b2c3d4", "naa.5000C500A1B2C3D4", "wwn-0x5000c500a1b2c3d4"] {
            assert_eq!(picked(&format!("wwn = \"{wwn}\"")), "sda");
        }
        assert_eq!(picked("serial = \"ZA1B2C3D\""), "sda");
        for path in ["pci-0000:00:1f.2-ata-1", "pci-0000:00:1f.2-ata-1.0"] {
            assert_eq!(picked(&format!("by-path = \"{path}\"")), "sda");
        }
        assert_eq!(picked("by-path = \"virtio-pci-0000:00:04.0\""), "vda");
        assert_eq!(picked("by-path = \"pci-0000:01:00.0-nvme-1\""), "nvme0n1");
        assert_eq!(picked("size_min = \"20G\""), "vda");
    }

    #[test]
    fn every_hint_must_fit() {
        let all = "\n  nvme0n1, 1024 MiB, wwn eui.0025388b710116a1, by-path pci-0000:01:00.0-nvme-1\
                   \n  sda, 1024 MiB, wwn naa.5000c500a1b2c3d4, serial ZA1B2C3D, by-path pci-0000:00:1f.2-ata-1\
                   \n  vda, 20480 MiB, serial ostack-system, by-path pci-0000:00:04.0";
        assert_eq!(
            picked("serial = \"ZA1B2C3D\"\nsize_min = \"20G\""),
            format!(
                "no disk is the one that the site names; there are{all}\n  \
                 next: correct `disk` of this node in site.toml, and make the tree again"
            )
        );
    }

    #[test]
    fn the_first_of_several_disks_is_never_taken_for_the_one() {
        let folder = machine();
        let disks = all(&folder.path().join("block"));
        let error = pick(&disks, None).unwrap_err().to_string();
        assert!(error.starts_with("several disks could be the system's:\n  nvme0n1,"), "{error}");
        assert_eq!(pick(&disks[..1], None).unwrap().name, "nvme0n1");
    }

    #[test]
    fn a_host_number_is_not_part_of_a_path() {
        let real = "/sys/devices/pci0000:00/0000:00:05.0/host7/target7:0:1/7:0:1:2/block/sdb";
        assert_eq!(paths(real), ["pci-0000:00:05.0-scsi-0:0:1:2"]);
    }
}
