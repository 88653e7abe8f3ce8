//! The one error type: what failed, where, why, and what to do next.
//!
//! An error reads as a sentence: gerunds from the outermost action to the innermost, then the cause,
//! then (on a line of its own) the next step. `Place` names the user's file and line when one is at fault.

use std::fmt;
use std::path::{Path, PathBuf};

/// What every fallible function of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A position in a file that the user wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file as the user would name it.
    pub file: PathBuf,
    /// The line, counted from 1; `None` when the whole file is at fault.
    pub line: Option<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        match self.line {
            Some(line) => write!(f, ":{line}"),
            None => Ok(()),
        }
    }
}

/// A failure with its cause and its remedy. Boxed, so that `Result` stays small.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error(Box<Inner>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Inner {
    doing: Vec<String>,
    place: Option<Place>,
    cause: String,
    next: Option<String>,
}

impl Error {
    /// An error with its cause: a plain clause without a full stop.
    pub fn new(cause: impl fmt::Display) -> Self {
        Self(Box::new(Inner { doing: Vec::new(), place: None, cause: cause.to_string(), next: None }))
    }

    /// Adds what the user should do or write instead.
    #[must_use]
    pub fn next(mut self, next: impl fmt::Display) -> Self {
        self.0.next = Some(next.to_string());
        self
    }

    /// Adds the file (and line) at fault, unless an inner one is already known.
    #[must_use]
    pub fn at(mut self, file: impl AsRef<Path>, line: impl Into<Option<usize>>) -> Self {
        if self.0.place.is_none() {
            self.0.place = Some(Place { file: file.as_ref().to_path_buf(), line: line.into() });
        }
        self
    }

    /// Wraps the error in the action that failed: a gerund and its object ("building controller").
    #[must_use]
    pub fn doing(mut self, what: impl fmt::Display) -> Self {
        self.0.doing.push(what.to_string());
        self
    }

    /// The cause alone, for callers that build a larger message from it.
    pub fn cause(&self) -> &str {
        &self.0.cause
    }

    /// The remedy, where one is known.
    pub fn remedy(&self) -> Option<&str> {
        self.0.next.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for doing in self.0.doing.iter().rev() {
            write!(f, "{doing}: ")?;
        }
        if let Some(place) = &self.0.place {
            write!(f, "{place}: ")?;
        }
        write!(f, "{}", self.0.cause)?;
        match &self.0.next {
            Some(next) => write!(f, "\n  next: {next}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

/// Adds context to any foreign error.
pub trait Context<T> {
    /// Names the action that failed: a gerund and its object.
    ///
    /// # Errors
    /// The same failure, in this crate's type.
    fn doing<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for std::result::Result<T, E>
where
    E: IntoError,
{
    fn doing<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|error| error.into_error().doing(what()))
    }
}

/// How a foreign error becomes ours.
pub trait IntoError {
    /// Converts, keeping place and remedy when there are any.
    fn into_error(self) -> Error;
}

impl IntoError for Error {
    fn into_error(self) -> Error {
        self
    }
}

macro_rules! into_error {
    ($($foreign:ty),+ $(,)?) => { $(impl IntoError for $foreign {
        fn into_error(self) -> Error { Error::new(self) }
    })+ };
}
into_error!(std::io::Error, serde_json::Error, rustix::io::Errno, std::num::ParseIntError, std::str::Utf8Error, walkdir::Error);

/// Returns early with an [`Error`] made like `format!`.
#[macro_export]
macro_rules! bail {
    ($($arg:tt)*) => { return Err($crate::base::error::Error::new(format!($($arg)*))) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_as_a_sentence_and_ends_with_the_next_step() {
        let error = Error::new("unknown key `pakages`")
            .at("overlays/etcd/overlay.toml", 3)
            .next("write one of: packages, file")
            .doing("reading the overlay etcd")
            .doing("planning controller");
        assert_eq!(
            error.to_string(),
            "planning controller: reading the overlay etcd: overlays/etcd/overlay.toml:3: unknown key `pakages`\n  \
             next: write one of: packages, file"
        );
    }

    #[test]
    fn the_innermost_place_wins() {
        let error = Error::new("x").at("inner", 1).at("outer", 2);
        assert_eq!(error.to_string(), "inner:1: x");
    }
}
