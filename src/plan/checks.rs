//! The checks of a role: rendered, with what each sees and the key of its result.
//!
//! In: the overlays' `[[check]]` tables, their files for the role and those of one node of it, which stands for all. Out: a
//! [`CheckStep`] for each that is of this release and whose condition holds.
//!
//! What must hold: a check sees the packages and the files that its key names, and nothing else. So a changed line asks for
//! the checks of its own overlay again and for those that say with `reads` that they look at it, and an answer from the store
//! is the one that the program would give.

use super::context::Values;
use super::files::{File, FileKind, FileSet};
use super::render::Templates;
use super::role::PlannedState;
use super::secrets::Secrets;
use super::{Key, version};
use crate::base::digest::Digest;
use crate::base::error::{Error, Result};
use crate::base::name::Word;
use crate::base::path::RelPath;
use crate::model::load::LoadedOverlay;
use crate::model::placeholder::{self, Reference};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// A check of a role.
#[derive(Debug, Clone)]
pub struct CheckStep {
    /// The overlay.
    pub overlay: Word,
    /// The check's name in it.
    pub name: Word,
    /// The overlay's file.
    pub file: PathBuf,
    /// The check's line in it.
    pub line: usize,
    /// What is run and how its words are taken.
    pub run: Run,
    /// The files that it sees above the packages, the lowest layer first: those of overlays, then those of the node.
    pub layers: Vec<CheckLayer>,
    /// The overlay's state directories, for where neither packages nor files have them.
    pub state: Vec<PlannedState>,
    /// The result's key.
    pub key: Key,
}

/// What is run and how its words are taken: [`crate::model::check::CheckEntry`], rendered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Run {
    /// Program and arguments.
    pub command: Vec<String>,
    /// The machine's name: that of the node whose files it sees.
    pub host: String,
    /// The account that runs it.
    pub user: String,
    /// Lines that are errors.
    pub fail: Vec<String>,
    /// Lines that are warnings only.
    pub warn: Vec<String>,
    /// Lines that say nothing.
    pub ignore: Vec<String>,
    /// The program's exit code means nothing.
    pub any_exit: bool,
    /// Seconds.
    pub timeout: u64,
}

/// Files of one overlay, as they lie in its layer or in the node's seed.
#[derive(Debug, Clone)]
pub struct CheckLayer {
    /// The overlay.
    pub overlay: Word,
    /// Whether they are the node's own.
    pub of_node: bool,
    /// The files.
    pub files: FileSet,
}

impl CheckStep {
    /// `OVERLAY/NAME`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.overlay, self.name)
    }

    /// The secrets that its files ask for.
    pub fn references(&self) -> BTreeSet<Reference> {
        let files = self.layers.iter().flat_map(|layer| layer.files.values());
        files
            .flat_map(
                |file| if let FileKind::Regular(bytes) = &file.kind { placeholder::references(bytes) } else { BTreeSet::new() },
            )
            .collect()
    }

    /// Its files by path, the uppermost of each.
    pub fn files(&self) -> BTreeMap<&RelPath, (&CheckLayer, &File)> {
        self.layers.iter().flat_map(|layer| layer.files.iter().map(move |(path, file)| (path, (layer, file)))).collect()
    }
}

/// What the checks of a role are made from.
pub(super) struct Sources<'a> {
    /// The release.
    pub release: &'a Word,
    /// The name of the node that stands for all.
    pub host: &'a str,
    /// The secrets that any overlay declares.
    pub secrets: &'a Secrets,
    /// The key of the packages' layer.
    pub packages: &'a Key,
    /// All layers of the role, in the order in which they lie on each other.
    pub layers: &'a [CheckLayer],
}

/// The checks of an overlay that are of the release and whose conditions hold.
///
/// # Errors
/// A template or a condition; with file and line.
pub(super) fn of_overlay(
    overlay: &LoadedOverlay,
    sources: &Sources<'_>,
    state: &[PlannedState],
    values: &Values,
) -> Result<Vec<CheckStep>> {
    let mut checks = Vec::new();
    for entry in &overlay.overlay.checks {
        let line = overlay.line(entry.name.span());
        let at = |error: Error| error.at(&overlay.file, line);
        let here = entry.release.as_ref().is_none_or(|only| only == sources.release);
        if !here || !Templates::holds(entry.when.as_deref(), values).map_err(at)? {
            continue;
        }
        let text = |text: &String| Templates::render_text(text, values).map_err(at);
        let run = Run {
            command: entry.run.iter().map(text).collect::<Result<_>>()?,
            host: sources.host.to_string(),
            user: entry.user.clone(),
            fail: entry.fail.clone(),
            warn: entry.warn.clone(),
            ignore: entry.ignore.clone(),
            any_exit: entry.any_exit,
            timeout: entry.timeout,
        };
        let reads: Vec<glob::Pattern> = entry.reads.iter().filter_map(|pattern| glob::Pattern::new(pattern).ok()).collect();
        let layers: Vec<CheckLayer> = sources
            .layers
            .iter()
            .map(|layer| seen(layer, &overlay.name, &reads))
            .filter(|layer| !layer.files.is_empty())
            .collect();
        let key = key(&format!("check {}/{}", overlay.name, entry.name.get_ref()), &run, &layers, state, sources);
        checks.push(CheckStep {
            overlay: overlay.name.clone(),
            name: entry.name.get_ref().clone(),
            file: overlay.file.clone(),
            line,
            run,
            layers,
            state: state.to_vec(),
            key,
        });
    }
    Ok(checks)
}

/// What of a layer a check of `own` sees.
fn seen(layer: &CheckLayer, own: &Word, reads: &[glob::Pattern]) -> CheckLayer {
    if layer.overlay == *own {
        return layer.clone();
    }
    let options = glob::MatchOptions { require_literal_separator: true, ..glob::MatchOptions::new() };
    let wanted = |path: &RelPath| reads.iter().any(|pattern| pattern.matches_with(&path.to_string(), options));
    let files = layer.files.iter().filter(|(path, _)| wanted(path));
    CheckLayer { files: files.map(|(path, file)| (path.clone(), file.clone())).collect(), ..layer.clone() }
}

fn key(step: &str, run: &Run, layers: &[CheckLayer], state: &[PlannedState], sources: &Sources<'_>) -> Key {
    let json = |value: serde_json::Result<String>| Digest::of(value.unwrap_or_default());
    let mut key = Key::new(step, version::CHECK)
        .with("definition", json(serde_json::to_string(run)))
        .with("state directories", json(serde_json::to_string(state)))
        .with("packages", sources.packages.digest());
    let mut names = BTreeSet::new();
    for layer in layers {
        for (path, file) in &layer.files {
            // Two layers may have the same path, and the order of layers decides.
            let place = if layer.of_node { "node" } else { layer.overlay.as_str() };
            key = key.with(format!("{path} of {place}"), file.identity());
            if let FileKind::Regular(bytes) = &file.kind {
                names.extend(placeholder::references(bytes).into_iter().map(|reference| reference.name));
            }
        }
    }
    let order: Vec<&str> = layers.iter().map(|layer| layer.overlay.as_str()).collect();
    key = key.with("order of layers", order.join(" "));
    // A dummy's form follows from what is declared.
    for (name, declared) in sources.secrets.iter().filter(|(name, _)| names.contains(name.as_str())) {
        key = key.with(format!("secret {name}"), json(serde_json::to_string(&declared.entry)));
    }
    key
}
