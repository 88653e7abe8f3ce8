//! How far a node's steps are: a file for programs, a table for people.

use crate::base::error::{Error, Result};
use crate::base::fs;
use crate::node::console;
use crate::node::steps::{load, ready};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Where the engine keeps it.
pub const FILE: &str = "/run/ostack/steps.json";

/// What a step is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Something else must be there first.
    Waiting,
    /// Its `check` or `apply` runs.
    Running,
    /// Its `check` is true.
    Done,
    /// Its last attempt failed; another one follows.
    Failed,
}

impl State {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting for",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

/// One step's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// What it is doing.
    pub state: State,
    /// Since when, in seconds since 1970.
    pub since: u64,
    /// What it waits for, or the last error's words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub words: String,
    /// How often `apply` was tried since the step was last done.
    pub tries: u32,
    /// Whether the first `check` since the boot found it done already; none before that check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found_done: Option<bool>,
    /// How long the last `check` took, its turn not waited for; the engine's own, in no file.
    #[serde(skip)]
    pub took: Duration,
}

impl Status {
    /// What the step does in one line: `waiting for the database; no answer`.
    pub fn line(&self) -> String {
        let words = self.words.lines().collect::<Vec<_>>().join("; ");
        match (self.state, words.as_str()) {
            // Its turn has not come yet.
            (State::Waiting, "") => "waiting".to_string(),
            (state, "") => state.as_str().to_string(),
            (state, words) => format!("{} {words}", state.as_str()),
        }
    }
}

/// Every step's state by name.
pub type Statuses = BTreeMap<String, Status>;

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_secs())
}

/// The states for programs: what the file has.
///
/// # Errors
/// None in practice: names and numbers can always be written.
pub fn json(statuses: &Statuses) -> Result<String> {
    let text = serde_json::to_string_pretty(statuses).map_err(|error| Error::new(error).doing("writing the steps' states"))?;
    Ok(text + "\n")
}

/// Replaces the file.
///
/// # Errors
/// It cannot be written.
pub fn write(file: &Path, statuses: &Statuses) -> Result<()> {
    fs::write_atomic(file, json(statuses)?.as_bytes())
}

/// Reads the file.
///
/// # Errors
/// There is none, or it is no list of states.
pub fn read(file: &Path) -> Result<Statuses> {
    serde_json::from_str(&fs::read_text(file)?).map_err(|error| Error::new(error).at(file, None))
}

/// Prints the states: the file as it is, or a table that ends with whether the node is ready.
///
/// # Errors
/// The engine has not written any yet.
pub fn show(json: bool) -> Result<()> {
    fs::must_exist(Path::new(FILE), "the steps' state", "see whether ostack-steps.service runs")?;
    if json {
        console::print(fs::read_text(Path::new(FILE))?.trim_end());
        return Ok(());
    }
    let statuses = read(Path::new(FILE))?;
    let lacking = ready::lacking(&ready::steps(&load(Path::new("/"))?), &statuses);
    console::print(&format!("{}{}", table(&statuses, now()), ready::sentence(&lacking)));
    Ok(())
}

fn table(statuses: &Statuses, now: u64) -> String {
    let width = statuses.keys().map(String::len).max().unwrap_or(0);
    let line = |(name, status): (&String, &Status)| {
        let passed = format!("{} s", now.saturating_sub(status.since));
        format!("{name:width$}  {passed:>8}  {}\n", status.line())
    };
    statuses.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_says_what_each_step_does_since_when_and_why() {
        let status = |state, since, words: &str| Status {
            state,
            since,
            words: words.to_string(),
            tries: 0,
            found_done: None,
            took: Duration::ZERO,
        };
        let statuses = Statuses::from([
            ("etcd/start".to_string(), status(State::Done, 100, "")),
            ("keystone/start".to_string(), status(State::Waiting, 40, "the database at 172.16.181.30:3306")),
            ("nova/db".to_string(), status(State::Failed, 99, "nova-manage ended with 1\nno such table")),
        ]);
        assert_eq!(
            table(&statuses, 100),
            "etcd/start           0 s  done\n\
             keystone/start      60 s  waiting for the database at 172.16.181.30:3306\n\
             nova/db              1 s  failed nova-manage ended with 1; no such table\n"
        );
    }
}
