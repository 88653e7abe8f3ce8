//! What a check's program said, taken as its overlay says: errors, warnings, nothing.
//!
//! In: how the program ended and all that it printed. Out: the lines that are warnings, and why it failed if it did, in its
//! own words. Pure.

use crate::base::error::{Context, Result};
use crate::plan::checks::Run;
use regex::RegexSet;

/// How many of its last lines a failed program is quoted with, where no line is known to be the error.
const QUOTED_LINES: usize = 20;

/// What became of a check.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Lines that are warnings.
    pub warnings: Vec<String>,
    /// Why it failed.
    pub failure: Option<Failure>,
}

/// Why a check failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// How it shows: an exit code, a line.
    pub how: String,
    /// The program's words, those that matter.
    pub words: Vec<String>,
}

impl Verdict {
    /// Judges; `code` is `None` where the time was up.
    ///
    /// # Errors
    /// An expression is none, which the model refuses before.
    pub fn of(run: &Run, code: Option<i32>, output: &[u8]) -> Result<Self> {
        let set = |expressions: &[String]| {
            RegexSet::new(expressions).map_err(crate::base::error::Error::new).doing(|| "reading a check")
        };
        let (fail, warn, ignore) = (set(&run.fail)?, set(&run.warn)?, set(&run.ignore)?);
        let (mut errors, mut warnings, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for line in lines(output).filter(|line| !ignore.is_match(line)) {
            match () {
                () if warn.is_match(&line) => warnings.push(line),
                () if fail.is_match(&line) => errors.push(line),
                () => others.push(line),
            }
        }
        let how = match code {
            None => format!("did not end within {} s", run.timeout),
            Some(code) if code != 0 && !run.any_exit => format!("ended with exit code {code}"),
            Some(_) if !errors.is_empty() => "says".to_string(),
            Some(_) => return Ok(Self { warnings, failure: None }),
        };
        let words = if errors.is_empty() { others.split_off(others.len().saturating_sub(QUOTED_LINES)) } else { errors };
        Ok(Self { warnings, failure: Some(Failure { how, words }) })
    }
}

/// The lines that say something, without colours and without what a terminal would have overwritten.
fn lines(output: &[u8]) -> impl Iterator<Item = String> {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<String> = text
        .lines()
        .map(|line| without_colours(line.trim_end().rsplit('\r').next().unwrap_or_default()).trim_end().to_string())
        .filter(|line| !line.is_empty())
        .collect();
    lines.into_iter()
}

fn without_colours(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        plain.push_str(before);
        rest = after.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
        rest = rest.get(1..).unwrap_or_default();
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The verdict in one line: warnings, then how it failed and its words.
    fn verdict(change: impl FnOnce(&mut Run), code: Option<i32>, output: &str) -> String {
        let mut run = Run {
            command: vec!["x".to_string()],
            host: "x".to_string(),
            user: "root".to_string(),
            fail: vec!["^ERROR".to_string()],
            warn: vec!["deprecated".to_string()],
            ignore: vec!["^INFO".to_string()],
            any_exit: false,
            timeout: 60,
        };
        change(&mut run);
        let Verdict { warnings, failure } = Verdict::of(&run, code, output.as_bytes()).unwrap();
        let failure = failure.map_or("good".to_string(), |failure| format!("{}: {}", failure.how, failure.words.join(", ")));
        format!("{warnings:?} {failure}")
    }

    #[test]
    fn lines_are_ignored_then_warnings_then_errors() {
        let all = "INFO ERROR\nERROR deprecated a\nERROR b\nc\n";
        assert_eq!(verdict(|_| (), Some(0), all), "[\"ERROR deprecated a\"] says: ERROR b");
        assert_eq!(verdict(|_| (), Some(0), "INFO x\ndeprecated a\nc\n"), "[\"deprecated a\"] good");
    }

    #[test]
    fn an_exit_code_fails_unless_it_means_nothing() {
        assert_eq!(verdict(|_| (), Some(3), "INFO x\na\nb\n"), "[] ended with exit code 3: a, b");
        assert_eq!(verdict(|run| run.any_exit = true, Some(3), "a\n"), "[] good");
        assert_eq!(verdict(|run| run.any_exit = true, Some(3), "ERROR a\n"), "[] says: ERROR a");
    }

    #[test]
    fn a_program_that_takes_too_long_fails_whatever_it_said() {
        assert_eq!(verdict(|run| run.any_exit = true, None, "a\n"), "[] did not end within 60 s: a");
    }

    #[test]
    fn colours_and_overwritten_text_are_no_words() {
        assert_eq!(verdict(|_| (), Some(0), "10 %\r\u{1b}[1;31mERROR\u{1b}[0m a\n\n"), "[] says: ERROR a");
    }
}
