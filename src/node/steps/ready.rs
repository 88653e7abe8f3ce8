//! Whether the node is ready, and telling it to whoever sends it work.
//!
//! A node is ready when all steps with `ready = true` are done; where no step has it, as soon as it runs. It is told to the
//! programs in `ready.d`, which overlays put there: each is run with `yes` or `no` when the answer has become another one, when
//! the engine starts, and every minute, because whoever was told may have forgotten it since, or could not listen.

use super::board::Board;
use super::command;
use super::status::{State, Statuses};
use crate::base::error::{Error, Result};
use crate::base::fs;
use crate::model::step::Step;
use crate::node::console;
use std::path::Path;
use std::time::Duration;

/// Where overlays have the programs that are told.
pub(super) const FOLDER: &str = "/usr/lib/ostack/ready.d";
/// After so long it is told again.
const AGAIN: Duration = Duration::from_secs(60);
/// Seconds that one program may take.
const TIMEOUT: u64 = 30;

/// The names of the steps without which a node is not ready.
pub(super) fn steps(steps: &[Step]) -> Vec<String> {
    steps.iter().filter(|step| step.ready).map(|step| step.name.clone()).collect()
}

/// What is lacking, a line for each step: `keystone/start: waiting for keystone/schema`.
pub(super) fn lacking(ready: &[String], statuses: &Statuses) -> Vec<String> {
    let line = |name: &String| match statuses.get(name) {
        Some(status) if status.state == State::Done => None,
        Some(status) => Some(format!("{name}: {}", status.line())),
        None => Some(format!("{name}: not known to the engine")),
    };
    ready.iter().filter_map(line).collect()
}

/// The same in a few words, for people: `not ready: keystone/start`.
pub(super) fn sentence(lacking: &[String]) -> String {
    if lacking.is_empty() {
        return "ready".to_string();
    }
    let names: Vec<&str> = lacking.iter().filter_map(|line| line.split(": ").next()).collect();
    format!("not ready: {}", names.join(", "))
}

/// Tells whether the node is ready, for ever.
pub(super) fn keep_telling(board: &Board, folder: &Path) {
    let mut told = None;
    loop {
        let lacking = board.lacking_unlike(told, AGAIN);
        if told != Some(lacking.is_empty()) {
            console::print(&sentence(&lacking));
        }
        for error in tell(folder, lacking.is_empty()) {
            console::error(&error.to_string());
        }
        told = Some(lacking.is_empty());
    }
}

/// Runs the programs of the folder by name; gives what went wrong. One that fails keeps none of the others from being told.
fn tell(folder: &Path, ready: bool) -> Vec<Error> {
    let run = |program: &std::path::PathBuf| command::program(program, if ready { "yes" } else { "no" }, TIMEOUT);
    let all = || -> Result<Vec<Error>> { Ok(fs::sorted_dir(folder)?.iter().filter_map(|program| run(program).err()).collect()) };
    all().unwrap_or_else(|error| vec![error])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_node_whose_steps_are_none_of_them_marked_is_ready() {
        let unmarked = crate::node::steps::tests::step("a/b", "true", "true");
        let lacking = lacking(&steps(&[unmarked]), &Statuses::new());
        assert_eq!((sentence(&lacking), lacking), ("ready".to_string(), Vec::new()));
    }

    #[test]
    fn who_is_not_ready_names_the_steps_that_are_not_done() {
        let lacking = ["database/start: failed exit status: 1".to_string(), "web/start: waiting for database/start".to_string()];
        assert_eq!(sentence(&lacking), "not ready: database/start, web/start");
    }

    #[test]
    fn every_program_is_told_in_turn_and_one_that_fails_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let programs = folder.path().join("ready.d");
        let told = folder.path().join("told");
        std::fs::create_dir(&programs).unwrap();
        for (name, line) in [("20-last", "echo last $1 >> FILE"), ("10-first", "echo first $1 >> FILE; echo no cluster; exit 3")]
        {
            let program = programs.join(name);
            std::fs::write(&program, format!("#!/bin/sh\n{}\n", line.replace("FILE", &told.display().to_string()))).unwrap();
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let said = |ready| tell(&programs, ready).iter().map(Error::to_string).collect::<Vec<_>>();
        let failed = |word: &str| format!("{}/10-first {word} failed (exit status: 3)\nno cluster", programs.display());
        assert_eq!(said(true), [failed("yes")]);
        assert_eq!(said(false), [failed("no")]);
        assert_eq!(std::fs::read_to_string(&told).unwrap(), "first yes\nlast yes\nfirst no\nlast no\n");
    }

    #[test]
    fn without_programs_nobody_is_told() {
        assert_eq!(tell(Path::new("/nowhere/ready.d"), true), Vec::new());
    }
}
