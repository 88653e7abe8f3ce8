//! One traced process or thread: what it waits for, its registers, its memory. Whatever fails here fails because it is just being
//! ended, of which the next wait tells.

use libc::c_void;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// A traced thread, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tracee(pub i32);

/// Why a tracee waits for its tracer.
#[derive(Debug, PartialEq, Eq)]
pub enum Waiting {
    /// It does not: it has ended.
    Ended(ExitStatus),
    /// It begins a system call that the filter names.
    Enters,
    /// It has the answer to one.
    Leaves,
    /// It has become another program.
    Execs,
    /// It has a child or a thread.
    Event,
    /// It gets a signal.
    Signal(i32),
}

/// A system call.
#[derive(Clone, Copy)]
pub struct Call {
    pub number: i64,
    pub arguments: [u64; 6],
    pub result: i64,
    registers: libc::user_regs_struct,
}

const OPTIONS: i32 = libc::PTRACE_O_TRACESYSGOOD
    | libc::PTRACE_O_TRACESECCOMP
    | libc::PTRACE_O_TRACEFORK
    | libc::PTRACE_O_TRACEVFORK
    | libc::PTRACE_O_TRACECLONE
    | libc::PTRACE_O_TRACEEXEC
    | libc::PTRACE_O_EXITKILL;
/// getauxval(3): where the vDSO is, and an entry that says nothing.
const AT_SYSINFO_EHDR: u64 = 33;
const AT_IGNORE: u64 = 1;

impl Tracee {
    /// Waits for this one.
    pub fn wait(self) -> Option<Waiting> {
        wait(self.0).map(|(_, waiting)| waiting)
    }

    /// Waits for whichever tracee of this thread has something to say; `None` when there is none left.
    pub fn wait_for_any() -> Option<(Self, Waiting)> {
        wait(-1)
    }

    /// Has it, and all that it starts, stop where a tracer has to look, and end with the tracer.
    pub fn obey(self) {
        self.request(libc::PTRACE_SETOPTIONS, 0, OPTIONS as usize);
    }

    /// Lets it run on, with a signal or none.
    pub fn go_on(self, signal: i32) {
        self.request(libc::PTRACE_CONT, 0, usize::try_from(signal).unwrap_or_default());
    }

    /// Lets the system call that it begins have its answer.
    pub fn go_on_to_answer(self) {
        self.request(libc::PTRACE_SYSCALL, 0, 0);
    }

    /// The system call in which it stands.
    pub fn call(self) -> Option<Call> {
        // SAFETY: numbers only.
        let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        if !self.request(libc::PTRACE_GETREGS, 0, &raw mut registers as usize) {
            return None;
        }
        let libc::user_regs_struct { rdi, rsi, rdx, r10, r8, r9, .. } = registers;
        Some(Call {
            number: registers.orig_rax.cast_signed(),
            arguments: [rdi, rsi, rdx, r10, r8, r9],
            result: registers.rax.cast_signed(),
            registers,
        })
    }

    /// Answers the system call that it begins in the kernel's place, and lets it run on.
    pub fn answer(self, call: Call, result: i64) {
        let mut registers = call.registers;
        // No system call at all: the kernel leaves the answer as it is.
        registers.orig_rax = u64::MAX;
        registers.rax = result.cast_unsigned();
        self.request(libc::PTRACE_SETREGS, 0, &raw const registers as usize);
        self.go_on(0);
    }

    /// Hides the kernel's own code in a program that has just begun, which tells the time without a system call.
    pub fn hide_vdso(self) {
        let Some(call) = self.call() else { return };
        let mut address = call.registers.rsp;
        let mut word = || {
            let mut bytes = [0; 8];
            let read = self.read_exactly(address, &mut bytes);
            address += 8;
            read.then(|| (address - 8, u64::from_ne_bytes(bytes)))
        };
        // Their number and the arguments, the environment, each list up to a zero; then pairs of key and value.
        word();
        for _ in 0..2 {
            while word().is_some_and(|(_, value)| value != 0) {}
        }
        while let Some((place, key)) = word() {
            match key {
                0 => return,
                AT_SYSINFO_EHDR => {
                    self.write(place, &[AT_IGNORE]);
                }
                _ => {}
            }
            word();
        }
    }

    /// Fills the bytes from its memory; whether that could be done.
    pub fn read_exactly(self, address: u64, bytes: &mut [u8]) -> bool {
        let here = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        let there = libc::iovec { iov_base: address as *mut c_void, iov_len: bytes.len() };
        // SAFETY: one valid piece of memory here; there the kernel checks it.
        let read = unsafe { libc::process_vm_readv(self.0, &raw const here, 1, &raw const there, 1, 0) };
        usize::try_from(read) == Ok(bytes.len())
    }

    /// Writes numbers to its memory; whether that could be done.
    pub fn write<T: Copy>(self, address: u64, values: &[T]) -> bool {
        let length = size_of_val(values);
        let here = libc::iovec { iov_base: values.as_ptr().cast_mut().cast(), iov_len: length };
        let there = libc::iovec { iov_base: address as *mut c_void, iov_len: length };
        // SAFETY: one valid piece of memory here, which is only read; there the kernel checks it.
        let written = unsafe { libc::process_vm_writev(self.0, &raw const here, 1, &raw const there, 1, 0) };
        usize::try_from(written) == Ok(length)
    }

    /// Reads a structure of numbers from its memory; whether that could be done.
    pub fn read_value<T: Copy>(self, address: u64, value: &mut T) -> bool {
        // SAFETY: as many bytes as the value has; a structure of numbers takes any.
        self.read_exactly(address, unsafe { std::slice::from_raw_parts_mut(std::ptr::from_mut(value).cast(), size_of::<T>()) })
    }

    /// Writes a structure to its memory.
    pub fn write_value<T: Copy>(self, address: u64, value: &T) -> bool {
        self.write(address, std::slice::from_ref(value))
    }

    fn request(self, request: libc::c_uint, address: usize, data: usize) -> bool {
        // SAFETY: a request about another thread; what `data` may point to outlives the call.
        unsafe { libc::ptrace(request, self.0, address, data) == 0 }
    }
}

fn wait(number: i32) -> Option<(Tracee, Waiting)> {
    let mut status = 0;
    let found = loop {
        // SAFETY: waits for tracees of this thread, not for other children of the process.
        match unsafe { libc::waitpid(number, &raw mut status, libc::__WALL | libc::__WNOTHREAD) } {
            -1 if std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted => {}
            -1 => return None,
            found => break Tracee(found),
        }
    };
    if !libc::WIFSTOPPED(status) {
        return Some((found, Waiting::Ended(ExitStatus::from_raw(status))));
    }
    let waiting = match (libc::WSTOPSIG(status), status >> 16) {
        (libc::SIGTRAP, libc::PTRACE_EVENT_SECCOMP) => Waiting::Enters,
        (libc::SIGTRAP, libc::PTRACE_EVENT_EXEC) => Waiting::Execs,
        (libc::SIGTRAP, 1..) => Waiting::Event,
        (signal, _) if signal == libc::SIGTRAP | 0x80 => Waiting::Leaves,
        (signal, _) => Waiting::Signal(signal),
    };
    Some((found, waiting))
}
