//! Carries steps out: each in a thread of its own, which waits for the steps before it, then for what it needs, then
//! applies it, and looks again from time to time whether it is still done.
//!
//! ```text
//!            steps before it     check ends with 0
//! waiting ──────────────────> ? ──────────────────> done ── a while later ──> ?
//!    ^                        │ it does not                                   │
//!    ├── what it needs does <─┤                                               │
//!    │   not answer           └──> running: apply ──> ? ── still not ──> failed, again after a pause
//!    └── "not yet", says a command by its exit code 75
//! ```
//!
//! A step that is done stays so until its own `check` says otherwise: also while a step before it is not, and when the engine
//! was started anew.
//!
//! Waiting costs next to nothing and is no failure, however long it lasts. While what a step needs does not answer, its
//! `check` does not run.
//!
//! A step of the cluster is applied under a lock that only one node has at a time. What the lock is, an overlay says: a
//! program that waits for it, runs another program, and gives the lock back when that ends or the node dies.

use super::board::Board;
use super::command::{CHECK, Checked, Outcome, check, command, silent, words_of};
use super::status::{self, State};
use super::{listen, load, ready};
use crate::base::error::{Error, Result};
use crate::base::fs;
use crate::model::step::{Step, StepScope};
use crate::node::console;
use std::path::Path;
use std::time::Duration;

/// How long a step rests that says "not yet": it doubles from the first to the last of these while it says the same.
const RESTS: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(20)];
/// The pause after a failure doubles from the first to the last of these.
const PAUSES: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(60)];

/// Looking takes at most one part of so many of the time, as long as that means resting no longer than the second.
const SHARE: u32 = 10;
const LONGEST: Duration = Duration::from_secs(60);

/// The program that runs another one under a lock: `cluster-lock NAME PROGRAM ARGS…`.
const LOCK: &str = "/usr/lib/ostack/cluster-lock";
/// Where a node has this program.
const SELF: &str = "/usr/lib/ostack/ostack-node";

/// Carries out the steps of the root that this program runs in, tells whether the node is ready, and answers at `listen`
/// (`ADDRESS:PORT`). Does not end.
///
/// # Errors
/// The steps cannot be read, or `listen` is no address.
pub fn run(listen: Option<&str>) -> Result<()> {
    let listen = listen.map(listen::address).transpose()?;
    let steps = load(Path::new("/"))?;
    let board = Board::new(&steps, Path::new(status::FILE))?;
    std::thread::scope(|scope| {
        for step in &steps {
            scope.spawn(|| keep(step, &board));
        }
        scope.spawn(|| ready::keep_telling(&board, Path::new(ready::FOLDER)));
        if let Some(address) = listen {
            // Scripts write there without asking whether they are the first.
            if let Err(error) = fs::create_dir_all(Path::new(listen::FACTS)) {
                console::error(&error.to_string());
            }
            let board = &board;
            scope.spawn(move || listen::serve(address, board, Path::new(listen::FACTS)));
        }
    });
    Ok(())
}

/// One step, for ever.
fn keep(step: &Step, board: &Board) {
    let mut pause = PAUSES[0];
    let mut rest = RESTS[0];
    let mut said = String::new();
    loop {
        // What is done is so until its own check says otherwise, whatever has become of the steps before it.
        if !board.is_done(&step.name) {
            board.wait_for(&step.after, &step.name);
        }
        let state = turn(step, board);
        let says = board.words(&step.name);
        rest = if says == said { (rest * 2).min(RESTS[1]) } else { RESTS[0] };
        said = says;
        match state {
            State::Done => std::thread::sleep(pace(Duration::from_secs(step.again), board.took(&step.name))),
            State::Failed => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(PAUSES[1]);
                continue;
            }
            State::Waiting | State::Running => {
                std::thread::sleep(rest);
                while let Some(need) = silent(step) {
                    board.set(&step.name, State::Waiting, words_of(need));
                    std::thread::sleep(RESTS[0]);
                }
            }
        }
        pause = PAUSES[0];
    }
}

/// How long a step that is done rests, when looking took so long: on a machine that is busy, looking must not be what keeps it so.
fn pace(again: Duration, took: Duration) -> Duration {
    again.max((took * SHARE).min(LONGEST))
}

/// What can be done now about a step that was done, or whose predecessors are; gives how it stands then.
fn turn(step: &Step, board: &Board) -> State {
    match board.check(step) {
        Ok(Checked::Done) => return board.set(&step.name, State::Done, String::new()),
        Ok(Checked::NotYet(words)) => return board.set(&step.name, State::Waiting, words),
        Ok(Checked::Open) => {}
        Err(error) => return board.set(&step.name, State::Failed, error.to_string()),
    }
    if let Some(before) = board.open(&step.after) {
        return board.set(&step.name, State::Waiting, before);
    }
    if let Some(need) = silent(step) {
        return board.set(&step.name, State::Waiting, words_of(need));
    }
    board.set(&step.name, State::Running, String::new());
    match attempt(step) {
        Ok(Outcome::Done) => board.set(&step.name, State::Done, String::new()),
        Ok(Outcome::NotYet(words)) => board.set(&step.name, State::Waiting, words),
        Err(error) => board.set(&step.name, State::Failed, error.to_string()),
    }
}

/// Applies one step by name, if it is not done: what the holder of the cluster's lock does.
///
/// # Errors
/// There is no such step, or it fails.
pub fn apply(name: &str) -> Result<Outcome> {
    let steps = load(Path::new("/"))?;
    let step = steps.iter().find(|step| step.name == name).ok_or_else(|| {
        let known: Vec<&str> = steps.iter().map(|step| step.name.as_str()).collect();
        Error::new(format!("there is no step `{name}`")).next(format!("use one of: {}", known.join(", ")))
    })?;
    // Whoever had the lock before may have done it.
    match check(step)? {
        Checked::Done => Ok(Outcome::Done),
        Checked::NotYet(words) => Ok(Outcome::NotYet(words)),
        Checked::Open => attempt(&Step { scope: StepScope::Node, ..step.clone() }),
    }
}

fn attempt(step: &Step) -> Result<Outcome> {
    let outcome = match step.scope {
        StepScope::Node => command(step, "apply", &step.apply, step.timeout)?,
        StepScope::Cluster => {
            let locked = [LOCK, &step.name, SELF, "apply", &step.name].map(str::to_string);
            // Another node may hold the lock for as long as the step may take.
            command(&Step { user: "root".to_string(), ..step.clone() }, "apply", &locked, 2 * step.timeout + CHECK)?
        }
    };
    match outcome {
        Outcome::Done => {
            command(step, "check", &step.check, CHECK).map_err(|error| error.doing("checking what seemed to go well"))
        }
        Outcome::NotYet(_) => Ok(outcome),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::step::Need;
    use crate::node::steps::status::Statuses;
    use crate::node::steps::tests::step;

    /// Lets one step have its turn; gives the state and the words that it leaves in the file.
    fn left_by(step: &Step) -> (State, String, u32) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("steps.json");
        let board = Board::new(std::slice::from_ref(step), &file).unwrap();
        turn(step, &board);
        let mut statuses: Statuses = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        let status = statuses.remove(&step.name).unwrap();
        (status.state, status.words, status.tries)
    }

    #[test]
    fn a_step_that_is_done_is_looked_at_less_often_where_looking_takes_long() {
        let seconds = Duration::from_secs_f64;
        assert_eq!(pace(seconds(10.0), seconds(0.5)), seconds(10.0));
        assert_eq!(pace(seconds(10.0), seconds(2.5)), seconds(25.0));
        assert_eq!(pace(seconds(10.0), seconds(30.0)), seconds(60.0));
        assert_eq!(pace(seconds(3600.0), seconds(30.0)), seconds(3600.0));
    }

    #[test]
    fn a_step_that_is_done_is_not_applied() {
        assert_eq!(left_by(&step("a/b", "true", "exit 9")), (State::Done, String::new(), 0));
    }

    #[test]
    fn a_step_is_applied_and_checked_again() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("mark").display().to_string();
        assert_eq!(left_by(&step("a/b", &format!("test -e {mark}"), &format!("touch {mark}"))), (State::Done, String::new(), 0));
    }

    #[test]
    fn a_step_that_fails_says_so_in_the_words_of_its_program() {
        let (state, words, tries) = left_by(&step("a/b", "false", "echo no such table >&2; exit 3"));
        assert_eq!((state, tries), (State::Failed, 1));
        assert_eq!(words, "apply failed (exit status: 3)\nno such table");
    }

    #[test]
    fn an_apply_that_ends_well_and_does_nothing_is_a_failure() {
        let (state, words, _) = left_by(&step("a/b", "false", "true"));
        assert_eq!(state, State::Failed);
        assert_eq!(words, "checking what seemed to go well: check failed (exit status: 1)");
    }

    #[test]
    fn a_step_whose_user_there_is_not_says_so() {
        let nobodys = Step { user: "no-such-user".into(), ..step("a/b", "true", "true") };
        let words = "there is no account no-such-user\n  next: give the step a user that the image has, or leave it out";
        assert_eq!(left_by(&nobodys), (State::Failed, words.to_string(), 0));
    }

    #[test]
    fn an_apply_that_takes_too_long_is_ended() {
        let slow = Step { timeout: 1, ..step("a/b", "false", "echo copying; sleep 100") };
        assert_eq!(left_by(&slow), (State::Failed, "apply took longer than 1 s\ncopying".to_string(), 1));
    }

    #[test]
    fn an_apply_that_says_not_yet_waits_for_what_its_last_line_names() {
        let later = step("a/b", "false", "echo asking the peers; echo controller02 at 172.16.181.32:2380 >&2; exit 75");
        assert_eq!(left_by(&later), (State::Waiting, "controller02 at 172.16.181.32:2380".to_string(), 0));
    }

    #[test]
    fn a_check_that_is_cut_off_is_a_failure_and_nothing_is_applied() {
        let cut = step("a/b", "kill -9 $$", "touch /nowhere/else; exit 9");
        assert_eq!(left_by(&cut), (State::Failed, "check failed (signal: 9 (SIGKILL))".to_string(), 0));
    }

    #[test]
    fn a_check_that_says_not_yet_waits_and_nothing_is_applied() {
        let later = step("a/b", "echo the majority; exit 75", "exit 9");
        assert_eq!(left_by(&later), (State::Waiting, "the majority".to_string(), 0));
    }

    #[test]
    fn a_step_whose_peer_does_not_answer_waits_and_says_for_whom() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap().to_string();
        let needs = vec![Need { name: "the database".into(), at: at.clone() }];
        let waiting = Step { needs, ..step("a/b", "false", "exit 9") };
        assert_eq!(left_by(&waiting).0, State::Failed, "it answers, so apply runs");
        drop(listener);
        assert_eq!(left_by(&waiting), (State::Waiting, format!("the database at {at}"), 0));
    }

    #[test]
    fn a_step_that_was_done_waits_for_those_before_it_only_when_its_own_check_says_that_it_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("mark");
        std::fs::write(&mark, "").unwrap();
        let second = Step { after: vec!["a/first".into()], ..step("a/second", &format!("test -e {}", mark.display()), "exit 9") };
        let steps = [step("a/first", "false", "true"), second.clone()];
        let board = Board::new(&steps, &folder.path().join("steps.json")).unwrap();
        assert_eq!((turn(&second, &board), board.words("a/second")), (State::Done, String::new()));
        std::fs::remove_file(&mark).unwrap();
        assert_eq!((turn(&second, &board), board.words("a/second")), (State::Waiting, "a/first".to_string()));
    }
}
