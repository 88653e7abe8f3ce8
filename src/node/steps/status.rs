//! How far a node's steps are: a file for programs, a table for people.

use crate::base::error::{Error, Result};
use crate::base::fs;
use crate::node::console;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

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
}

/// Every step's state by name.
pub type Statuses = BTreeMap<String, Status>;

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_secs())
}

/// Replaces the file.
///
/// # Errors
/// It cannot be written.
pub fn write(file: &Path, statuses: &Statuses) -> Result<()> {
    let text = serde_json::to_string_pretty(statuses).map_err(|error| Error::new(error).doing("writing the steps' states"))?;
    fs::write_atomic(file, format!("{text}\n").as_bytes())
}

/// Prints the states: the file as it is, or a table.
///
/// # Errors
/// The engine has not written any yet.
pub fn show(json: bool) -> Result<()> {
    fs::must_exist(Path::new(FILE), "the steps' state", "see whether ostack-steps.service runs")?;
    let text = fs::read_text(Path::new(FILE))?;
    if json {
        console::print(text.trim_end());
        return Ok(());
    }
    let statuses: Statuses = serde_json::from_str(&text).map_err(|error| Error::new(error).at(FILE, None))?;
    console::print(&table(&statuses, now()));
    Ok(())
}

fn table(statuses: &Statuses, now: u64) -> String {
    let width = statuses.keys().map(String::len).max().unwrap_or(0);
    let line = |(name, status): (&String, &Status)| {
        let passed = format!("{} s", now.saturating_sub(status.since));
        let text = format!(
            "{name:width$}  {passed:>8}  {} {}",
            status.state.as_str(),
            status.words.lines().collect::<Vec<_>>().join("; ")
        );
        text.trim_end().to_string()
    };
    statuses.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_says_what_each_step_does_since_when_and_why() {
        let status = |state, since, words: &str| Status { state, since, words: words.to_string(), tries: 0 };
        let statuses = Statuses::from([
            ("etcd/start".to_string(), status(State::Done, 100, "")),
            ("keystone/start".to_string(), status(State::Waiting, 40, "the database at 172.16.181.30:3306")),
            ("nova/db".to_string(), status(State::Failed, 99, "nova-manage ended with 1\nno such table")),
        ]);
        assert_eq!(
            table(&statuses, 100),
            "etcd/start           0 s  done\n\
             keystone/start      60 s  waiting for the database at 172.16.181.30:3306\n\
             nova/db              1 s  failed nova-manage ended with 1; no such table"
        );
    }
}
