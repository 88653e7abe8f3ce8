//! A step's programs and peers: runs `check` and `apply` as the step's user within their time, and asks what it needs.
//!
//! In: a step. Out: how a program ended, by its exit code: 0 is done, 75 "not yet", another one a failure, or for a `check` that
//! the step is to be applied. No program outlives its time, nor do its children.

use crate::base::error::{Error, Result};
use crate::base::fs;
use crate::base::tool::{Ended, Output, Tool};
use crate::model::step::{Need, Step};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

/// How long a `check` may take, in seconds: on a node that starts everything at once, one that takes seconds may take minutes, and
/// what it has done until it is cut off is lost.
pub(super) const CHECK: u64 = 180;
/// How long a peer may take to answer.
const ANSWER: Duration = Duration::from_secs(3);
/// By this exit code a command says that it is not its turn yet: `EX_TEMPFAIL` of sysexits.h.
pub const NOT_YET: i32 = 75;
/// By these `timeout` says that it had to end the program, or to kill it.
const OVER: i32 = 124;
const KILLED: i32 = 137;

/// How a command ended that did not fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All is as it should be.
    Done,
    /// It waits for something; its own words say for what.
    NotYet(String),
}

/// What a step's `check` found.
pub(super) enum Checked {
    Done,
    NotYet(String),
    /// It is to be applied.
    Open,
}

/// Runs a step's `check`.
///
/// # Errors
/// It does not end in time, or not by itself. That says nothing about the step: on a node with more work than time, applying
/// what is done already would only be more work.
pub(super) fn check(step: &Step) -> Result<Checked> {
    match run_as(step, &step.check, CHECK)? {
        Ended { code: Some(0), .. } => Ok(Checked::Done),
        Ended { code: Some(NOT_YET), output, .. } => Ok(Checked::NotYet(last_line(&output))),
        ended @ Ended { code: None | Some(OVER | KILLED), .. } => Err(failure("check", &ended, CHECK)),
        Ended { .. } => Ok(Checked::Open),
    }
}

/// Runs a command of the step; an exit code that says neither "done" nor "not yet" is a failure.
pub(super) fn command(step: &Step, what: &str, words: &[String], seconds: u64) -> Result<Outcome> {
    let ended = run_as(step, words, seconds)?;
    match ended.code {
        Some(0) => Ok(Outcome::Done),
        Some(NOT_YET) => Ok(Outcome::NotYet(last_line(&ended.output))),
        _ => Err(failure(what, &ended, seconds)),
    }
}

/// Runs a program that is no step's; any exit code but 0 is a failure, and its name says what failed.
pub(in crate::node) fn program(path: &Path, arg: &str, seconds: u64) -> Result<()> {
    let ended = within(seconds).arg(path).arg(arg).run_to_any_end()?;
    if ended.code == Some(0) { Ok(()) } else { Err(failure(&format!("{} {arg}", path.display()), &ended, seconds)) }
}

/// What ends a program and its children when the time is over.
fn within(seconds: u64) -> Tool {
    Tool::new("timeout").package("coreutils").args(["--kill-after=10".to_string(), seconds.to_string()])
}

/// Runs a program as the step's user, and ends it and its children when the time is over.
fn run_as(step: &Step, words: &[String], seconds: u64) -> Result<Ended> {
    let timeout = within(seconds);
    let tool = match step.user.as_str() {
        "root" => timeout,
        // Not runuser or su: each check would be a login session, with a user manager of systemd's.
        user => {
            let group = format!("--regid={}", group_of(user)?);
            timeout.args(["setpriv", &format!("--reuid={user}"), &group, "--init-groups", "--"])
        }
    };
    tool.args(words).run_to_any_end()
}

/// The number of a user's own group.
pub(super) fn group_of(user: &str) -> Result<String> {
    let accounts = fs::read_text(Path::new("/etc/passwd"))?;
    let fields = accounts.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields[0] == user);
    fields.and_then(|fields| fields.get(3).map(|group| (*group).to_string())).ok_or_else(|| {
        Error::new(format!("there is no account {user}")).next("give the step a user that the image has, or leave it out")
    })
}

fn last_line(output: &Output) -> String {
    output.last_words().lines().last().unwrap_or("something that it does not name").to_string()
}

fn failure(what: &str, ended: &Ended, seconds: u64) -> Error {
    let said = ended.output.last_words();
    let how = match ended.code {
        Some(OVER | KILLED) => format!("took longer than {seconds} s"),
        _ => format!("failed ({})", ended.status),
    };
    Error::new(format!("{what} {how}\n{said}").trim_end())
}

/// The first of a step's needs that does not answer.
pub(super) fn silent(step: &Step) -> Option<&Need> {
    step.needs.iter().find(|need| !answers(need))
}

pub(super) fn words_of(need: &Need) -> String {
    format!("{} at {}", need.name, need.at)
}

/// Whether something accepts connections there: one of several is enough.
pub(super) fn answers(need: &Need) -> bool {
    let addresses = need.at.split(',').filter_map(|one| one.trim().to_socket_addrs().ok()).flatten();
    addresses.into_iter().any(|address| TcpStream::connect_timeout(&address, ANSWER).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_addresses_one_that_answers_is_enough() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let at = format!("{silent}, {}", listener.local_addr().unwrap());
        assert!(answers(&Need { name: "a broker".into(), at }));
        assert!(!answers(&Need { name: "a broker".into(), at: silent.to_string() }));
    }

    #[test]
    fn the_group_of_a_step_is_its_users_own() {
        assert_eq!(group_of("root").unwrap(), "0");
    }
}
