//! What the command line says: results on stdout by `out!`, messages on stderr by `note!`, a line each.
//!
//! Whoever closes a pipe (`… | head`) has read enough; the work goes on and ends as it would have.

use crate::base::error::{Error, Result};
use std::fmt::Arguments;
use std::io::{ErrorKind, Write};
use std::sync::OnceLock;

/// Why a result did not reach stdout.
static LOST: OnceLock<std::io::Error> = OnceLock::new();

/// Writes a line of the result to stdout.
macro_rules! out {
    ($($text:tt)*) => { $crate::cli::terminal::result(format_args!($($text)*)) };
}

/// Writes a line for the person who looks on to stderr.
macro_rules! note {
    ($($text:tt)*) => { $crate::cli::terminal::message(format_args!($($text)*)) };
}

pub(super) use {note, out};

pub(super) fn result(text: Arguments<'_>) {
    if let Err(error) = write(&mut std::io::stdout().lock(), text) {
        let _ = LOST.set(error);
    }
}

pub(super) fn message(text: Arguments<'_>) {
    // Where messages cannot be written there is nobody to tell.
    let _ = write(&mut std::io::stderr().lock(), text);
}

fn write(stream: &mut impl Write, text: Arguments<'_>) -> std::io::Result<()> {
    match writeln!(stream, "{text}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Asks whether all results were written.
///
/// # Errors
/// They were not, say because the disk is full.
pub(super) fn written() -> Result<()> {
    match LOST.get() {
        Some(error) => Err(Error::new(error).doing("writing the result to stdout")),
        None => Ok(()),
    }
}
