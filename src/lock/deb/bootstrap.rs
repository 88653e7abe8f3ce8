//! The packages of the solver that a first lock runs by: what `[packages] solver` names and what that depends on.
//!
//! There is no solver yet, so the rule is a simple one: of each dependency the first alternative that the archives have, of
//! each package the newest version; conflicts are not looked at, for the packages are unpacked and never installed. It is
//! the same on every machine. The set `solver` that is locked then is apt's own solution, and the solver from then on.

use super::index::{Index, Stanza};
use super::version;
use crate::base::error::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};

/// What to unpack, by name.
///
/// # Errors
/// Something that is needed is in no suite.
pub(super) fn closure<'a>(index: &Index<'a>, roots: impl IntoIterator<Item = &'a str>) -> Result<BTreeMap<&'a str, Stanza<'a>>> {
    let mut chosen: BTreeMap<&str, Stanza<'_>> = BTreeMap::new();
    let mut open: Vec<Vec<&str>> = roots.into_iter().map(|root| vec![root]).collect();
    while let Some(alternatives) = open.pop() {
        let provided = |name: &str| chosen.values().any(|one| one.provided().any(|provided| provided == name));
        if alternatives.iter().any(|name| chosen.contains_key(name) || provided(name)) {
            continue;
        }
        let found = alternatives.iter().find_map(|name| newest(index, name)).ok_or_else(|| {
            Error::new(format!("the solver needs {}, which is in no suite of the release", alternatives.join(" or ")))
                .next("add the suite that has it")
        })?;
        open.extend(found.groups());
        chosen.insert(found.name, found);
    }
    Ok(chosen)
}

/// The newest version of a package, or of the first that provides it.
fn newest<'a>(index: &Index<'a>, name: &str) -> Option<Stanza<'a>> {
    let of = |name: &str| {
        // Of equal ones the first suite's.
        index.versions(name).iter().rev().copied().max_by(|a, b| version::compare(a.version, b.version))
    };
    let providers: BTreeSet<&str> = if index.versions(name).is_empty() { index.providers(name) } else { BTreeSet::new() };
    of(name).or_else(|| of(providers.first()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(packages: &[(&str, &str, &str)]) -> String {
        let stanza = |(name, version, fields): &(&str, &str, &str)| {
            format!(
                "Package: {name}\nVersion: {version}\nArchitecture: all\nFilename: p/{name}\nSize: 1\nSHA256: 00\n{fields}\n\n"
            )
        };
        packages.iter().map(stanza).collect()
    }

    #[test]
    fn the_first_alternative_that_is_there_and_the_newest_version_are_taken() {
        let old = list(&[
            ("apt", "3.0", "Depends: absent | sqv | gpgv, libapt (= 3.0), libc:any (>= 2)"),
            ("sqv", "1.3", "Depends: libc"),
            ("gpgv", "2.4", ""),
            ("libapt", "3.0", "Depends: mailer"),
            ("libc", "2.9", ""),
            ("other", "1", ""),
            ("postfix", "1", "Provides: mailer (= 1)"),
        ]);
        let new = list(&[("libc", "2.10", "Pre-Depends: gcc-base"), ("gcc-base", "14", "Depends: libc")]);
        let mut index = Index::default();
        index.add(0, &old).unwrap();
        index.add(1, &new).unwrap();
        let chosen = closure(&index, ["apt"]).unwrap();
        let said: Vec<String> = chosen.values().map(|one| format!("{} {}", one.name, one.version)).collect();
        assert_eq!(said, ["apt 3.0", "gcc-base 14", "libapt 3.0", "libc 2.10", "postfix 1", "sqv 1.3"]);
    }

    #[test]
    fn what_no_suite_has_is_named() {
        let text = list(&[("apt", "3.0", "Depends: nothing | nobody")]);
        let mut index = Index::default();
        index.add(0, &text).unwrap();
        assert_eq!(
            closure(&index, ["apt"]).unwrap_err().to_string(),
            "the solver needs nothing or nobody, which is in no suite of the release\n  next: add the suite that has it"
        );
    }
}
