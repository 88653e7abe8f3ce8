//! Placeholders: what stands in a file where a secret's value will be, and putting the values there.
//!
//! `{{ secret(name="nova-db") }}` renders as `@ostack-secret:nova-db:value@` and stays so in layers and in seeds' files. In:
//! a file's bytes and values by name and field. Out: the references in them, or the bytes with every value in its place. A
//! file is filled as a whole or not at all, and no message ever has a value. The node fills its files before any service
//! starts; `render --secrets` and checks do the same with the same code.

use crate::base::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Where an overlay's layer lists those of its files that have placeholders: a file of the overlay's name in here.
pub const LISTS: &str = "usr/share/ostack/secrets";
/// How a placeholder begins and ends.
const BEGIN: &str = "@ostack-secret:";
const END: char = '@';

/// One placeholder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// The secret's name.
    pub name: String,
    /// Its field.
    pub field: String,
}

/// The fields of a secret, by name.
pub type Fields = BTreeMap<String, String>;

/// Secrets' values by name and field. They show in no `{:?}`.
#[derive(Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Values(BTreeMap<String, Fields>);

impl Values {
    /// Adds a secret, or replaces it.
    pub fn insert(&mut self, name: impl Into<String>, fields: Fields) {
        self.0.insert(name.into(), fields);
    }

    /// Adds one field of a secret.
    pub fn set(&mut self, reference: &Reference, value: impl Into<String>) {
        self.0.entry(reference.name.clone()).or_default().insert(reference.field.clone(), value.into());
    }

    /// The value that belongs in a placeholder's place.
    pub fn get(&self, reference: &Reference) -> Option<&str> {
        self.0.get(&reference.name)?.get(&reference.field).map(String::as_str)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// The text that stands for a secret's field.
pub fn placeholder(name: &str, field: &str) -> String {
    format!("{BEGIN}{name}:{field}{END}")
}

/// The placeholders of a file.
pub fn references(bytes: &[u8]) -> BTreeSet<Reference> {
    pieces(bytes).filter_map(|piece| if let Piece::Value(reference) = piece { Some(reference) } else { None }).collect()
}

/// A file with every value in its placeholder's place.
///
/// # Errors
/// Names the first secret that `values` does not have.
pub fn fill(bytes: &[u8], values: &Values) -> Result<Vec<u8>> {
    let mut filled = Vec::with_capacity(bytes.len());
    for piece in pieces(bytes) {
        match piece {
            Piece::Bytes(bytes) => filled.extend(bytes),
            Piece::Value(reference) => {
                let Some(value) = values.get(&reference) else {
                    return Err(Error::new(format!(
                        "there is no value of the secret `{}` ({})",
                        reference.name, reference.field
                    )));
                };
                filled.extend(value.bytes());
            }
        }
    }
    Ok(filled)
}

/// A part of a file.
enum Piece<'a> {
    Bytes(&'a [u8]),
    Value(Reference),
}

/// The parts of a file, in order. What begins like a placeholder and is none is left as it is.
fn pieces(bytes: &[u8]) -> impl Iterator<Item = Piece<'_>> {
    let mut rest = bytes;
    let mut value = None;
    std::iter::from_fn(move || {
        if let Some(reference) = value.take() {
            return Some(Piece::Value(reference));
        }
        let mut from = 0;
        while let Some(at) = find(&rest[from..]) {
            let begin = from + at;
            if let Some((reference, length)) = reference(&rest[begin..]) {
                let before = &rest[..begin];
                rest = &rest[begin + length..];
                value = Some(reference);
                return Some(Piece::Bytes(before));
            }
            from = begin + BEGIN.len();
        }
        (!rest.is_empty()).then(|| Piece::Bytes(std::mem::take(&mut rest)))
    })
}

fn find(bytes: &[u8]) -> Option<usize> {
    bytes.windows(BEGIN.len()).position(|window| window == BEGIN.as_bytes())
}

/// The placeholder at the beginning of `bytes`, and its length.
fn reference(bytes: &[u8]) -> Option<(Reference, usize)> {
    let inside = &bytes[BEGIN.len()..];
    let end = inside.iter().position(|byte| *byte == END as u8)?;
    let (name, field) = std::str::from_utf8(&inside[..end]).ok()?.split_once(':')?;
    // Whether there is such a secret is for others to say: one that was misspelt must not pass as text.
    (!name.contains('\n') && !field.contains('\n')).then_some(())?;
    Some((Reference { name: name.to_string(), field: field.to_string() }, BEGIN.len() + end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values() -> Values {
        let mut values = Values::default();
        values.insert("nova-db", Fields::from([("value".to_string(), "Secret@1".to_string())]));
        values
    }

    #[test]
    fn placeholders_are_found_in_bytes_that_are_no_text() {
        let mut bytes = b"\xff x = ".to_vec();
        bytes.extend(placeholder("nova-db", "value").bytes());
        bytes.extend(b"@ostack-secret:broken");
        let expected = Reference { name: "nova-db".into(), field: "value".into() };
        assert_eq!(references(&bytes), BTreeSet::from([expected]));
    }

    #[test]
    fn every_placeholder_is_filled_and_all_other_bytes_stay() {
        let mut bytes = b"\xff a = @ostack-secret:nova-db:value@@ostack-secret:nova-db:value@ b".to_vec();
        bytes.extend(b"\n@ostack-secret:broken x@ostack-secret:nova-db:value@\xfe");
        let mut expected = b"\xff a = Secret@1Secret@1 b\n@ostack-secret:broken xSecret@1".to_vec();
        expected.push(0xfe);
        assert_eq!(fill(&bytes, &values()).unwrap(), expected);
        assert_eq!(fill(b"nothing", &values()).unwrap(), b"nothing");
    }

    #[test]
    fn a_placeholder_without_a_value_is_an_error_that_names_it() {
        let error = fill(b"@ostack-secret:nova-db:value@ @ostack-secret:glance:value@", &values()).unwrap_err();
        assert_eq!(error.to_string(), "there is no value of the secret `glance` (value)");
    }

    #[test]
    fn values_show_in_no_debug_message() {
        assert_eq!(format!("{:?}", values()), "{\"nova-db\"}");
    }
}
