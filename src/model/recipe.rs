//! `recipes/<role>.toml`: the ordered overlays of a role and their parameters.

use super::overlay::Parameters;
use super::{Lines, Source};
use crate::base::error::Result;
use crate::base::name::Word;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use toml::Spanned;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    description: String,
    #[serde(default = "generic")]
    kernel: Spanned<Word>,
    overlays: Vec<Spanned<Word>>,
    #[serde(default)]
    parameters: BTreeMap<Spanned<Word>, Parameters>,
}

fn generic() -> Spanned<Word> {
    Spanned::new(0..0, "generic".parse().unwrap_or_else(|_| unreachable!("a constant word")))
}

/// A role's recipe.
#[derive(Debug, Clone, Serialize)]
pub struct Recipe {
    /// For people, one line.
    pub description: String,
    /// The kernel flavour: a key of the release's `[kernel]` table.
    pub kernel: Word,
    /// Overlays in the order in which their layers are stacked; later ones win where they may.
    pub overlays: Vec<(Word, usize)>,
    /// Parameters by overlay, over the overlay's own defaults.
    pub parameters: BTreeMap<Word, Parameters>,
    /// Where its keys stand.
    #[serde(skip)]
    pub lines: Lines,
}

/// Reads a recipe.
///
/// # Errors
/// With file and line: an unknown key, an overlay named twice, parameters of an overlay that is not in the recipe.
pub fn parse(source: &Source<'_>) -> Result<Recipe> {
    let written: Written = source.toml()?;
    let mut overlays: Vec<(Word, usize)> = Vec::new();
    for overlay in written.overlays {
        let line = source.line(&overlay.span());
        if let Some((_, first)) = overlays.iter().find(|(name, _)| name == overlay.get_ref()) {
            return Err(source
                .error(&overlay.span(), format!("the overlay `{}` is listed twice (first in line {first})", overlay.get_ref()))
                .next("remove one of the two"));
        }
        overlays.push((overlay.into_inner(), line));
    }
    let mut parameters = BTreeMap::new();
    for (overlay, values) in written.parameters {
        if !overlays.iter().any(|(name, _)| name == overlay.get_ref()) {
            let known: Vec<&str> = overlays.iter().map(|(name, _)| name.as_str()).collect();
            return Err(source
                .error(&overlay.span(), format!("parameters for `{}`, which is no overlay of this recipe", overlay.get_ref()))
                .next(format!("use one of: {}", known.join(", "))));
        }
        parameters.insert(overlay.into_inner(), values);
    }
    Ok(Recipe {
        description: written.description,
        kernel: written.kernel.into_inner(),
        overlays,
        parameters,
        lines: source.lines(),
    })
}
