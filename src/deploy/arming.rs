//! Which nodes a server expects, and to whom it has given what: files, so that a server that was restarted knows.
//!
//! ```text
//! FOLDER/armed/NODE.json    {"since":1764316800,"wipe_state":false,"claim":null}
//! FOLDER/journal.jsonl      a line for each thing that happened, the last one last
//! ```
//!
//! A node that is armed gets its seed once: the first machine that asks with a claim of its own is the one, and the claim is
//! written down before the seed is given. The same machine may ask again, because it may lose its power before it has written what
//! it got; every other one is refused until somebody arms the node anew.

use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use serde::{Deserialize, Serialize};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// A node that is expected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arm {
    /// When it was armed, in seconds since 1970.
    pub since: u64,
    /// Whether its state is to go.
    pub wipe_state: bool,
    /// The machine that has its seed.
    pub claim: Option<String>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When, in seconds since 1970.
    pub time: u64,
    /// The node.
    pub node: String,
    /// What: `armed`, `disarmed`, `looking`, `writing`, `seed`, `done`, `failed`, `refused`.
    pub what: String,
    /// More about it, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub words: String,
}

/// The folder.
#[derive(Debug, Clone)]
pub struct Arming(PathBuf);

impl Arming {
    /// The folder at `path`, which need not exist yet.
    pub fn new(path: &Path) -> Self {
        Self(path.to_path_buf())
    }

    fn file(&self, node: &str) -> PathBuf {
        self.0.join("armed").join(format!("{node}.json"))
    }

    /// Expects a node from now on; whoever had its seed before has it no more.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn arm(&self, node: &str, wipe_state: bool) -> Result<()> {
        self.put(node, &Arm { since: now(), wipe_state, claim: None })?;
        self.note(node, "armed", if wipe_state { "its state will be wiped" } else { "" })
    }

    /// Expects it no more; whether it was expected.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn disarm(&self, node: &str, words: &str) -> Result<bool> {
        let file = self.file(node);
        if !file.exists() {
            return Ok(false);
        }
        std::fs::remove_file(&file).doing(|| format!("removing {}", file.display()))?;
        self.note(node, "disarmed", words)?;
        Ok(true)
    }

    /// How a node is expected; none where it is not.
    ///
    /// # Errors
    /// Its file is damaged.
    pub fn get(&self, node: &str) -> Result<Option<Arm>> {
        let file = self.file(node);
        if !file.exists() {
            return Ok(None);
        }
        let text = fs::read(&file)?;
        let arm = serde_json::from_slice(&text).doing(|| format!("reading {}", file.display()));
        arm.map(Some).map_err(|error| error.next(format!("arm the node anew: ostack-image arm {node}")))
    }

    /// Takes a machine for the node: whether it is the one that may have the seed. Calls for one node must not overlap.
    ///
    /// # Errors
    /// The node is not expected, or the folder cannot be written.
    pub fn claim(&self, node: &str, claim: &str) -> Result<bool> {
        let arm = self.get(node)?.ok_or_else(|| Error::new(format!("{node} is not expected")))?;
        match &arm.claim {
            Some(first) => Ok(first == claim),
            None => {
                self.put(node, &Arm { claim: Some(claim.to_string()), ..arm })?;
                Ok(true)
            }
        }
    }

    fn put(&self, node: &str, arm: &Arm) -> Result<()> {
        fs::write_atomic(&self.file(node), &serde_json::to_vec(arm).doing(|| "writing who is expected")?)
    }

    /// Writes down what happened.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn note(&self, node: &str, what: &str, words: &str) -> Result<()> {
        let entry = Entry { time: now(), node: node.to_string(), what: what.to_string(), words: words.to_string() };
        let mut line = serde_json::to_vec(&entry).doing(|| "writing the journal")?;
        line.push(b'\n');
        let path = self.journal_file();
        fs::create_dir_all(&self.0)?;
        // One write per line: lines of several programs do not mix.
        let write = || OpenOptions::new().create(true).append(true).open(&path)?.write_all(&line);
        write().doing(|| format!("writing {}", path.display()))
    }

    /// Everything that happened, in order. A line that was cut off by a loss of power is left out.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn journal(&self) -> Result<Vec<Entry>> {
        let path = self.journal_file();
        if !path.exists() {
            return Ok(Vec::new());
        }
        Ok(fs::read_text(&path)?.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    fn journal_file(&self) -> PathBuf {
        self.0.join("journal.jsonl")
    }
}

/// Seconds since 1970: what happens to machines happens in the world's time.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn happened(arming: &Arming) -> Vec<String> {
        let line = |entry: Entry| format!("{} {} {}", entry.node, entry.what, entry.words).trim_end().to_string();
        arming.journal().unwrap().into_iter().map(line).collect()
    }

    #[test]
    fn the_first_machine_that_claims_a_node_has_it_until_it_is_armed_anew() {
        let folder = tempfile::tempdir().unwrap();
        let arming = Arming::new(&folder.path().join("state"));
        assert_eq!(arming.claim("controller01", "a").unwrap_err().to_string(), "controller01 is not expected");
        arming.arm("controller01", false).unwrap();
        assert!(arming.claim("controller01", "a").unwrap());
        // It lost its power, and asks again; somebody else asks, too.
        assert!(arming.claim("controller01", "a").unwrap());
        assert!(!arming.claim("controller01", "b").unwrap());
        // What a server that was restarted knows.
        let again = Arming::new(&folder.path().join("state"));
        assert_eq!(again.get("controller01").unwrap().unwrap().claim.as_deref(), Some("a"));
        again.arm("controller01", true).unwrap();
        assert!(arming.claim("controller01", "b").unwrap());
        assert_eq!(happened(&arming), ["controller01 armed", "controller01 armed its state will be wiped"]);
    }

    #[test]
    fn a_node_that_is_disarmed_is_not_expected() {
        let folder = tempfile::tempdir().unwrap();
        let arming = Arming::new(folder.path());
        arming.arm("compute01", false).unwrap();
        assert!(arming.disarm("compute01", "installed").unwrap());
        assert!(!arming.disarm("compute01", "installed").unwrap());
        assert_eq!(arming.get("compute01").unwrap(), None);
        assert_eq!(happened(&arming), ["compute01 armed", "compute01 disarmed installed"]);
    }

    #[test]
    fn a_line_that_was_cut_off_hides_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let arming = Arming::new(folder.path());
        arming.note("a", "done", "").unwrap();
        let mut file = OpenOptions::new().append(true).open(folder.path().join("journal.jsonl")).unwrap();
        file.write_all(b"{\"time\":1,\"no\n").unwrap();
        arming.note("b", "done", "").unwrap();
        assert_eq!(happened(&arming), ["a done", "b done"]);
    }
}
