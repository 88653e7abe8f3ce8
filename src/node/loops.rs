//! Loop devices on ranges of a block device. Interface: linux/loop.h.

use crate::base::error::{Context, Result};
use crate::base::fs;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

const LOOP_SET_FD: libc::Ioctl = 0x4c00;
const LOOP_SET_STATUS64: libc::Ioctl = 0x4c04;
const LOOP_CONFIGURE: libc::Ioctl = 0x4c0a;
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4c82;
const READ_ONLY: u32 = 1;
const AUTOCLEAR: u32 = 4;
const DIRECT_IO: u32 = 16;

/// `struct loop_info64`.
#[repr(C)]
struct Info {
    unused: [u64; 3],
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt: [u32; 2],
    flags: u32,
    names: [u8; 64 + 64 + 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

/// Makes a read-only loop device of `size` bytes at `offset` of `device` and gives its path.
///
/// It goes away by itself when the returned file is closed and nothing is mounted from it.
///
/// # Errors
/// The kernel has no loop devices or refuses.
pub fn attach(device: &Path, offset: u64, size: u64) -> Result<(PathBuf, File)> {
    let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control").doing(|| "opening /dev/loop-control")?;
    let backing = fs::open(device)?;
    let what = || format!("making a loop device on {}", device.display());
    // SAFETY: these requests take an integer or a pointer to the structures above, which live across the calls.
    let ioctl = |file: &File, request, argument: usize| match unsafe { libc::ioctl(file.as_raw_fd(), request, argument) } {
        -1 => Err(std::io::Error::last_os_error()),
        value => Ok(value),
    };
    let number = ioctl(&control, LOOP_CTL_GET_FREE, 0).doing(what)?;
    let path = PathBuf::from(format!("/dev/loop{number}"));
    let file = fs::open(&path)?;
    let info = |flags| Info {
        unused: [0; 3],
        offset,
        size_limit: size,
        number: 0,
        encrypt: [0; 2],
        flags,
        names: [0; 160],
        init: [0; 2],
    };
    // Direct I/O keeps pages from being cached twice; the kernel drops the flag where it cannot be.
    let config =
        Config { fd: backing.as_raw_fd() as u32, block_size: 0, info: info(READ_ONLY | AUTOCLEAR | DIRECT_IO), reserved: [0; 8] };
    if ioctl(&file, LOOP_CONFIGURE, &raw const config as usize).is_err() {
        // Before Linux 5.8: in two steps. A device opened for reading is read-only by itself.
        let info = info(AUTOCLEAR);
        ioctl(&file, LOOP_SET_FD, backing.as_raw_fd() as usize).doing(what)?;
        ioctl(&file, LOOP_SET_STATUS64, &raw const info as usize).doing(what)?;
    }
    Ok((path, file))
}
