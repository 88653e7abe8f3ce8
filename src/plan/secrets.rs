//! Secrets in a plan: which are declared, and where their placeholders stand. No value is known here.
//!
//! `{{ secret(name="nova-db") }}` renders as `@ostack-secret:nova-db:value@`, and stays so in layers and seeds' files.
//! The node puts the value there before any service starts ([`crate::model::placeholder`]).

use super::context::Values;
use super::files::Prepared;
use super::render::Text;
use crate::base::error::{Error, Result};
use crate::base::name::Word;
use crate::base::path::RelPath;
use crate::model::load::LoadedOverlay;
use crate::model::placeholder::Reference;
use crate::model::secret::{Per, SecretEntry, SecretKind};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

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
        let Some(ca) = &one.entry.ca else { continue };
        let wanted = if one.entry.kind == SecretKind::SshHost { SecretKind::SshCa } else { SecretKind::Ca };
        if secrets.get(ca).is_none_or(|ca| ca.entry.kind != wanted || ca.entry.per == Per::Node) {
            return Err(Error::new(format!(
                "the secret {} is to be signed by {ca}, which no overlay declares as an authority of the site",
                one.entry.name.get_ref()
            ))
            .at(&one.file, one.line)
            .next(format!("add [[secret]] name = \"{ca}\" with kind = \"{}\"", wanted.as_str())));
        }
    }
    Ok(secrets)
}

/// A secret that a role's overlays declare, and what its certificate is for.
pub struct SecretNames<'a> {
    /// The declaration.
    pub entry: &'a SecretEntry,
    /// The overlay that has it, by its place in the recipe: its parameters are those that the names see.
    overlay: usize,
    /// All names, one a line.
    names: Text,
}

impl<'a> SecretNames<'a> {
    /// Parses the names of every secret; one that several overlays declare counts once.
    ///
    /// # Errors
    /// A template's syntax, with file and line.
    pub fn of(overlays: &[Prepared<'a>]) -> Result<Vec<Self>> {
        let mut seen = BTreeSet::new();
        let mut all = Vec::new();
        for (index, overlay) in overlays.iter().map(|prepared| prepared.overlay).enumerate() {
            for entry in overlay.overlay.secrets.iter().filter(|entry| seen.insert(entry.name.get_ref())) {
                let names = Text::parse(entry.names.join("\n"));
                let names = names.map_err(|error| error.at(&overlay.file, overlay.line(entry.name.span())))?;
                all.push(Self { entry, overlay: index, names });
            }
        }
        Ok(all)
    }

    /// The names; one that is empty for this site or node is left out.
    ///
    /// # Errors
    /// A name that is not there, with file and line.
    pub fn render(&self, overlays: &[Prepared<'_>], values: &mut Values) -> Result<Vec<String>> {
        if self.entry.names.is_empty() {
            return Ok(Vec::new());
        }
        let prepared = &overlays[self.overlay];
        values.set("param", &prepared.parameters);
        let line = prepared.overlay.line(self.entry.name.span());
        let text = self.names.render(values).map_err(|error| error.at(&prepared.overlay.file, line))?;
        Ok(text.lines().map(str::trim).filter(|name| !name.is_empty()).map(str::to_string).collect())
    }
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
        if !public && one.entry.kind.signs() {
            return Err(Error::new(format!("{path} asks for the key of the authority `{name}`, which goes to no node"))
                .next("declare a secret that it signs, with ca = \"…\""));
        }
        if !public && mode & 0o007 != 0 {
            return Err(Error::new(format!("{path} holds the secret `{name}`, and everybody may read it ({mode:04o})"))
                .next("write mode = \"0640\" and the service's group as owner"));
        }
    }
    Ok(())
}
