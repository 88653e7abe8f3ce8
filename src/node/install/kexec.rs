//! Starting a kernel from this one: the machine's firmware, which on servers takes minutes, is left out.

use crate::base::error::{Context, Error, Result};
use rustix::fs::{MemfdFlags, memfd_create};
use std::ffi::CString;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;

/// Makes the kernel ready to be started by [`start`].
///
/// # Errors
/// This kernel cannot, or may not: where it only takes signed ones, or has no `kexec_file_load`.
pub fn load(kernel: &[u8], initrd: &[u8], command_line: &str) -> Result<()> {
    let what = || "making the new kernel ready";
    let file = |name: &str, bytes: &[u8]| -> Result<File> {
        let mut file = File::from(memfd_create(name, MemfdFlags::CLOEXEC).doing(what)?);
        file.write_all(bytes).doing(what)?;
        Ok(file)
    };
    let (kernel, initrd) = (file("kernel", kernel)?, file("initrd", initrd)?);
    let command_line = CString::new(command_line).map_err(Error::new).doing(what)?;
    let bytes = command_line.as_bytes_with_nul();
    // SAFETY: kexec_file_load(2): two open files, and a string with its length, final zero included; the kernel only reads them.
    let result = unsafe {
        libc::syscall(libc::SYS_kexec_file_load, kernel.as_raw_fd(), initrd.as_raw_fd(), bytes.len(), bytes.as_ptr(), 0_u64)
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()).doing(what) }
}

/// Starts what [`load`] made ready; does not come back unless the kernel refuses.
///
/// # Errors
/// It refuses.
pub fn start() -> Result<()> {
    rustix::fs::sync();
    rustix::system::reboot(rustix::system::RebootCommand::Kexec).doing(|| "starting the new kernel")
}
