//! Runs a program inside a root: own mount, PID, network, IPC and UTS namespaces, no network, no host file.
//!
//! ```text
//! ostack-image build ── spawns ──> ostack-image __sandbox SPEC   (new namespaces; mounts the root)
//!                                        └─ forks ──> pid 1 of the new PID namespace: pivot_root, exec
//! ```
//!
//! The mounts live in the sandbox's namespace only, so they vanish with it, also after a kill -9; so do
//! daemons that a maintainer script left running, because the death of pid 1 ends the namespace.

mod account;
mod beside;
mod mounts;
mod network;
mod one_id;

use super::user_namespace;
use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use crate::base::path::RelPath;
use crate::base::tool::{Output, Tool};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change};
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};
use std::io::{Read, Seek};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// The hidden verb of the command line that enters a sandbox.
pub const VERB: &str = "__sandbox";

/// What to run and where.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sandbox {
    root: PathBuf,
    overlay: Option<Overlay>,
    binds: Vec<Bind>,
    replaced: Vec<(PathBuf, PathBuf)>,
    env: Vec<(String, String)>,
    command: Vec<String>,
    beside: Option<String>,
    hostname: String,
    user: Option<String>,
    loopback: bool,
    timeout: Option<u64>,
}

/// How a program ended that may end in any way.
pub struct Ended {
    /// Its exit code, 128 and the signal's number where one ended it; `None` where its time was up.
    pub code: Option<i32>,
    /// What it printed, both outputs in one.
    pub output: Vec<u8>,
}

/// What the sandbox's own side writes over its description when the program has ended.
#[derive(Serialize, Deserialize)]
enum Report {
    Exited(i32),
    TimedOut,
    Failed(String),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Bind {
    outside: PathBuf,
    inside: PathBuf,
    writable: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Overlay {
    /// The uppermost first.
    lower: Vec<PathBuf>,
    upper: PathBuf,
    work: PathBuf,
}

impl Sandbox {
    /// A sandbox whose root is this directory, written in place.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_path_buf(),
            overlay: None,
            binds: Vec::new(),
            replaced: Vec::new(),
            env: Vec::new(),
            command: Vec::new(),
            beside: None,
            hostname: "localhost".to_string(),
            user: None,
            loopback: false,
            timeout: None,
        }
    }

    /// Puts an overlayfs at the root: `lower` is read, `upper` takes every change.
    #[must_use]
    pub fn overlay(self, lower: &Path, upper: &Path, work: &Path) -> Self {
        self.stack(vec![lower.to_path_buf()], upper, work)
    }

    /// The same with several directories that are read, the uppermost first; the last one's folder must hold all the others.
    #[must_use]
    pub fn stack(mut self, lower: Vec<PathBuf>, upper: &Path, work: &Path) -> Self {
        self.overlay = Some(Overlay { lower, upper: upper.to_path_buf(), work: work.to_path_buf() });
        self
    }

    /// Gives the machine this name; `localhost` by default.
    #[must_use]
    pub fn hostname(mut self, name: &str) -> Self {
        self.hostname = name.to_string();
        self
    }

    /// Runs the program as this account of the root, with its groups; root by default.
    #[must_use]
    pub fn user(mut self, name: &str) -> Self {
        self.user = Some(name.to_string());
        self
    }

    /// Gives the program a loopback interface that works, and lets it listen on any address as if the machine had it.
    #[must_use]
    pub fn loopback(mut self) -> Self {
        self.loopback = true;
        self
    }

    /// Ends the program, and all that it has started, after so many seconds.
    #[must_use]
    pub fn timeout(mut self, seconds: u64) -> Self {
        self.timeout = Some(seconds);
        self
    }

    /// Shows a directory of the build machine read-only at a path below `/run` of the root.
    #[must_use]
    pub fn bind(self, outside: &Path, inside: &str) -> Self {
        self.bind_as(outside, inside, false)
    }

    /// The same, writable.
    #[must_use]
    pub fn bind_writable(self, outside: &Path, inside: &str) -> Self {
        self.bind_as(outside, inside, true)
    }

    fn bind_as(mut self, outside: &Path, inside: &str, writable: bool) -> Self {
        self.binds.push(Bind { outside: outside.to_path_buf(), inside: PathBuf::from(inside), writable });
        self
    }

    /// Shows a file of the build machine, read-only, in the place of a file of the root, if the root has it. The root's own is
    /// shown below `/run/ostack/replaced`.
    #[must_use]
    pub fn replace(mut self, outside: &Path, inside: &RelPath) -> Self {
        self.replaced.push((outside.to_path_buf(), PathBuf::from(inside.as_str())));
        self
    }

    /// Sets an environment variable; nothing else of the environment but a fixed PATH and locale is there.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_string(), value.to_string()));
        self
    }

    /// Has a program of the root run beside the command from the moment that something is written to `/run/ostack/calls`, which is its
    /// standard input. The input ends with the command, and the program is waited for; where it fails, the whole does.
    #[must_use]
    pub fn beside(mut self, program: &str) -> Self {
        self.beside = Some(program.to_string());
        self
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// The namespaces cannot be made, or the command's status is not 0; with its last words.
    pub fn run<S: AsRef<str>>(&self, command: impl IntoIterator<Item = S>, stdin: &[u8]) -> Result<Output> {
        let (shown, _file, tool) = self.tool(command)?;
        tool.stdin(stdin)
            .run()
            .map_err(|error| {
                Error::new(
                    error.cause().split_once("):\n").map_or_else(|| error.cause().to_string(), |(_, said)| said.to_string()),
                )
            })
            .doing(|| format!("running `{shown}` in the image's root"))
    }

    /// Runs a command to its end, whatever that is.
    ///
    /// # Errors
    /// The namespaces or the root cannot be made, the account or the program is not in the root.
    pub fn run_to_any_end<S: AsRef<str>>(&self, command: impl IntoIterator<Item = S>) -> Result<Ended> {
        let (shown, file, tool) = self.tool(command)?;
        let output = tool.run_as_seen()?;
        let mut text = String::new();
        (&file).rewind().and_then(|()| (&file).read_to_string(&mut text)).doing(|| "reading how the sandbox ended")?;
        match serde_json::from_str(&text) {
            Ok(Report::Exited(code)) => Ok(Ended { code: Some(code), output }),
            Ok(Report::TimedOut) => Ok(Ended { code: None, output }),
            Ok(Report::Failed(why)) => Err(Error::new(why).doing(format!("running `{shown}` in the image's root"))),
            Err(_) => Err(Error::new("its sandbox was ended").doing(format!("running `{shown}` in the image's root"))),
        }
    }

    /// The command as people see it, the description, and this program as the sandbox that reads it.
    fn tool<S: AsRef<str>>(&self, command: impl IntoIterator<Item = S>) -> Result<(String, std::fs::File, Tool)> {
        let mut spec = self.clone();
        spec.command = command.into_iter().map(|word| word.as_ref().to_string()).collect();
        let shown = spec.command.iter().take(6).cloned().collect::<Vec<_>>().join(" ");
        let shown: String = shown.lines().next().unwrap_or_default().chars().take(80).collect();
        // A file, because Linux limits a single argument to 128 KiB and a package list may be longer; in memory, so that
        // nothing of it stays behind when this process is killed. The child inherits it and reads it first of all.
        let file = memfd_create("ostack-sandbox", MemfdFlags::empty()).doing(|| "describing the sandbox")?;
        let file = std::fs::File::from(file);
        serde_json::to_writer(&file, &spec).doing(|| "describing the sandbox")?;
        let tool = Tool::new(own_program()?).arg(VERB).arg(format!("/proc/self/fd/{}", file.as_raw_fd())).clear_env();
        Ok((shown, file, tool))
    }
}

/// This very program, which is also the sandbox's first process.
fn own_program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("OSTACK_IMAGE_PROGRAM") {
        return Ok(path.into());
    }
    std::env::current_exe().doing(|| "finding this program's own file")
}

/// The sandbox's own side: makes the namespaces, runs the command, gives its exit code.
///
/// # Errors
/// A namespace or a mount is refused, most often because the caller is not root.
pub fn enter(spec: &Path) -> Result<i32> {
    let sandbox: Sandbox = serde_json::from_str(&fs::read_text(spec)?).doing(|| "reading the sandbox's description")?;
    // The program inherits what is open; the description is not its business.
    let number = spec.file_name().and_then(|name| name.to_str()?.parse().ok());
    if let Some(number) = number {
        // SAFETY: sets a flag of a descriptor by its number; where there is none it does nothing.
        unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    let report = std::fs::File::options().write(true).open(spec).doing(|| "opening the sandbox's report")?;
    let ended = sandbox.live();
    let said = match &ended {
        Ok(Some(code)) => Report::Exited(*code),
        Ok(None) => Report::TimedOut,
        Err(error) => Report::Failed(error.to_string()),
    };
    // The forked child has the same open file: what it wrote because it could not start the program, stays.
    if (&report).stream_position().doing(|| "writing the sandbox's report")? == 0 {
        report.set_len(0).doing(|| "writing the sandbox's report")?;
        serde_json::to_writer(&report, &said).doing(|| "writing the sandbox's report")?;
    }
    ended.map(|code| code.unwrap_or(TIMED_OUT))
}

/// The exit code of a sandbox whose program had to be ended: that of timeout(1).
const TIMED_OUT: i32 = 124;

impl Sandbox {
    /// The sandbox's life, from its namespaces to the exit code of its program; `None` where its time was up. In the forked
    /// child it comes back only with an error.
    fn live(&self) -> Result<Option<i32>> {
        let sandbox = self;
        let flags =
            UnshareFlags::NEWNS | UnshareFlags::NEWPID | UnshareFlags::NEWNET | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
            .doing(|| "tying the sandbox to its parent")?;
        // SAFETY: this process has one thread and shares no file descriptors table with another.
        unsafe { rustix::thread::unshare_unsafe(flags) }
            .doing(|| "making namespaces")
            .map_err(|error| error.next("run as root"))?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).doing(|| "making mounts private")?;
        if sandbox.loopback {
            network::raise()?;
        }
        sandbox.mount_root()?;
        rustix::system::sethostname(self.hostname.as_bytes()).doing(|| "naming the sandbox")?;
        // SAFETY: one thread; the child only makes system calls and execs.
        match unsafe { libc::fork() } {
            -1 => Err(Error::new(std::io::Error::last_os_error()).doing("forking the sandbox's first process")),
            0 => Err(sandbox.exec()),
            child => wait_for(child, self.timeout),
        }
    }
}

/// The exit code of a child; `None` where it had to be ended.
fn wait_for(child: i32, timeout: Option<u64>) -> Result<Option<i32>> {
    if let Some(seconds) = timeout
        && !ends_within(child, seconds)?
    {
        // The first process of a PID namespace: all the others end with it.
        // SAFETY: ends our own child, which nobody has waited for.
        unsafe { libc::kill(child, libc::SIGKILL) };
        wait_for(child, None)?;
        return Ok(None);
    }
    let mut status = 0;
    // SAFETY: waits for our own child.
    if unsafe { libc::waitpid(child, &raw mut status, 0) } < 0 {
        return Err(Error::new(std::io::Error::last_os_error()).doing("waiting for the sandbox"));
    }
    Ok(Some(if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 128 + libc::WTERMSIG(status) }))
}

fn ends_within(child: i32, seconds: u64) -> Result<bool> {
    let what = || "waiting for the sandbox";
    let pid = rustix::process::Pid::from_raw(child).ok_or_else(|| Error::new("a child has no number")).doing(what)?;
    let process = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).doing(what)?;
    let mut one = libc::pollfd { fd: process.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let milliseconds = i32::try_from(seconds.saturating_mul(1000)).unwrap_or(i32::MAX);
    // SAFETY: one valid entry.
    match unsafe { libc::poll(&raw mut one, 1, milliseconds) } {
        -1 => Err(Error::new(std::io::Error::last_os_error()).doing(what())),
        ready => Ok(ready > 0),
    }
}

impl Sandbox {
    /// Runs as pid 1 of the sandbox; comes back only with an error.
    fn exec(&self) -> Error {
        use std::os::unix::process::CommandExt;
        let enter = || -> Result<()> {
            // The tie to the parent is one link long: without its own, this process would outlive a build that is killed.
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
                .doing(|| "tying the sandbox to its parent")?;
            mount("proc", self.root.join("proc"), "proc", MountFlags::empty(), None).doing(|| "mounting /proc")?;
            rustix::process::chdir(&self.root).doing(|| "entering the root")?;
            // Unlike chroot, this leaves a process that is root no way back to the host's tree.
            rustix::process::pivot_root(".", ".").doing(|| "changing the root")?;
            rustix::mount::unmount(".", UnmountFlags::DETACH).doing(|| "leaving the host's tree")?;
            rustix::process::chdir("/").doing(|| "entering the root")?;
            Ok(())
        };
        if let Err(error) = enter() {
            return error;
        }
        if user_namespace::has_one_id()
            && let Err(error) = one_id::answered()
        {
            return error;
        }
        let Some((name, args)) = self.command.split_first() else { return Error::new("the sandbox has no command") };
        let home = match self.user.as_deref().map(account::become_user).transpose() {
            Ok(home) => home.unwrap_or_else(|| "/root".to_string()),
            Err(error) => return error,
        };
        let mut command = self.program(name, &home);
        command.args(args);
        match &self.beside {
            None => Error::new(command.exec()).doing(format!("running `{name}`")),
            Some(program) => match beside::run(command, self.program(program, &home)) {
                Ok(code) => std::process::exit(code),
                Err(error) => error,
            },
        }
    }

    fn program(&self, name: &str, home: &str) -> std::process::Command {
        let mut command = std::process::Command::new(name);
        command
            .env_clear()
            .envs([
                ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
                ("LC_ALL", "C.UTF-8"),
                ("HOME", home),
                ("TZ", "UTC"),
            ])
            .envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }
}
