//! Which packages the recipes ask for: the roots that the lock resolves.

use crate::base::error::{Error, Result};
use crate::base::name::{PackageName, Role, Word};
use crate::model::load::LoadedOverlay;
use crate::model::recipe::Recipe;
use crate::model::release::{Packages, Release};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A set's name -> the packages asked for. Sets: `base`, `kernel-FLAVOUR` for each flavour that a recipe uses, `tools`,
/// `loaders`, `solver`, and one per role. Each but these three is resolved on top of `base`.
///
/// # Errors
/// A recipe names a kernel flavour that the release does not have.
pub fn requested(
    release: &Release,
    roles: &[(Role, &Recipe, &Path, &[LoadedOverlay])],
    name: &Word,
) -> Result<BTreeMap<Word, BTreeSet<PackageName>>> {
    let word = |text: &str| text.parse::<Word>();
    let mut sets: BTreeMap<Word, BTreeSet<PackageName>> = BTreeMap::new();
    sets.insert(word("base")?, release.packages.base.iter().cloned().collect());
    let Packages { tools, loaders, solver, .. } = &release.packages;
    for (set, packages) in [("tools", tools), ("loaders", loaders), ("solver", solver)] {
        if !packages.is_empty() {
            sets.insert(word(set)?, packages.iter().cloned().collect());
        }
    }
    for (role, recipe, path, overlays) in roles {
        if !release.kernel.is_empty() {
            let Some(kernel) = release.kernel.get(&recipe.kernel) else {
                let known: Vec<&str> = release.kernel.keys().map(Word::as_str).collect();
                return Err(Error::new(format!("the release {name} has no kernel flavour `{}`", recipe.kernel))
                    .at(path, recipe.lines.of(&["kernel"]))
                    .next(format!("write kernel = one of: {}", known.join(", "))));
            };
            sets.entry(word(&format!("kernel-{}", recipe.kernel))?).or_default().extend(kernel.iter().cloned());
        }
        let set = sets.entry(word(role.as_str())?).or_default();
        for overlay in *overlays {
            set.extend(overlay.overlay.packages.get(name).into_iter().flatten().cloned());
        }
    }
    Ok(sets)
}
