//! The state partition: made on the first boot, checked on each, grown with its disk, never overwritten.
//!
//! ```text
//! found in the table         filesystem        what happens
//! -------------------------  ----------------  -----------------------------------------------------------
//! nothing                    -                 p4 over all free space as ostack-state-new, then as next line
//! ostack-state-new           any               mkfs, sync, renamed to ostack-state
//! ostack-state               ext, its label    partition and filesystem grown if the disk has; fsck; mounted
//! ostack-state               anything else     the boot halts
//! ```
//!
//! The name changes last, so that a boot that was cut off leaves a partition that says that it holds nothing yet.

use crate::base::bundle::{STATE_PARTITION, STATE_PARTITION_NEW};
use crate::base::error::{Context, Error, Result};
use crate::base::gpt::{ALIGNMENT, Guid, Partition, SECTOR, Table};
use crate::node::disks::{Device, Filesystem};
use crate::node::stack::{RUN, mount_at};
use crate::node::tool_in;
use rustix::mount::MountFlags;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The smallest state partition that is made, in bytes.
pub(in crate::node) const MIN_SIZE: u64 = 512 << 20;
/// A filesystem this much smaller than its partition is grown; less may be a tail that ext4 cannot use.
const GROW_FROM: u64 = 16 << 20;
/// How often to look for a new partition's device, and how long to wait in between.
const TRIES: (u32, Duration) = (200, Duration::from_millis(50));
/// `BLKPG` of linux/blkpg.h.
const BLKPG: libc::Ioctl = 0x1269;

/// What was done to the state partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is new and empty.
    Created,
    /// It was there.
    Kept,
    /// It was there and is larger now.
    Grown,
}

impl Outcome {
    /// The outcome in a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Kept => "kept",
            Self::Grown => "grown",
        }
    }
}

/// Mounts the state partition on the disk of `system`, making it if need be. The tools run in `root`, which must have
/// `/dev`. Gives the mount point.
///
/// # Errors
/// There is no room, something foreign is in its place, or its filesystem is damaged beyond automatic repair.
pub fn open(system: &Device, root: &Path) -> Result<(PathBuf, Outcome)> {
    let disk = disk_of(system)?;
    let sectors = std::fs::read_to_string(disk.join("size")).doing(|| "reading the disk's size")?;
    let sectors: u64 = sectors.trim().parse().doing(|| "reading the disk's size")?;
    let node = Path::new("/dev").join(disk.file_name().unwrap_or_default());
    let file = OpenOptions::new().read(true).write(true).open(&node).doing(|| format!("opening {}", node.display()))?;
    let mut table = Table::read(&file, sectors)?
        .ok_or_else(|| Error::new(format!("{} has no partition table", node.display())).next("write the image to it again"))?;
    let plan = plan(&table)?;
    let number = match plan {
        Plan::Create => {
            let mut id = [0; 16];
            rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty()).doing(|| "drawing a GUID")?;
            let (first, length) = free(&table);
            let last = first + length - 1;
            let name = STATE_PARTITION_NEW.into();
            let number = table.add(Partition { kind: Guid::LINUX, id: Guid::custom(&id), first, last, attributes: 0, name })?;
            table.write(&file)?;
            tell_kernel(&file, ADD, number, &table.partitions[&number])?;
            number
        }
        Plan::Format(number) | Plan::Use(number) => number,
        Plan::Grow(number) => {
            // What is foreign does not even get a larger partition.
            own_size(&partition_of(&disk, number, table.partitions[&number].sectors())?)?;
            let mut partition = table.partitions[&number].clone();
            partition.last = end_of_room(&table, &partition);
            table.partitions.insert(number, partition);
            table.write(&file)?;
            tell_kernel(&file, RESIZE, number, &table.partitions[&number])?;
            number
        }
    };
    let device = partition_of(&disk, number, table.partitions[&number].sectors())?;
    let outcome = match plan {
        Plan::Create | Plan::Format(_) => {
            format(&device, root)?;
            if let Some(partition) = table.partitions.get_mut(&number) {
                partition.name = STATE_PARTITION.into();
            }
            table.write(&file)?;
            Outcome::Created
        }
        Plan::Use(_) | Plan::Grow(_) => check(&device, root)?,
    };
    let at = Path::new(RUN).join("state");
    mount_at(&device.path(), &at, "ext4", MountFlags::NOATIME, "")?;
    Ok((at, outcome))
}

/// What to do, by the partition table alone; with the partition's number.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Create,
    Format(u32),
    Use(u32),
    Grow(u32),
}

fn plan(table: &Table) -> Result<Plan> {
    if let Some((number, partition)) = table.named(STATE_PARTITION) {
        let grows = end_of_room(table, partition) >= partition.last + ALIGNMENT;
        return Ok(if grows { Plan::Grow(number) } else { Plan::Use(number) });
    }
    if let Some((number, _)) = table.named(STATE_PARTITION_NEW) {
        return Ok(Plan::Format(number));
    }
    let (_, room) = free(table);
    if room * SECTOR < MIN_SIZE {
        return Err(Error::new(format!(
            "the system disk has {} MiB left after the image, too few for the state partition",
            (room * SECTOR) >> 20
        ))
        .next(format!("give the machine a disk with {} MiB or more behind the image", MIN_SIZE >> 20)));
    }
    Ok(Plan::Create)
}

/// The largest gap behind a partition: its first aligned sector and how many aligned ones there are. Mostly it is what follows the
/// last one; but a cloud may have put a partition of its own at the disk's end (Ironic does, with its config drive).
fn free(table: &Table) -> (u64, u64) {
    let gap = |partition: &Partition| {
        let first = (partition.last + 1).next_multiple_of(ALIGNMENT);
        (first, (end_of_room(table, partition) + 1).saturating_sub(first))
    };
    table.partitions.values().map(gap).max_by_key(|(_, length)| *length).unwrap_or((ALIGNMENT, 0))
}

/// The last aligned sector before what follows a partition.
fn end_of_room(table: &Table, partition: &Partition) -> u64 {
    let next = table.partitions.values().map(|other| other.first).filter(|first| *first > partition.last).min();
    next.map_or(table.last_aligned(), |next| next / ALIGNMENT * ALIGNMENT - 1)
}

fn format(device: &Device, root: &Path) -> Result<()> {
    let path = device.path();
    let tool = tool_in(root, "/usr/sbin/mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-L", STATE_PARTITION])
        .args(["-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1"]);
    tool.arg(&path).run().doing(|| "making the state partition's filesystem")?;
    File::open(&path).and_then(|file| file.sync_all()).doing(|| format!("syncing {}", path.display()))
}

/// The size in bytes of the state's filesystem, if it is one.
fn own_size(device: &Device) -> Result<u64> {
    match device.filesystem()? {
        Filesystem::Ext(label, size) if label == STATE_PARTITION => Ok(size),
        Filesystem::Ext(label, _) => Err(foreign(device, &format!("a filesystem labelled `{label}`"))),
        _ => Err(foreign(device, "no ext4 filesystem")),
    }
}

fn check(device: &Device, root: &Path) -> Result<Outcome> {
    let size = own_size(device)?;
    let path = device.path();
    let grows = device.sectors * SECTOR >= size + GROW_FROM;
    let force: &[&str] = if grows { &["-f"] } else { &[] };
    // e2fsck(8): 0 clean, 1 repaired; more needs a person.
    let code = tool_in(root, "/usr/sbin/e2fsck").arg("-p").args(force).arg(&path).run_visible()?;
    if code > 1 {
        return Err(Error::new(format!("the filesystem of {} is damaged (e2fsck ended with {code})", device.name))
            .next(format!("boot a rescue system and run `e2fsck {}`", path.display())));
    }
    if !grows {
        return Ok(Outcome::Kept);
    }
    tool_in(root, "/usr/sbin/resize2fs").arg(&path).run().doing(|| "growing the state partition's filesystem")?;
    Ok(Outcome::Grown)
}

fn foreign(device: &Device, what: &str) -> Error {
    Error::new(format!("the partition {STATE_PARTITION} ({}) holds {what}; it is left as it is", device.name))
        .next(format!("if nothing on it is needed, delete the partition; else make it ext4 with the label {STATE_PARTITION}"))
}

/// The sysfs folder of the whole disk that a partition is on.
fn disk_of(partition: &Device) -> Result<PathBuf> {
    let real = partition.sys().canonicalize().doing(|| format!("finding the disk of {}", partition.name))?;
    real.parent().map(Path::to_path_buf).ok_or_else(|| Error::new(format!("{} is on no disk", partition.name)))
}

/// The device of a disk's partition, when the kernel and devtmpfs have it.
fn partition_of(disk: &Path, number: u32, sectors: u64) -> Result<Device> {
    for _ in 0..TRIES.0 {
        for folder in crate::base::fs::sorted_dir(disk)? {
            let read = std::fs::read_to_string(folder.join("partition")).unwrap_or_default();
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let device = Device { name, sectors, partition: None };
            if read.trim() == number.to_string() && device.path().exists() {
                return Ok(device);
            }
        }
        std::thread::sleep(TRIES.1);
    }
    Err(Error::new(format!("the kernel does not show partition {number} of {}", disk.display())).next("boot again"))
}

const ADD: i32 = 1;
const RESIZE: i32 = 3;

/// `struct blkpg_ioctl_arg`.
#[repr(C)]
struct Argument {
    operation: i32,
    flags: i32,
    length: i32,
    data: *const Change,
}

/// `struct blkpg_partition`; bytes, not sectors.
#[repr(C)]
struct Change {
    start: i64,
    length: i64,
    number: i32,
    names: [u8; 128],
}

/// Tells the kernel of one partition; reading the whole table again is refused while the system partition is in use.
fn tell_kernel(disk: &File, operation: i32, number: u32, partition: &Partition) -> Result<()> {
    let data = Change {
        start: (partition.first * SECTOR) as i64,
        length: (partition.sectors() * SECTOR) as i64,
        number: number as i32,
        names: [0; 128],
    };
    let argument = Argument { operation, flags: 0, length: size_of::<Change>() as i32, data: &raw const data };
    // SAFETY: the request reads both structures, which live across the call.
    match unsafe { libc::ioctl(disk.as_raw_fd(), BLKPG, &raw const argument) } {
        -1 => Err(std::io::Error::last_os_error()).doing(|| format!("telling the kernel of partition {number}")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// A disk of `mib` whose system partition ends at 1 GiB, then `state` (its end in MiB) if any.
    fn table(mib: u64, state: Option<(&str, u64)>) -> Table {
        let mut table = Table { disk: Guid([1; 16]), sectors: mib * ALIGNMENT, partitions: BTreeMap::new() };
        let mut add = |name: &str, from: u64, to: u64| {
            let (first, last) = (from * ALIGNMENT, to * ALIGNMENT - 1);
            let id = Guid([2; 16]);
            table.add(Partition { kind: Guid::LINUX, id, first, last, attributes: 0, name: name.into() }).unwrap();
        };
        add("ostack-system", 1, 1024);
        if let Some((name, end)) = state {
            add(name, 1024, end);
        }
        table
    }

    #[test]
    fn what_happens_to_the_state_partition_follows_from_the_table() {
        for (mib, state, expected) in [
            (2048, None, Plan::Create),
            (1024 + 513, None, Plan::Create),
            (4096, Some(("ostack-state-new", 4095)), Plan::Format(2)),
            (4096, Some(("ostack-state", 4095)), Plan::Use(2)),
            (8192, Some(("ostack-state", 4095)), Plan::Grow(2)),
            (4096, Some(("other", 2048)), Plan::Create),
        ] {
            assert_eq!(plan(&table(mib, state)).unwrap(), expected, "{mib} {state:?}");
        }
    }

    #[test]
    fn a_partition_that_a_cloud_has_put_at_the_end_stays_there() {
        let with_drive = |state| {
            let mut table = table(8192, state);
            let (first, last) = (8127 * ALIGNMENT, 8191 * ALIGNMENT - 1);
            let drive = Partition { kind: Guid::LINUX, id: Guid([3; 16]), first, last, attributes: 0, name: "config-2".into() };
            table.add(drive).unwrap();
            table
        };
        let blank = with_drive(None);
        assert_eq!(plan(&blank).unwrap(), Plan::Create);
        assert_eq!(free(&blank), (1024 * ALIGNMENT, (8127 - 1024) * ALIGNMENT));
        assert_eq!(plan(&with_drive(Some(("ostack-state", 8127)))).unwrap(), Plan::Use(2));
        assert_eq!(plan(&with_drive(Some(("ostack-state", 4096)))).unwrap(), Plan::Grow(2));
    }

    #[test]
    fn too_small_a_disk_is_refused_with_its_numbers() {
        let error = plan(&table(1024 + 512, None)).err().unwrap();
        assert_eq!(
            error.to_string(),
            "the system disk has 511 MiB left after the image, too few for the state partition\n  \
             next: give the machine a disk with 512 MiB or more behind the image"
        );
    }
}
