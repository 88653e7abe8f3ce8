//! A second program beside the sandbox's command, in the same mounts: it does what the command's many children leave to it.
//!
//! ```text
//! pid 1 ─┬─ command ── its children ── write ──> /run/ostack/calls, a pipe with a name
//!        └─ program, from the first byte on <── standard input ──┘
//! ```
//!
//! When the command has ended well, the pipe ends; what the program makes of that is waited for. Whichever fails first ends the other.

use crate::base::error::{Context, Error, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, MemfdFlags, Mode, memfd_create};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};

/// Where the sandbox shows the pipe.
pub(super) const CALLS: &str = "/run/ostack/calls";

/// A program that is running, and what tells that it has ended.
struct Running {
    child: Child,
    ended: OwnedFd,
}

/// Runs both to their ends as pid 1 of the sandbox; gives the command's exit code.
///
/// # Errors
/// One cannot be started, or the program beside fails; with its last words.
pub(super) fn run(command: Command, mut beside: Command) -> Result<i32> {
    let what = || format!("running `{}` beside", beside.get_program().to_string_lossy());
    let folder = std::path::Path::new(CALLS).parent().unwrap_or(std::path::Path::new("/"));
    std::fs::create_dir_all(folder).doing(what)?;
    rustix::fs::mknodat(rustix::fs::CWD, CALLS, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).doing(what)?;
    // Both ends, so that the pipe lasts from one writer to the next.
    let calls = File::options().read(true).write(true).open(CALLS).doing(what)?;
    let reader = File::open(CALLS).doing(what)?;
    let said = File::from(memfd_create("ostack-beside", MemfdFlags::CLOEXEC).doing(what)?);
    let (out, err) = (said.try_clone().doing(what)?, said.try_clone().doing(what)?);
    let what = what();
    beside.stdin(reader).stdout(out).stderr(err);

    let mut command = start(command)?;
    let (mut beside, mut helper) = (Some(beside), None);
    loop {
        let second = helper
            .as_ref()
            .map_or_else(|| PollFd::new(&calls, PollFlags::IN), |one: &Running| PollFd::new(&one.ended, PollFlags::IN));
        let [first, second] = ready([PollFd::new(&command.ended, PollFlags::IN), second])?;
        match (second, &mut helper) {
            (true, None) => helper = beside.take().map(start).transpose()?,
            (true, Some(helper)) => {
                let status = end_of(helper)?;
                let _ = command.child.kill();
                return Err(failure(&said, status).doing(what));
            }
            (false, _) if first => break,
            (false, _) => {}
        }
    }
    let code = code(end_of(&mut command)?);
    drop(calls);
    if code == 0
        && let Some(mut helper) = helper
    {
        let status = end_of(&mut helper)?;
        if !status.success() {
            return Err(failure(&said, status).doing(what));
        }
    }
    Ok(code)
}

fn start(mut command: Command) -> Result<Running> {
    let what = format!("running `{}`", command.get_program().to_string_lossy());
    let child = command.spawn().doing(|| what.clone())?;
    let id = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or_else(|| Error::new("a child has no number"))?;
    let ended = pidfd_open(id, PidfdFlags::empty()).doing(|| what)?;
    Ok(Running { child, ended })
}

fn end_of(running: &mut Running) -> Result<ExitStatus> {
    running.child.wait().doing(|| "waiting for the sandbox's programs")
}

/// Waits until one of them has something to say; tells which.
fn ready(mut both: [PollFd<'_>; 2]) -> Result<[bool; 2]> {
    loop {
        match poll(&mut both, None::<&Timespec>) {
            Err(rustix::io::Errno::INTR) => {}
            ended => {
                ended.doing(|| "waiting for the sandbox's programs")?;
                return Ok(both.map(|one| !one.revents().is_empty()));
            }
        }
    }
}

fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

fn failure(mut said: &File, status: ExitStatus) -> Error {
    let mut words = Vec::new();
    let heard = said.rewind().and_then(|()| said.read_to_end(&mut words));
    let words = String::from_utf8_lossy(&words).trim().to_string();
    if heard.is_err() || words.is_empty() { Error::new(format!("it ended with {status}")) } else { Error::new(words) }
}
