//! The user's files as checked values: `site.toml`, recipes, overlays, releases.
//!
//! In: text. Out: values that need no further checking. `parse` functions are pure; `load` alone reads
//! folders. Every error names the file and the line, and says what to write.
//! To add a key: a field here, its meaning in the doc comment, its use in `plan`.

pub mod disk;
pub mod load;
pub mod overlay;
pub mod recipe;
pub mod release;
pub mod site;

use crate::base::error::{Error, Result};
use serde::de::DeserializeOwned;
use std::ops::Range;
use std::path::Path;

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
                    let expected = expected.replace('`', "");
                    (cause.replace("unknown field", "unknown key"), Some(format!("write {expected}")))
                }
                None => match message.split_once("; ") {
                    Some((cause, next)) => (cause.to_string(), Some(next.to_string())),
                    None => (message.replace("missing field", "missing key"), None),
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

    /// An error about the value at `span`.
    pub fn error(&self, span: &Range<usize>, cause: impl std::fmt::Display) -> Error {
        Error::new(cause).at(self.file, self.line(span))
    }
}
