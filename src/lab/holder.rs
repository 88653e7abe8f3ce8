//! The process whose end is the lab's: pid 1 of a PID namespace, with mounts and a network of its own.
//!
//! It does nothing but collect the ended: whoever wants something of the lab enters its namespaces.

use super::machine::Folder;
use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use crate::base::tool::Tool;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};
use std::ffi::CString;
use std::path::Path;
use std::time::{Duration, Instant};

/// The hidden verb of the command line: `__lab hold FOLDER`, and what is done inside (`super::inside`).
pub const VERB: &str = "__lab";
/// A file in the holder's own `/run`: it is there once the namespaces are ready.
const READY: &str = "run/ready";
/// How long a holder may take to be ready, and to be gone.
const PATIENCE: Duration = Duration::from_secs(20);

/// A process, told from a later one of the same number by its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its number on the host.
    pub pid: i32,
    /// When it started, in the kernel's ticks since boot.
    start: u64,
}

impl Holder {
    fn of(pid: i32) -> Option<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name before the last parenthesis may hold anything; the state is field 3, the start field 22: proc(5).
        let mut fields = text.rsplit_once(") ")?.1.split(' ');
        let state = fields.next()?;
        let start = fields.nth(18)?.parse().ok()?;
        (state != "Z").then_some(Self { pid, start })
    }

    /// The lab's holder, if it lives.
    ///
    /// # Errors
    /// The file that names it cannot be read.
    pub fn find(folder: &Folder) -> Result<Option<Self>> {
        let file = folder.holder();
        if !file.exists() {
            return Ok(None);
        }
        let holder: Self = serde_json::from_slice(&fs::read(&file)?).doing(|| format!("reading {}", file.display()))?;
        Ok(Self::of(holder.pid).filter(|now| *now == holder))
    }

    /// The lab's holder, started if need be.
    ///
    /// # Errors
    /// A namespace is refused, most often because the caller is not root.
    pub fn ensure(folder: &Folder) -> Result<Self> {
        if let Some(holder) = Self::find(folder)? {
            return Ok(holder);
        }
        fs::create_dir_all(folder.path())?;
        // That of a lab that has ended would be taken for the new one's.
        if folder.holder().exists() {
            std::fs::remove_file(folder.holder()).doing(|| "forgetting the lab that has ended")?;
        }
        let program = std::env::current_exe().doing(|| "finding this program's own file")?;
        Tool::new(program).args([VERB, "hold"]).arg(folder.path()).run().map_err(|error| error.next("run as root"))?;
        let begin = Instant::now();
        loop {
            if let Some(holder) = Self::find(folder)?
                && Path::new("/proc").join(holder.pid.to_string()).join("root").join(READY).exists()
            {
                return Ok(holder);
            }
            if begin.elapsed() > PATIENCE {
                let log = std::fs::read_to_string(folder.path().join("holder.log")).unwrap_or_default();
                return Err(Error::new(format!("the lab's namespaces were not ready after 20 s: {}", log.trim())));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it, and with it everything in its namespaces; comes back when it is gone.
    ///
    /// # Errors
    /// It does not die.
    pub fn end(self) -> Result<()> {
        let begin = Instant::now();
        while Self::of(self.pid) == Some(self) {
            if let Some(pid) = rustix::process::Pid::from_raw(self.pid) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            if begin.elapsed() > PATIENCE {
                return Err(Error::new(format!("the lab's process {} does not end", self.pid)));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// A program inside its namespaces.
    pub fn enter(self, program: impl AsRef<std::ffi::OsStr>) -> Tool {
        let target = format!("--target={}", self.pid);
        let namespaces = ["--mount", "--pid", "--net", "--uts", "--ipc"];
        Tool::new("nsenter").package("util-linux").arg(target).args(namespaces).arg("--").arg(program)
    }
}

/// `__lab hold FOLDER`: makes the namespaces and leaves a process in them; comes back at once.
///
/// # Errors
/// A namespace is refused.
pub fn hold(folder: &Folder) -> Result<()> {
    let flags = UnshareFlags::NEWNS | UnshareFlags::NEWPID | UnshareFlags::NEWNET | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    // SAFETY: this process has one thread and shares no file descriptors table with another.
    unsafe { rustix::thread::unshare_unsafe(flags) }.doing(|| "making the lab's namespaces")?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).doing(|| "making mounts private")?;
    // SAFETY: one thread.
    match unsafe { libc::fork() } {
        -1 => Err(Error::new(std::io::Error::last_os_error()).doing("starting the lab's first process")),
        0 => {
            let error = first(folder).err();
            if let Some(error) = error {
                let _ = std::fs::write(folder.path().join("holder.log"), format!("{error}\n"));
            }
            std::process::exit(1)
        }
        child => {
            let holder = Holder::of(child).ok_or_else(|| Error::new("the lab's first process ended at once"))?;
            let text = serde_json::to_vec(&holder).doing(|| "describing the lab's first process")?;
            fs::write_atomic(&folder.holder(), &text)
        }
    }
}

/// Pid 1 of the namespaces.
fn first(folder: &Folder) -> Result<std::convert::Infallible> {
    rustix::process::setsid().doing(|| "leaving the terminal")?;
    let log = std::fs::File::create(folder.path().join("holder.log")).doing(|| "writing holder.log")?;
    let null = std::fs::File::open("/dev/null").doing(|| "opening /dev/null")?;
    for (from, to) in [(&null, 0), (&log, 1), (&log, 2)] {
        use std::os::fd::AsRawFd;
        // SAFETY: both are open; whoever waits for this program's output must not wait for the lab's end.
        if unsafe { libc::dup2(from.as_raw_fd(), to) } < 0 {
            return Err(Error::new(std::io::Error::last_os_error()).doing("redirecting the lab's output"));
        }
    }
    // Not before the host can find this process: a lab that nobody knows could not be ended.
    let begin = Instant::now();
    while !folder.holder().exists() {
        if begin.elapsed() > PATIENCE {
            return Err(Error::new("nobody took note of the lab"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    // Of its own, so that neither names of network namespaces nor nspawn's files are on the host.
    tmpfs(Path::new("/run"))?;
    mount("proc", "/proc", "proc", MountFlags::empty(), None).doing(|| "mounting /proc")?;
    Tool::new("ip").package("iproute2").args(["link", "set", "lo", "up"]).run()?;
    std::fs::write(Path::new("/").join(READY), "").doing(|| "saying that the lab is ready")?;
    loop {
        let mut status = 0;
        // SAFETY: waits for any child; this process has inherited every orphan of its namespace.
        if unsafe { libc::waitpid(-1, &raw mut status, 0) } < 0 {
            // No child now; one may come.
            std::thread::sleep(Duration::from_secs(1));
        }
    }
}

fn tmpfs(target: &Path) -> Result<()> {
    let options = CString::new("mode=0755").map_err(Error::new)?;
    mount("tmpfs", target, "tmpfs", MountFlags::empty(), Some(options.as_c_str()))
        .doing(|| format!("mounting a tmpfs at {}", target.display()))
}
