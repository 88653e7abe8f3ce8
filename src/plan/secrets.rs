//! Secrets in a plan: which are declared, and where their placeholders stand. No value is known here.
//!
//! `{{ secret(name="nova-db") }}` renders as `@ostack-secret:nova-db:value@`, and stays so in layers and seeds' files.
//! The node puts the value there before any service starts.

use crate::base::error::{Error, Result};
use crate::base::name::Word;
use crate::base::path::RelPath;
use crate::model::load::LoadedOverlay;
use crate::model::secret::SecretEntry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Where an overlay's layer lists those of its files that have placeholders: a file of the overlay's name in here.
pub const LISTS: &str = "usr/share/ostack/secrets";
/// How a placeholder begins and ends.
const BEGIN: &str = "@ostack-secret:";
const END: char = '@';

/// A secret and where it is declared first.
#[derive(Debug, Clone)]
pub struct Declared {
    /// The declaration.
    pub entry: SecretEntry,
    /// The overlay's file.
    pub file: PathBuf,
    /// Its line.
    pub line: usize,
}

/// All secrets of a site, by name.
pub type Secrets = BTreeMap<Word, Declared>;

/// One placeholder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// The secret's name.
    pub name: String,
    /// Its field.
    pub field: String,
}

/// The text that stands for a secret's field.
pub fn placeholder(name: &str, field: &str) -> String {
    format!("{BEGIN}{name}:{field}{END}")
}

/// The secrets that overlays declare. Several may declare the same one, if they mean the same.
///
/// # Errors
/// Two declarations of a name differ, or name an authority that there is not.
pub fn declared<'a>(overlays: impl Iterator<Item = &'a LoadedOverlay>) -> Result<Secrets> {
    let mut secrets = Secrets::new();
    for overlay in overlays {
        for entry in &overlay.overlay.secrets {
            let line = overlay.line(entry.name.span());
            let name = entry.name.get_ref();
            let Some(first) = secrets.get(name) else {
                secrets.insert(name.clone(), Declared { entry: entry.clone(), file: overlay.file.clone(), line });
                continue;
            };
            if serde_json::to_value(entry).ok() != serde_json::to_value(&first.entry).ok() {
                return Err(Error::new(format!(
                    "the secret {name} is declared otherwise in {}:{}",
                    first.file.display(),
                    first.line
                ))
                .at(&overlay.file, line)
                .next("declare it alike, or give it another name"));
            }
        }
    }
    for one in secrets.values() {
        if let Some(ca) = &one.entry.ca
            && !secrets.contains_key(ca)
        {
            return Err(Error::new(format!(
                "the secret {} is to be signed by {ca}, which no overlay declares",
                one.entry.name.get_ref()
            ))
            .at(&one.file, one.line)
            .next(format!("add [[secret]] name = \"{ca}\" with kind = \"ca\" or \"ssh-ca\"")));
        }
    }
    Ok(secrets)
}

/// The placeholders of a file.
pub fn references(bytes: &[u8]) -> BTreeSet<Reference> {
    let mut found = BTreeSet::new();
    // Placeholders are ASCII: what is no UTF-8 around them does not matter.
    let text = String::from_utf8_lossy(bytes);
    let mut rest = text.as_ref();
    while let Some(at) = rest.find(BEGIN) {
        rest = &rest[at + BEGIN.len()..];
        if let Some((inside, _)) = rest.split_once(END)
            && let Some((name, field)) = inside.split_once(':')
        {
            found.insert(Reference { name: name.to_string(), field: field.to_string() });
        }
    }
    found
}

/// Refuses placeholders of secrets that there are not, and secrets in files that everybody may read.
///
/// # Errors
/// Says what to write; the caller adds file and line.
pub fn check(path: &RelPath, mode: u32, references: &BTreeSet<Reference>, secrets: &Secrets) -> Result<()> {
    for Reference { name, field } in references {
        let Some((_, one)) = secrets.iter().find(|(known, _)| known.as_str() == name) else {
            return Err(Error::new(format!("{path} asks for the secret `{name}`, which no overlay declares"))
                .next(format!("add [[secret]] name = \"{name}\" to overlay.toml")));
        };
        let fields = one.entry.kind.fields();
        let Some((_, public)) = fields.iter().find(|(known, _)| known == field) else {
            let known: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
            return Err(Error::new(format!("the secret `{name}` in {path} has no field `{field}`"))
                .next(format!("use one of: {}", known.join(", "))));
        };
        if !public && mode & 0o007 != 0 {
            return Err(Error::new(format!("{path} holds the secret `{name}`, and everybody may read it ({mode:04o})"))
                .next("write mode = \"0640\" and the service's group as owner"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_found_in_bytes_that_are_no_text() {
        let mut bytes = b"\xff x = ".to_vec();
        bytes.extend(placeholder("nova-db", "value").bytes());
        bytes.extend(b"@ostack-secret:broken");
        let expected = Reference { name: "nova-db".into(), field: "value".into() };
        assert_eq!(references(&bytes), BTreeSet::from([expected]));
    }
}
