//! Loop devices on ranges of a block device, or on a whole file. Interface: linux/loop.h.

use crate::base::error::{Context, Error, Result};
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
    // Direct I/O keeps pages from being cached twice; the kernel drops the flag where it cannot be.
    make(&fs::open(device)?, offset, size, READ_ONLY | AUTOCLEAR | DIRECT_IO)
        .doing(|| format!("making a loop device on {}", device.display()))
}

/// Makes a loop device of a whole file, which can be written, and gives its path.
///
/// It goes away by itself when the returned file is closed and nobody else has the device open.
///
/// # Errors
/// The kernel has no loop devices or refuses.
pub fn attach_disk(file: &Path) -> Result<(PathBuf, File)> {
    let what = || format!("making a loop device of {}", file.display());
    let backing = OpenOptions::new().read(true).write(true).open(file).doing(what)?;
    make(&backing, 0, 0, AUTOCLEAR | DIRECT_IO).doing(what)
}

fn make(backing: &File, offset: u64, size: u64, flags: u32) -> Result<(PathBuf, File)> {
    let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control").doing(|| "opening /dev/loop-control")?;
    // SAFETY: these requests take an integer or a pointer to the structures above, which live across the calls.
    let ioctl = |file: &File, request, argument: usize| match unsafe { libc::ioctl(file.as_raw_fd(), request, argument) } {
        -1 => Err(std::io::Error::last_os_error()),
        value => Ok(value),
    };
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
    let config = Config { fd: backing.as_raw_fd() as u32, block_size: 0, info: info(flags), reserved: [0; 8] };
    loop {
        let number = ioctl(&control, LOOP_CTL_GET_FREE, 0).map_err(Error::new)?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        // One opened for reading is read-only by itself.
        let file = OpenOptions::new().read(true).write(flags & READ_ONLY == 0).open(&path).map_err(Error::new)?;
        match ioctl(&file, LOOP_CONFIGURE, &raw const config as usize) {
            Ok(_) => return Ok((path, file)),
            // Somebody else was faster.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            Err(_) => {
                // Before Linux 5.8: in two steps.
                let info = info(AUTOCLEAR);
                ioctl(&file, LOOP_SET_FD, backing.as_raw_fd() as usize).map_err(Error::new)?;
                ioctl(&file, LOOP_SET_STATUS64, &raw const info as usize).map_err(Error::new)?;
                return Ok((path, file));
            }
        }
    }
}
