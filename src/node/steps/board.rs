//! All steps' states, as the engine's threads share them, and a bell that rings when one changes.
//!
//! In: what each step's thread finds. Out: the file that `status` reads, a line in the journal at each change, and what the node
//! lacks to be ready. What must hold: a step that was done when the engine ended is done when it starts again, until it has been
//! checked: a restart of the engine is no outage of the node. After a boot the file is not there, and nothing is done.

use super::command::{Checked, check};
use super::ready;
use super::status::{self, State, Status, Statuses};
use crate::base::error::Result;
use crate::model::step::{Step, StepScope};
use crate::node::console;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The states of one node's steps.
pub(super) struct Board {
    statuses: Mutex<Statuses>,
    changed: Condvar,
    /// Held while a step of the cluster is checked. Their checks ask services, each by a program that takes seconds to load:
    /// all at once, on every node, they would keep those services from answering.
    one_at_a_time: Mutex<()>,
    /// Names of the steps without which the node is not ready.
    ready: Vec<String>,
    /// Where the states are written.
    file: PathBuf,
}

impl Board {
    pub(super) fn new(steps: &[Step], file: &Path) -> Result<Self> {
        // A file that cannot be read is that of no engine: as after a boot.
        let mut before = status::read(file).unwrap_or_default();
        let mut status = |step: &Step| {
            let done = before.remove(&step.name).filter(|status| status.state == State::Done);
            done.unwrap_or_else(|| Status {
                state: State::Waiting,
                since: status::now(),
                words: String::new(),
                tries: 0,
                found_done: None,
                took: Duration::ZERO,
            })
        };
        let statuses: Statuses = steps.iter().map(|step| (step.name.clone(), status(step))).collect();
        status::write(file, &statuses)?;
        Ok(Self {
            statuses: Mutex::new(statuses),
            changed: Condvar::new(),
            one_at_a_time: Mutex::new(()),
            ready: ready::steps(steps),
            file: file.to_path_buf(),
        })
    }

    /// Runs a step's `check`, and remembers what the first one found, and how long the last one took.
    pub(super) fn check(&self, step: &Step) -> Result<Checked> {
        let turn = || self.one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner);
        let _turn = (step.scope == StepScope::Cluster).then(turn);
        let begin = Instant::now();
        let checked = check(step);
        let took = begin.elapsed();
        if let Some(status) = self.lock().get_mut(&step.name) {
            status.found_done.get_or_insert(matches!(checked, Ok(Checked::Done)));
            status.took = took;
        }
        checked
    }

    /// How long the last check of a step took; nothing before the first.
    pub(super) fn took(&self, name: &str) -> Duration {
        self.lock().get(name).map(|status| status.took).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Statuses> {
        // A thread that died leaves whole states behind: each is set in one piece.
        self.statuses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a step was done when it was last looked at.
    pub(super) fn is_done(&self, name: &str) -> bool {
        self.lock().get(name).is_some_and(|status| status.state == State::Done)
    }

    /// What a step waits for, or its last error.
    pub(super) fn words(&self, name: &str) -> String {
        self.lock().get(name).map(|status| status.words.clone()).unwrap_or_default()
    }

    /// The states for programs.
    pub(super) fn json(&self) -> Result<String> {
        status::json(&self.lock())
    }

    /// What the node lacks to be ready, a line for each step; empty when it is ready.
    pub(super) fn lacking(&self) -> Vec<String> {
        ready::lacking(&self.ready, &self.lock())
    }

    /// What the node lacks to be ready, as soon as that is not what was `told` (ready or not) any more, and at the latest
    /// after so long. `None`: nothing was told yet, so at once.
    pub(super) fn lacking_unlike(&self, told: Option<bool>, at_most: Duration) -> Vec<String> {
        let until = Instant::now() + at_most;
        let mut statuses = self.lock();
        loop {
            let lacking = ready::lacking(&self.ready, &statuses);
            let left = until.saturating_duration_since(Instant::now());
            if told != Some(lacking.is_empty()) || left.is_zero() {
                return lacking;
            }
            statuses = self.changed.wait_timeout(statuses, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Those of `before` that there are and that are not done; `None` when there is no such one.
    pub(super) fn open(&self, before: &[String]) -> Option<String> {
        open(before, &self.lock())
    }

    /// Comes back when all of `before` that there are have been done.
    pub(super) fn wait_for(&self, before: &[String], name: &str) {
        let mut statuses = self.lock();
        while let Some(words) = open(before, &statuses) {
            self.change(&mut statuses, name, State::Waiting, words);
            statuses = self.changed.wait(statuses).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Says how a step stands.
    pub(super) fn set(&self, name: &str, state: State, words: String) -> State {
        self.change(&mut self.lock(), name, state, words);
        self.changed.notify_all();
        state
    }

    /// Changes one state, writes all of them, and says it to the journal.
    fn change(&self, statuses: &mut Statuses, name: &str, state: State, words: String) {
        let Some(status) = statuses.get_mut(name).filter(|status| status.state != state || status.words != words) else { return };
        if status.state != state {
            status.since = status::now();
        }
        match state {
            // Who waits has not failed.
            State::Done | State::Waiting => status.tries = 0,
            State::Running => status.tries += 1,
            State::Failed => {}
        }
        (status.state, status.words) = (state, words);
        console::print(format!("{name}: {} {}", state.as_str(), status.words).trim_end());
        if let Err(error) = status::write(&self.file, statuses) {
            console::error(&error.to_string());
        }
    }
}

fn open(before: &[String], statuses: &Statuses) -> Option<String> {
    let open = |one: &&String| statuses.get(*one).is_some_and(|status| status.state != State::Done);
    let open: Vec<&str> = before.iter().filter(open).map(String::as_str).collect();
    (!open.is_empty()).then(|| open.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::steps::tests::step;

    #[test]
    fn a_step_waits_for_those_before_it_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let second = Step { after: vec!["a/first".into(), "other/absent".into()], ..step("a/second", "true", "true") };
        let board = Board::new(&[step("a/first", "true", "true"), second.clone()], &folder.path().join("steps.json")).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| board.wait_for(&second.after, &second.name));
            while board.words("a/second") != "a/first" {
                std::thread::yield_now();
            }
            board.set("a/first", State::Done, String::new());
            waiting.join().unwrap();
        });
    }

    #[test]
    fn what_was_done_before_the_engine_was_started_anew_is_done_until_it_is_checked_and_nothing_is_after_a_boot() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("steps.json");
        let mut served = step("a/served", "true", "true");
        let mut failed = step("a/failed", "true", "true");
        (served.ready, failed.ready) = (true, true);
        let steps = [served, failed];
        let first = Board::new(&steps, &file).unwrap();
        assert_eq!(first.lacking(), ["a/served: waiting", "a/failed: waiting"]);
        first.set("a/served", State::Done, String::new());
        first.set("a/failed", State::Failed, "exit status: 1\nno such file".into());
        assert_eq!(first.lacking(), ["a/failed: failed exit status: 1; no such file"]);

        let again = Board::new(&steps, &file).unwrap();
        assert_eq!(again.lacking(), ["a/failed: waiting"]);
        again.set("a/failed", State::Done, String::new());
        assert_eq!(again.lacking(), Vec::<String>::new());
        again.set("a/served", State::Waiting, "the disk".into());
        assert_eq!(again.lacking(), ["a/served: waiting for the disk"]);

        std::fs::remove_file(&file).unwrap();
        assert_eq!(Board::new(&steps, &file).unwrap().lacking(), ["a/served: waiting", "a/failed: waiting"]);
    }
}
