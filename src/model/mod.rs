//! The user's files as checked values: `site.toml`, recipes, overlays, releases.
//!
//! In: text. Out: values that need no further checking. `parse` functions are pure; `load` alone reads
//! folders. Every error names the file and the line, and says what to write.
//! To add a key: a field here, its meaning in the doc comment, its use in `plan`.

pub mod check;
pub mod disk;
pub mod install;
pub mod iso;
pub mod kickstart;
pub mod load;
pub mod netboot;
pub mod options;
pub mod overlay;
pub mod placeholder;
pub mod recipe;
pub mod release;
pub mod secret;
pub mod site;
pub mod step;

use crate::base::error::{Error, Result};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use toml::de::{DeTable, DeValue};

/// A user's file while it is being checked: turns byte positions into lines.
pub struct Source<'a> {
    /// The file as the user would name it.
    pub file: &'a Path,
    /// Its text.
    pub text: &'a str,
}

impl Source<'_> {
    /// Reads the TOML text as a `T`; unknown keys are errors that list the known ones.
    ///
    /// # Errors
    /// With file, line and what TOML or serde had to say.
    pub fn toml<T: DeserializeOwned>(&self) -> Result<T> {
        toml::from_str(self.text).map_err(|error| {
            let line = error.span().map(|span| self.line(&span));
            let message = error.message();
            let (cause, next) = match message.split_once(", expected ") {
                Some((cause, expected)) => {
                    let expected = expected.replace('`', "").replace("u32", "a number from 0 to 4294967295");
                    let expected = expected.replace("literal string", "the text between double quotes");
                    let cause = cause.replace("unknown field", "unknown key").replace("unknown variant", "unknown value");
                    (cause, Some(format!("write {expected}")))
                }
                None => match message.split_once("; ") {
                    Some((cause, next)) => (cause.to_string(), Some(next.to_string())),
                    None => match message.strip_prefix("missing field ") {
                        Some(key) => (format!("missing key {key}"), Some(format!("write {} = …", key.replace('`', "")))),
                        None => (message.to_string(), None),
                    },
                },
            };
            let error = Error::new(cause).at(self.file, line);
            match next {
                Some(next) => error.next(next),
                None => error,
            }
        })
    }

    /// The line (from 1) in which a span begins.
    pub fn line(&self, span: &Range<usize>) -> usize {
        1 + self.text.as_bytes()[..span.start.min(self.text.len())].iter().filter(|&&c| c == b'\n').count()
    }

    /// Where every key of the file stands; none when it is no TOML.
    pub fn lines(&self) -> Lines {
        let mut lines = Lines::default();
        if let Ok(table) = DeTable::parse(self.text) {
            note(table.get_ref(), &Newlines::of(self.text), &mut Vec::new(), &mut lines);
        }
        lines
    }

    /// An error about the value at `span`.
    pub fn error(&self, span: &Range<usize>, cause: impl std::fmt::Display) -> Error {
        Error::new(cause).at(self.file, self.line(span))
    }
}

fn note(table: &DeTable<'_>, newlines: &Newlines, path: &mut Vec<String>, lines: &mut Lines) {
    for (key, value) in table {
        path.push(key.get_ref().to_string());
        lines.0.insert(path.clone(), newlines.line(&key.span()));
        match value.get_ref() {
            DeValue::Table(inner) => note(inner, newlines, path, lines),
            DeValue::Array(array) => {
                for (index, item) in array.iter().enumerate() {
                    if let DeValue::Table(inner) = item.get_ref() {
                        path.push(index.to_string());
                        note(inner, newlines, path, lines);
                        path.pop();
                    }
                }
            }
            _ => {}
        }
        path.pop();
    }
}

/// Where the lines of a text end: for whoever asks for the line of every value, which [`Source::line`] would answer by
/// reading the text again each time.
#[derive(Default)]
struct Newlines(Vec<usize>);

impl Newlines {
    fn of(text: &str) -> Self {
        Self(text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at).collect())
    }

    /// The line (from 1) in which a span begins.
    fn line(&self, span: &Range<usize>) -> usize {
        1 + self.0.partition_point(|newline| *newline < span.start)
    }
}

/// Where the keys of a file stand, for errors that show only when several files are put together.
#[derive(Debug, Clone, Default)]
pub struct Lines(BTreeMap<Vec<String>, usize>);

impl Lines {
    /// The line of a key, given with the tables around it; positions in arrays count from 0.
    pub fn of(&self, key: &[&str]) -> Option<usize> {
        self.0.get(&key.iter().map(|part| (*part).to_string()).collect::<Vec<_>>()).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_its_line() {
        let text = "[a.\"b.c\"]\nd = 1\n\n[[e]]\nf = 2\n[[e]]\nf = { g = 3 }\n";
        let lines = Source { file: Path::new("x.toml"), text }.lines();
        assert_eq!(
            [lines.of(&["a", "b.c", "d"]), lines.of(&["e", "0", "f"]), lines.of(&["e", "1", "f", "g"]), lines.of(&["d"])],
            [Some(2), Some(5), Some(7), None]
        );
    }
}
