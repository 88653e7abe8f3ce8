//! Owners for those who have one id only: programs are told that they gave files away, and what they gave is written down.
//!
//! Where the machine has no `newuidmap`, or the user no subordinate ids, a user namespace has nobody but root. The kernel then refuses
//! every other owner. So the calls that give files away are answered here, by seccomp's notifications (seccomp_unotify(2)), and so are
//! those that ask for an owner: a program that copies a file with its owner finds the right one.
//!
//! ```text
//! pid 1, answers ─┬─ command ── its children      chown and the like: noted in an attribute, see `layer::owner`
//!                 │                               stat and the like: with the owner that is noted, if one is
//!                 │                               getxattr and the like: access control lists that are noted
//!                 └─ …                            setuid and the like: succeed, and change nothing
//! ```

use crate::base::error::{Context, Error, Result};
use crate::layer::owner;
use libc::{c_int, c_long, c_void, sock_filter};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Calls that are answered.
const ANSWERED: [c_long; 21] = [
    libc::SYS_chown,
    libc::SYS_fchown,
    libc::SYS_lchown,
    libc::SYS_fchownat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_getxattr,
    libc::SYS_lgetxattr,
    libc::SYS_fgetxattr,
    libc::SYS_listxattr,
    libc::SYS_llistxattr,
    libc::SYS_flistxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    libc::SYS_stat,
    libc::SYS_fstat,
    libc::SYS_lstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
];
/// Calls that succeed and change nothing: there is no other account that one could become.
const EMPTY: [c_long; 9] = [
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setgroups,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
];
/// `AUDIT_ARCH_X86_64` of the kernel's audit.h.
const ARCHITECTURE: u32 = 0xc000_003e;

/// Forks: comes back in the child, whose calls are answered from now on; the parent answers, and exits with the child's code.
///
/// # Errors
/// The kernel has no such notifications (they are in 5.6 and newer), or refuses them.
pub(super) fn answered() -> Result<()> {
    let what = || "having owners written down";
    let (mut from, mut to) = io::pipe().doing(what)?;
    let (mut wait, ready) = io::pipe().doing(what)?;
    // SAFETY: one thread; the child goes on as this process would have.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()).doing(what),
        0 => {
            drop((from, ready));
            let listener = listen().doing(what)?;
            to.write_all(&listener.as_raw_fd().to_le_bytes()).doing(what)?;
            // Until the parent has it too, and says so by closing its end.
            wait.read_to_end(&mut Vec::new()).doing(what)?;
            Ok(())
        }
        child => {
            drop((to, wait));
            std::process::exit(answer(child, &mut from, ready)?);
        }
    }
}

/// Installs the filter; what its notifications come from.
fn listen() -> Result<OwnedFd> {
    let statement = |code: u32, k: u32| sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let equal =
        |k: u32, jt: usize| sock_filter { code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, jt: jt as u8, jf: 0, k };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let give = libc::BPF_RET | libc::BPF_K;
    // Of `seccomp_data`: the call's number at 0, the architecture at 4.
    let mut filter =
        vec![statement(load, 4), equal(ARCHITECTURE, 1), statement(give, libc::SECCOMP_RET_ALLOW), statement(load, 0)];
    // Behind the comparisons stand the three results.
    let all = ANSWERED.len() + EMPTY.len();
    for (index, call) in ANSWERED.iter().enumerate() {
        filter.push(equal(*call as u32, all - index));
    }
    for (index, call) in EMPTY.iter().enumerate() {
        filter.push(equal(*call as u32, EMPTY.len() - index + 1));
    }
    filter.push(statement(give, libc::SECCOMP_RET_ALLOW));
    filter.push(statement(give, libc::SECCOMP_RET_USER_NOTIF));
    filter.push(statement(give, libc::SECCOMP_RET_ERRNO));
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program outlives the call, which copies it.
    let listener = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        )
    };
    if listener < 0 {
        return Err(Error::new(io::Error::last_os_error()).doing("filtering calls"));
    }
    // SAFETY: a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(listener as c_int) })
}

/// Answers until the child has ended; its exit code.
fn answer(child: c_int, from: &mut impl Read, ready: io::PipeWriter) -> Result<c_int> {
    let what = || "writing owners down";
    let mut number = [0; 4];
    from.read_exact(&mut number).doing(what)?;
    let process = Pid::from_raw(child).ok_or_else(|| Error::new("a child has no number"))?;
    let ended = pidfd_open(process, PidfdFlags::empty()).doing(what)?;
    let listener = pidfd_getfd(&ended, c_int::from_le_bytes(number), PidfdGetfdFlags::empty()).doing(what)?;
    drop(ready);
    loop {
        let mut both = [&listener, &ended].map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 });
        // SAFETY: two valid entries.
        if unsafe { libc::poll(both.as_mut_ptr(), 2, -1) } < 0 {
            continue;
        }
        if both[0].revents & libc::POLLIN != 0 {
            answer_one(&listener).doing(what)?;
        } else if both[1].revents != 0 {
            break;
        }
        reap_others(child);
    }
    super::wait_for(child, None).map(Option::unwrap_or_default)
}

/// Processes whose parents have ended are the first process's children.
fn reap_others(child: c_int) {
    loop {
        // SAFETY: `info` is written by the call; it takes no status away yet.
        let pid = unsafe {
            let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
            let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
            if libc::waitid(libc::P_ALL, 0, info.as_mut_ptr(), flags) != 0 {
                return;
            }
            info.assume_init().si_pid()
        };
        if pid == 0 || pid == child {
            return;
        }
        // SAFETY: a child of ours that has ended.
        unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
    }
}

fn answer_one(listener: &OwnedFd) -> io::Result<()> {
    let mut call = MaybeUninit::<libc::seccomp_notif>::zeroed();
    // SAFETY: the kernel writes the structure, which must be zero before.
    let call = unsafe {
        if libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV as _, call.as_mut_ptr()) != 0 {
            let error = io::Error::last_os_error();
            // The caller has ended meanwhile, or something woke this process.
            let gone = [Some(libc::ENOENT), Some(libc::EINTR)].contains(&error.raw_os_error());
            return if gone { Ok(()) } else { Err(error) };
        }
        call.assume_init()
    };
    let answer = Call { process: call.pid, number: c_long::from(call.data.nr), arguments: call.data.args }.answer();
    let (val, error, flags) = match answer {
        Some(Ok(value)) => (value, 0, 0),
        Some(Err(number)) => (0, -number, 0),
        None => (0, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
    };
    let mut response = libc::seccomp_notif_resp { id: call.id, val, error, flags };
    // SAFETY: the kernel reads the structure.
    if unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND as _, &raw mut response) } != 0 {
        let error = io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::ENOENT) { Ok(()) } else { Err(error) };
    }
    Ok(())
}

/// What a call comes back with: its value, or the number of an error.
type Answer = std::result::Result<i64, c_int>;

/// A call of a process of the sandbox. The process waits, so what its arguments point to stays.
struct Call {
    process: u32,
    number: c_long,
    arguments: [u64; 6],
}

impl Call {
    /// What it comes back with. `None` where the kernel is to carry it out: it knows the right error best.
    fn answer(&self) -> Option<Answer> {
        let [a, b, c, d, e, _] = self.arguments;
        let cwd = i64::from(libc::AT_FDCWD) as u64;
        let path = || self.path(cwd, a, 0);
        let link = || self.path(cwd, a, libc::AT_SYMLINK_NOFOLLOW);
        let descriptor = || self.descriptor(a);
        match self.number {
            libc::SYS_chown => give(&path()?, b, c),
            libc::SYS_lchown => give(&link()?, b, c),
            libc::SYS_fchown => give(&descriptor()?, b, c),
            libc::SYS_fchownat => give(&self.path(a, b, e as c_int)?, c, d),
            libc::SYS_setxattr => self.set_acl(path, b, c, d),
            libc::SYS_lsetxattr => self.set_acl(link, b, c, d),
            libc::SYS_fsetxattr => self.set_acl(descriptor, b, c, d),
            libc::SYS_getxattr => self.get_acl(path, b, c, d),
            libc::SYS_lgetxattr => self.get_acl(link, b, c, d),
            libc::SYS_fgetxattr => self.get_acl(descriptor, b, c, d),
            libc::SYS_listxattr => self.give_bytes(&owner::attributes(&path()?)?, b, c),
            libc::SYS_llistxattr => self.give_bytes(&owner::attributes(&link()?)?, b, c),
            libc::SYS_flistxattr => self.give_bytes(&owner::attributes(&descriptor()?)?, b, c),
            libc::SYS_removexattr => self.remove_acl(path, b),
            libc::SYS_lremovexattr => self.remove_acl(link, b),
            libc::SYS_fremovexattr => self.remove_acl(descriptor, b),
            libc::SYS_stat => self.stat(&path()?, b),
            libc::SYS_lstat => self.stat(&link()?, b),
            libc::SYS_fstat => self.stat(&descriptor()?, b),
            libc::SYS_newfstatat => self.stat(&self.path(a, b, d as c_int)?, c),
            libc::SYS_statx => self.statx(&self.path(a, b, c as c_int)?, d, e),
            _ => None,
        }
    }

    /// What a descriptor of the process is.
    fn descriptor(&self, number: u64) -> Option<File> {
        open(&format!("/proc/{}/fd/{}", self.process, number as c_int), 0)
    }

    /// What a path of the process's leads to. This process has the same root.
    fn path(&self, folder: u64, address: u64, flags: c_int) -> Option<File> {
        let path = self.text(address)?;
        if path.is_empty() {
            let at = folder as c_int != libc::AT_FDCWD && flags & libc::AT_EMPTY_PATH != 0;
            return at.then(|| self.descriptor(folder))?;
        }
        if let Some(number) = path.strip_prefix("/proc/self/fd/").filter(|_| flags & libc::AT_SYMLINK_NOFOLLOW == 0) {
            return self.descriptor(number.parse().ok()?);
        }
        // Of these some are others for each process; none is a file of a layer.
        if path.starts_with("/proc/") || path.starts_with("/dev/") {
            return None;
        }
        let nofollow = if flags & libc::AT_SYMLINK_NOFOLLOW == 0 { 0 } else { libc::O_NOFOLLOW };
        match (path.starts_with('/'), folder as c_int) {
            (true, _) => open(&path, nofollow),
            (false, libc::AT_FDCWD) => open(&format!("/proc/{}/cwd/{path}", self.process), nofollow),
            (false, folder) => open(&format!("/proc/{}/fd/{folder}/{path}", self.process), nofollow),
        }
    }

    /// An attribute's name, if it is that of an access control list.
    fn acl(&self, name: u64) -> Option<String> {
        self.text(name).filter(|name| owner::is_acl(name))
    }

    /// Notes an access control list, which names owners too.
    fn set_acl(&self, file: impl FnOnce() -> Option<File>, name: u64, value: u64, size: u64) -> Option<Answer> {
        let name = self.acl(name)?;
        let size = usize::try_from(size).ok().filter(|size| *size <= 65_536)?;
        let noted = owner::note_acl(&file()?, &name, &self.bytes(value, size)?).ok()?;
        noted.then_some(Ok(0))
    }

    fn get_acl(&self, file: impl FnOnce() -> Option<File>, name: u64, value: u64, size: u64) -> Option<Answer> {
        let name = self.acl(name)?;
        self.give_bytes(&owner::noted_acl(&file()?, &name)?, value, size)
    }

    fn remove_acl(&self, file: impl FnOnce() -> Option<File>, name: u64) -> Option<Answer> {
        let name = self.acl(name)?;
        owner::forget_acl(&file()?, &name).ok()?.then_some(Ok(0))
    }

    /// Writes bytes to a buffer of `size`, or tells how many they are where that is 0, as calls for attributes do.
    fn give_bytes(&self, bytes: &[u8], address: u64, size: u64) -> Option<Answer> {
        match size {
            0 => (),
            size if size < bytes.len() as u64 => return Some(Err(libc::ERANGE)),
            _ => self.write(address, bytes)?,
        }
        Some(Ok(bytes.len() as i64))
    }

    fn stat(&self, file: &File, address: u64) -> Option<Answer> {
        let (uid, gid) = owner::noted(file)?;
        let mut stat = MaybeUninit::<libc::stat>::zeroed();
        // SAFETY: the kernel writes the structure.
        if unsafe { libc::fstat(file.as_raw_fd(), stat.as_mut_ptr()) } != 0 {
            return None;
        }
        // SAFETY: zeroed, then written.
        let mut stat = unsafe { stat.assume_init() };
        (stat.st_uid, stat.st_gid) = (uid, gid);
        self.write(address, bytes_of(&stat)).map(|()| Ok(0))
    }

    fn statx(&self, file: &File, mask: u64, address: u64) -> Option<Answer> {
        let (uid, gid) = owner::noted(file)?;
        let mut stat = MaybeUninit::<libc::statx>::zeroed();
        // SAFETY: the kernel writes the structure.
        if unsafe { libc::statx(file.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, mask as u32, stat.as_mut_ptr()) } != 0 {
            return None;
        }
        // SAFETY: zeroed, then written.
        let mut stat = unsafe { stat.assume_init() };
        (stat.stx_uid, stat.stx_gid) = (uid, gid);
        self.write(address, bytes_of(&stat)).map(|()| Ok(0))
    }

    /// The text at an address of the process.
    fn text(&self, address: u64) -> Option<String> {
        let mut bytes = Vec::new();
        while bytes.len() < libc::PATH_MAX as usize {
            // Up to the end of a page: what is behind may not be there.
            let at = address + bytes.len() as u64;
            bytes.extend(self.bytes(at, 4096 - (at % 4096) as usize)?);
            if let Ok(text) = CStr::from_bytes_until_nul(&bytes) {
                return text.to_str().ok().map(str::to_string);
            }
        }
        None
    }

    /// So many bytes from an address of the process on.
    fn bytes(&self, address: u64, size: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; size];
        let local = libc::iovec { iov_base: bytes.as_mut_ptr().cast::<c_void>(), iov_len: size };
        let remote = libc::iovec { iov_base: address as *mut c_void, iov_len: size };
        // SAFETY: `bytes` has the room.
        let count = unsafe { libc::process_vm_readv(self.process as c_int, &raw const local, 1, &raw const remote, 1, 0) };
        (usize::try_from(count) == Ok(size)).then_some(bytes)
    }

    /// Writes to an address of the process.
    fn write(&self, address: u64, bytes: &[u8]) -> Option<()> {
        let local = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast::<c_void>(), iov_len: bytes.len() };
        let remote = libc::iovec { iov_base: address as *mut c_void, iov_len: bytes.len() };
        // SAFETY: reads as many bytes as there are.
        let count = unsafe { libc::process_vm_writev(self.process as c_int, &raw const local, 1, &raw const remote, 1, 0) };
        (usize::try_from(count) == Ok(bytes.len())).then_some(())
    }
}

/// A structure of the kernel's as it lies in memory.
fn bytes_of<T>(value: &T) -> &[u8] {
    // SAFETY: the kernel's structures have no bytes that are not theirs; they were zeroed before.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast::<u8>(), size_of::<T>()) }
}

/// A place in the tree, neither read nor written.
fn open(path: &str, flags: c_int) -> Option<File> {
    let path = CString::new(path).ok()?;
    // SAFETY: the text ends with a zero.
    let number = unsafe { libc::open(path.as_ptr(), libc::O_PATH | libc::O_CLOEXEC | flags) };
    // SAFETY: a new descriptor that nobody else has.
    (number >= 0).then(|| unsafe { File::from_raw_fd(number) })
}

/// Notes an owner; -1 leaves a number as it is.
fn give(file: &File, uid: u64, gid: u64) -> Option<Answer> {
    let (old_uid, old_gid) = owner::noted(file).unwrap_or((0, 0));
    let or = |new: u64, old: u32| if new as u32 == u32::MAX { old } else { new as u32 };
    // What cannot have a note, a link or a socket, stays root's.
    owner::note(file, or(uid, old_uid), or(gid, old_gid)).is_ok().then_some(Ok(0))
}
