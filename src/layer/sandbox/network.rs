//! The network of a sandbox whose program shall believe that it is on its node: a loopback interface and every address.

use crate::base::error::{Context, Result};
use rustix::net::{AddressFamily, SocketType, socket};
use std::os::fd::AsRawFd;

/// Linux then lets programs listen on addresses that no interface has, in this network namespace.
const ANY_ADDRESS: [&str; 2] = ["/proc/sys/net/ipv4/ip_nonlocal_bind", "/proc/sys/net/ipv6/ip_nonlocal_bind"];

/// Brings the loopback interface of the process's network namespace up.
///
/// # Errors
/// The process may not.
pub(super) fn raise() -> Result<()> {
    let what = || "bringing the loopback interface up";
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None).doing(what)?;
    // SAFETY: all bytes zero is a valid value: an empty name and no flags.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: a socket of ours and a request that outlives the call.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) } < 0 {
        return Err(std::io::Error::last_os_error()).doing(what);
    }
    for path in ANY_ADDRESS {
        // A kernel without IPv6 has no such file.
        if std::path::Path::new(path).exists() {
            std::fs::write(path, "1").doing(|| format!("writing {path}"))?;
        }
    }
    Ok(())
}
