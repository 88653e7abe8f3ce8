//! Parts of files into other files, at the speed of whatever holds them.
//!
//! In this order, whichever the filesystem can: shared between both files (a reflink), written to the disk straight from where the
//! source is in memory (`O_DIRECT`), copied inside the kernel, copied by hand. The second costs no second place in memory and leaves
//! nothing that must still be written afterwards.

use crate::base::error::{Context, Error, Result};
use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// What filesystems want the places and lengths of shared and of direct pieces to be multiples of, in bytes.
const BLOCK: u64 = 4096;
/// How much is written directly at once, in bytes.
const PART: u64 = 16 << 20;
/// How much is copied by hand at once, in bytes.
const CHUNK: usize = 1 << 20;
/// Below this many bytes nothing but the copy inside the kernel is tried.
const SMALL: u64 = 1 << 20;

/// A file that others are copied into.
pub struct Copier<'a> {
    file: &'a File,
    /// The same file, written past the kernel's memory; none where that cannot be.
    direct: Option<File>,
    shares: Cell<bool>,
}

impl<'a> Copier<'a> {
    /// Copies into a file, which lies at `path`.
    pub fn new(file: &'a File, path: &Path) -> Self {
        let direct = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(path).ok();
        Self { file, direct, shares: Cell::new(true) }
    }

    /// Copies `length` bytes of a file from byte `from` on to byte `to`.
    ///
    /// # Errors
    /// The source ends before, or reading or writing fails.
    pub fn copy(&self, source: &File, from: u64, to: u64, length: u64) -> Result<()> {
        let has = source.metadata().doing(|| "reading")?.len();
        if has < from.saturating_add(length) {
            return Err(too_short());
        }
        let mut done = 0;
        if length >= SMALL && [from, to].iter().all(|at| at.is_multiple_of(BLOCK)) {
            let whole = length / BLOCK * BLOCK;
            if self.share(source, from, to, whole) || self.write_directly(source, from, to, whole)? {
                done = whole;
            }
        }
        copy_range(source, from + done, self.file, to + done, length - done)
    }

    /// Whether the filesystem has given both files the same blocks.
    fn share(&self, source: &File, from: u64, to: u64, length: u64) -> bool {
        if self.shares.get() {
            let range = libc::file_clone_range {
                src_fd: i64::from(source.as_raw_fd()),
                src_offset: from,
                src_length: length,
                dest_offset: to,
            };
            // SAFETY: the request takes a pointer to this structure, and both descriptors are open.
            let result = unsafe { libc::ioctl(self.file.as_raw_fd(), libc::FICLONERANGE, &raw const range) };
            self.shares.set(result == 0);
        }
        self.shares.get()
    }

    /// Whether the bytes are on their way to the disk; not, where the filesystem takes none that way.
    fn write_directly(&self, source: &File, from: u64, to: u64, length: u64) -> Result<bool> {
        let Some(direct) = &self.direct else { return Ok(false) };
        let mut done = 0;
        while done < length {
            // Part by part, because what is mapped counts as this process's memory.
            let part = PART.min(length - done);
            let mut map = memmap2::MmapOptions::new();
            map.offset(from + done).len(part as usize);
            // SAFETY: what is copied are blobs and artifacts, which nobody changes in place.
            match unsafe { map.map(source) }.and_then(|map| direct.write_all_at(&map, to + done)) {
                Ok(()) => done += part,
                Err(error) if done == 0 && error.kind() == io::ErrorKind::InvalidInput => return Ok(false),
                Err(error) => return Err(error).doing(|| "writing"),
            }
        }
        Ok(true)
    }
}

/// Copies `left` bytes of a file to a place of another one, inside the kernel where it can.
///
/// # Errors
/// The source ends before, or reading or writing fails.
pub fn copy_range(source: &File, mut from: u64, file: &File, mut to: u64, mut left: u64) -> Result<()> {
    while left > 0 {
        match rustix::fs::copy_file_range(source, Some(&mut from), file, Some(&mut to), left as usize) {
            Ok(0) => return Err(too_short()),
            Ok(count) => left -= count as u64,
            // Another filesystem, or one that cannot: by hand.
            Err(rustix::io::Errno::XDEV | rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP) => {
                let mut buffer = vec![0; CHUNK];
                while left > 0 {
                    let part = &mut buffer[..CHUNK.min(left as usize)];
                    source.read_exact_at(part, from).doing(|| "reading")?;
                    file.write_all_at(part, to).doing(|| "writing")?;
                    (from, to, left) = (from + part.len() as u64, to + part.len() as u64, left - part.len() as u64);
                }
            }
            Err(error) => return Err(Error::new(error)),
        }
    }
    Ok(())
}

fn too_short() -> Error {
    Error::new("it is shorter than expected").next("build it again")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::tool::Tool;

    fn bytes(length: u64) -> Vec<u8> {
        (0..length).map(|at| (at * 31 % 251) as u8).collect()
    }

    /// Memory takes nothing directly in some kernels; the disk does in all. Neither of the two shares.
    fn folders() -> [tempfile::TempDir; 2] {
        [tempfile::tempdir_in("/dev/shm").unwrap(), tempfile::tempdir_in("/var/tmp").unwrap()]
    }

    #[test]
    fn every_part_of_a_file_arrives_at_any_place_whatever_the_way() {
        for folder in folders() {
            let (source, target) = (folder.path().join("source"), folder.path().join("target"));
            std::fs::write(&source, bytes(40 << 20)).unwrap();
            for (from, to, length) in [
                (0, 0, 40 << 20),
                (4096, 65_536, (20 << 20) + 7),
                (1, 0, 3 << 20),
                (0, 511, 3 << 20),
                (8192, 4096, 100),
                (5, 0, 0),
            ] {
                let file = File::create(&target).unwrap();
                let source = File::open(&source).unwrap();
                Copier::new(&file, &target).copy(&source, from, to, length).unwrap();
                let mut expected = vec![0; if length == 0 { 0 } else { to as usize }];
                expected.extend(&bytes(40 << 20)[from as usize..(from + length) as usize]);
                assert!(std::fs::read(&target).unwrap() == expected, "{length} bytes from {from} to {to}");
            }
        }
    }

    /// What a filesystem has left, in bytes.
    fn free(folder: &Path) -> u64 {
        std::process::Command::new("sync").arg("-f").arg(folder).status().unwrap();
        let has = rustix::fs::statvfs(folder).unwrap();
        has.f_bfree * has.f_bsize
    }

    #[test]
    fn a_filesystem_that_can_share_takes_no_second_place() {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let (disk, at) = (folder.path().join("disk"), folder.path().join("at"));
        File::create(&disk).unwrap().set_len(256 << 20).unwrap();
        std::fs::create_dir(&at).unwrap();
        Tool::new("mkfs.btrfs").package("btrfs-progs").arg("--quiet").arg(&disk).run().unwrap();
        // The mount and its loop device are this thread's and end with it.
        let alone = std::thread::spawn(move || {
            // SAFETY: what this thread shares no more are mounts and the working folder.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }.unwrap();
            let private = rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
            rustix::mount::mount_change("/", private).unwrap();
            Tool::new("mount").args(["-o", "loop"]).arg(&disk).arg(&at).run().unwrap();
            let (source, target) = (at.join("source"), at.join("target"));
            std::fs::write(&source, bytes((64 << 20) + 5)).unwrap();
            let before = free(&at);
            let (file, source) = (File::create(&target).unwrap(), File::open(&source).unwrap());
            Copier::new(&file, &target).copy(&source, 0, 65_536, (64 << 20) + 5).unwrap();
            let taken = before - free(&at);
            assert!(std::fs::read(&target).unwrap()[65_536..] == bytes((64 << 20) + 5));
            assert!(taken < 1 << 20, "{taken} bytes");
            rustix::mount::unmount(&at, rustix::mount::UnmountFlags::DETACH).unwrap();
        });
        alone.join().unwrap();
    }

    #[test]
    fn a_source_that_ends_before_is_an_error_and_not_zeros() {
        for folder in folders() {
            let (source, target) = (folder.path().join("source"), folder.path().join("target"));
            std::fs::write(&source, bytes(3 << 20)).unwrap();
            let (file, source) = (File::create(&target).unwrap(), File::open(&source).unwrap());
            let error = Copier::new(&file, &target).copy(&source, 4096, 0, 3 << 20).unwrap_err();
            assert_eq!(error.to_string(), "it is shorter than expected\n  next: build it again");
        }
    }
}
