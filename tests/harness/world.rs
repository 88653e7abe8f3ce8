//! Runs a command in another world: with the clock of another year, folders listed in another order, on one core.
//!
//! ```ignore
//! World { clock: -YEAR, order: Some(7), core: Some(0) }.run(Command::new("date"))
//! ```
//!
//! The command and all that it starts are traced (ptrace(2)). Of the few system calls that show time or order a filter (seccomp(2))
//! tells the tracer, which changes what they answer; all others run at full speed. The kernel itself goes on stamping files with the
//! true time, so what was made since the world began is shown as old as the world's own clock would have made it.
//!
//! Nothing of a world outlives [`World::run`]: whoever is still alive when the command has ended is ended by the kernel, together with
//! the tracer. x86-64 only; root only, since the filter must not take the power of set-uid programs away.

mod filter;
mod tracee;

use libc::{CLOCK_REALTIME, CLOCK_REALTIME_COARSE, timespec};
use std::collections::HashSet;
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Output, Stdio};
use tracee::{Tracee, Waiting};

/// Seconds of a year.
pub const YEAR: i64 = 365 * 24 * 3600;

/// What is different.
#[derive(Debug, Clone, Copy, Default)]
pub struct World {
    /// How many seconds the clock is ahead of this machine's; it may be behind.
    pub clock: i64,
    /// Lists folders in another order for each number, which is the same at every look.
    pub order: Option<u64>,
    /// The only core to run on, counted among those that this process may use.
    pub core: Option<usize>,
}

/// A world that has begun: what the tracer needs to know.
struct Begun {
    world: World,
    begin: timespec,
}

impl World {
    /// Runs a command to its end.
    #[track_caller]
    pub fn run(&self, command: &mut Command) -> Output {
        super::must_be_root();
        // Files and not pipes: nobody has to read them meanwhile.
        let [stdout, stderr] = [(); 2].map(|()| tempfile::tempfile().unwrap());
        command.stdin(Stdio::null()).stdout(stdout.try_clone().unwrap()).stderr(stderr.try_clone().unwrap());
        let (filter, cores) = (filter::program(self), self.cores());
        // SAFETY: only system calls, on what was made before the fork.
        unsafe {
            command.pre_exec(move || {
                rustix::thread::sched_setaffinity(None, &cores)?;
                if libc::ptrace(libc::PTRACE_TRACEME) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
                filter::install(&filter)
            });
        }
        // Tracing is the business of one thread; with its end the kernel ends whoever is left.
        let status = std::thread::scope(|scope| scope.spawn(|| self.trace(command)).join()).unwrap();
        let read = |mut file: std::fs::File| {
            let mut bytes = Vec::new();
            file.rewind().and_then(|()| file.read_to_end(&mut bytes)).unwrap();
            bytes
        };
        Output { status, stdout: read(stdout), stderr: read(stderr) }
    }

    fn cores(&self) -> rustix::thread::CpuSet {
        let all = rustix::thread::sched_getaffinity(None).unwrap();
        let Some(core) = self.core else { return all };
        let allowed: Vec<usize> = (0..rustix::thread::CpuSet::MAX_CPU).filter(|core| all.is_set(*core)).collect();
        let mut one = rustix::thread::CpuSet::new();
        one.set(allowed[core % allowed.len()]);
        one
    }

    fn trace(&self, command: &mut Command) -> ExitStatus {
        // On the core of whom it answers, if that is one: nothing is faster than not to wake another one. And before whoever else wants
        // that core, since all that it does is short; the command itself has no such right.
        rustix::thread::sched_setaffinity(None, &self.cores()).unwrap();
        let first = libc::sched_param { sched_priority: 1 };
        // SAFETY: about this thread alone.
        unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const first) };
        // Files are stamped with the coarse clock.
        let begun = Begun { world: *self, begin: clock_gettime(CLOCK_REALTIME_COARSE) };
        let child = Tracee(i32::try_from(command.spawn().expect("the command cannot be started").id()).unwrap());
        // Started by `PTRACE_TRACEME`, it stops behind its exec. A system call of the filter's would have failed until now.
        assert_eq!(child.wait(), Some(Waiting::Signal(libc::SIGTRAP)), "the command was ended before it began");
        child.obey();
        child.hide_vdso();
        child.go_on(0);
        let mut known = HashSet::from([child.0]);
        loop {
            let Some((tracee, waiting)) = Tracee::wait_for_any() else { panic!("the command is gone without an end") };
            match waiting {
                Waiting::Ended(status) if tracee == child => return status,
                Waiting::Ended(_) => {
                    known.remove(&tracee.0);
                }
                Waiting::Enters => begun.enter(tracee),
                Waiting::Leaves => {
                    begun.leave(tracee);
                    tracee.go_on(0);
                }
                Waiting::Execs => {
                    tracee.hide_vdso();
                    tracee.go_on(0);
                }
                Waiting::Event => tracee.go_on(0),
                // Every process and thread begins its life under a tracer with this one.
                Waiting::Signal(libc::SIGSTOP) if known.insert(tracee.0) => tracee.go_on(0),
                Waiting::Signal(signal) => tracee.go_on(signal),
            }
        }
    }
}

impl Begun {
    /// What this world's clock shows.
    fn now(&self, clock: libc::clockid_t) -> timespec {
        let now = clock_gettime(clock);
        timespec { tv_sec: now.tv_sec + self.world.clock, ..now }
    }

    /// Moves a file's time, if it is one of this world.
    fn shift(&self, seconds: &mut i64, nanoseconds: i64) {
        if (*seconds, nanoseconds) >= (self.begin.tv_sec, self.begin.tv_nsec) {
            *seconds += self.world.clock;
        }
    }

    /// A system call of the filter's begins: clocks are read here, of all others the answer is awaited.
    fn enter(&self, tracee: Tracee) {
        let Some(call) = tracee.call() else { return tracee.go_on(0) };
        let [first, second, ..] = call.arguments;
        match call.number {
            libc::SYS_clock_gettime => {
                let now = self.now(i32::try_from(first).unwrap());
                tracee.answer(call, if tracee.write(second, &[now.tv_sec, now.tv_nsec]) { 0 } else { -libc::EFAULT as i64 });
            }
            libc::SYS_gettimeofday => {
                let now = self.now(CLOCK_REALTIME);
                let written = first == 0 || tracee.write(first, &[now.tv_sec, now.tv_nsec / 1000]);
                // The time zone, which the kernel has none of.
                let written = written && (second == 0 || tracee.write(second, &[0i64]));
                tracee.answer(call, if written { 0 } else { -libc::EFAULT as i64 });
            }
            libc::SYS_time => {
                let seconds = self.now(CLOCK_REALTIME_COARSE).tv_sec;
                let written = first == 0 || tracee.write(first, &[seconds]);
                tracee.answer(call, if written { seconds } else { -libc::EFAULT as i64 });
            }
            _ => tracee.go_on_to_answer(),
        }
    }

    /// A system call has its answer.
    fn leave(&self, tracee: Tracee) {
        let Some(call) = tracee.call() else { return };
        let [_, second, third, _, fifth, _] = call.arguments;
        match call.number {
            libc::SYS_getdents64 if call.result > 0 => {
                let order = self.world.order.unwrap_or_default();
                let mut bytes = vec![0u8; usize::try_from(call.result).unwrap()];
                if tracee.read_exactly(second, &mut bytes) {
                    tracee.write(second, &shuffled(&bytes, order));
                }
            }
            libc::SYS_stat | libc::SYS_fstat | libc::SYS_lstat if call.result == 0 => self.shift_stat(tracee, second),
            libc::SYS_newfstatat if call.result == 0 => self.shift_stat(tracee, third),
            libc::SYS_statx if call.result == 0 => self.shift_statx(tracee, fifth),
            _ => {}
        }
    }

    fn shift_stat(&self, tracee: Tracee, address: u64) {
        // SAFETY: numbers only.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        if tracee.read_value(address, &mut stat) {
            self.shift(&mut stat.st_atime, stat.st_atime_nsec);
            self.shift(&mut stat.st_mtime, stat.st_mtime_nsec);
            self.shift(&mut stat.st_ctime, stat.st_ctime_nsec);
            tracee.write_value(address, &stat);
        }
    }

    fn shift_statx(&self, tracee: Tracee, address: u64) {
        // SAFETY: numbers only.
        let mut stat: libc::statx = unsafe { std::mem::zeroed() };
        if tracee.read_value(address, &mut stat) {
            for time in [&mut stat.stx_atime, &mut stat.stx_mtime, &mut stat.stx_ctime, &mut stat.stx_btime] {
                self.shift(&mut time.tv_sec, time.tv_nsec.into());
            }
            tracee.write_value(address, &stat);
        }
    }
}

/// This machine's clock.
fn clock_gettime(clock: libc::clockid_t) -> timespec {
    let mut now = timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: fills a structure that is here.
    assert_eq!(unsafe { libc::clock_gettime(clock, &raw mut now) }, 0);
    now
}

/// What getdents64(2) wrote, in another order: one that follows from the names and `order`, so that a folder that nobody changes is
/// always listed alike. A position's own number stays where it is.
fn shuffled(bytes: &[u8], order: u64) -> Vec<u8> {
    // An entry: inode (8 bytes), its position (8), its length (2), type, and name.
    let mut entries: Vec<&[u8]> = Vec::new();
    let mut rest = bytes;
    while rest.len() > 19 {
        let length = usize::from(u16::from_ne_bytes([rest[16], rest[17]]));
        entries.push(&rest[..length]);
        rest = &rest[length..];
    }
    let positions: Vec<[u8; 8]> = entries.iter().map(|entry| entry[8..16].try_into().unwrap()).collect();
    entries.sort_by_cached_key(|entry| {
        let name = entry[19..].iter().take_while(|byte| **byte != 0);
        // FNV-1a, which spreads short names well, from a beginning that is the order's own.
        let hash = name.fold(0xcbf2_9ce4_8422_2325 ^ order.wrapping_mul(0x9e37_79b9_7f4a_7c15), |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        hash ^ (hash >> 29)
    });
    let mut shuffled = Vec::with_capacity(bytes.len());
    for (entry, position) in entries.iter().zip(positions) {
        shuffled.extend_from_slice(&entry[..8]);
        shuffled.extend_from_slice(&position);
        shuffled.extend_from_slice(&entry[16..]);
    }
    shuffled
}
