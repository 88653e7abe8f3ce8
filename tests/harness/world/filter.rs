//! The filter that says which system calls a world's tracer wants to see. All threads and children have it, too.

use super::World;
use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter};

/// Where `struct seccomp_data` has the call's number, the machine's kind and the low half of the first argument.
const NUMBER: u32 = 0;
const MACHINE: u32 = 4;
const FIRST: u32 = 16;
/// linux/audit.h: `EM_X86_64` with the bits for 64 and little-endian.
const X86_64: u32 = 0xc000_003e;

/// Calls that show the time of files.
const FILES: [i64; 5] = [libc::SYS_stat, libc::SYS_fstat, libc::SYS_lstat, libc::SYS_newfstatat, libc::SYS_statx];
/// Calls that show the clock, besides clock_gettime.
const CLOCKS: [i64; 2] = [libc::SYS_gettimeofday, libc::SYS_time];

/// The filter of a world: no more than what differs in it.
pub fn program(world: &World) -> Vec<sock_filter> {
    let load = |offset| statement(BPF_LD | BPF_W | BPF_ABS, offset);
    let end = |action| statement(BPF_RET | BPF_K, action);
    let mut program = vec![
        load(MACHINE),
        // Programs of 32 bits see the world as it is; no release has any.
        jump(X86_64, 1, 0),
        end(libc::SECCOMP_RET_ALLOW),
        load(NUMBER),
    ];
    let mut traced: Vec<i64> = Vec::new();
    if world.order.is_some() {
        traced.push(libc::SYS_getdents64);
    }
    if world.clock != 0 {
        traced.extend(FILES.iter().chain(&CLOCKS));
    }
    for number in traced {
        program.extend([jump(u32::try_from(number).unwrap(), 0, 1), end(libc::SECCOMP_RET_TRACE)]);
    }
    if world.clock != 0 {
        // Only the clocks that count from 1970.
        program.extend([
            jump(u32::try_from(libc::SYS_clock_gettime).unwrap(), 0, 4),
            load(FIRST),
            jump(u32::try_from(libc::CLOCK_REALTIME).unwrap(), 1, 0),
            jump(u32::try_from(libc::CLOCK_REALTIME_COARSE).unwrap(), 0, 1),
            end(libc::SECCOMP_RET_TRACE),
        ]);
    }
    program.push(end(libc::SECCOMP_RET_ALLOW));
    program
}

/// Puts this process under the filter, for good. It keeps the power of set-uid programs, which takes `CAP_SYS_ADMIN`.
///
/// # Errors
/// The kernel refuses.
pub fn install(filter: &[sock_filter]) -> std::io::Result<()> {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the kernel reads `len` statements and keeps a copy.
    match unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

/// Goes on so many statements further if what is loaded is `k`, and if it is not.
fn jump(k: u32, equal: u8, other: u8) -> sock_filter {
    sock_filter { code: (BPF_JMP | BPF_JEQ | BPF_K) as u16, jt: equal, jf: other, k }
}
