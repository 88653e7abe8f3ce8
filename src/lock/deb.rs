//! Resolves a release of the Debian family with apt's own solver.
//!
//! The archives' lists are verified against the release's keyring. Then apt, which is a locked package itself (the set
//! `solver`; `bootstrap` finds it the first time), solves each set for an empty system, without recommended packages:
//!
//! - `base`: every essential package and what the release asks for
//! - `tools`, `loaders`, `solver`: only what their packages need to run, without the essential packages of a whole system,
//!   for they are unpacked and never configured
//! - any other set: what its role asks for, on top of all of `base`
//!
//! Sets share one choice of versions. Versions already locked are kept as long as the archive has exactly
//! them; the digest, size and path of each package come from the verified lists.

mod apt;
mod archive;
mod bootstrap;
mod index;
mod version;

use super::date::Moment;
use super::mirror::Mirrors;
use super::request::{BASE, Request, SOLVER, Update, is_apart};
use super::solver::Roots;
use super::{LockedPackage, ReleaseLock};
use crate::base::digest::Digest;
use crate::base::error::{Context, Error, Result};
use crate::base::name::{PackageName, Word};
use crate::model::release::{Backend, Release};
use apt::Apt;
use archive::Archive;
use index::{Index, Stanza};
use std::collections::{BTreeMap, BTreeSet};

/// Set name -> the packages that belong to it, by name.
type Solved<'a> = BTreeMap<Word, BTreeMap<&'a str, Stanza<'a>>>;

/// Finds the exact packages of every set of a release.
///
/// When kept versions and what is new cannot go together, what the new packages may depend on is freed
/// as well. When everything found was locked before, the old lock's suites and epoch stay, so that
/// locking again changes nothing.
///
/// # Errors
/// The archive does not verify or cannot be reached; a package asked for does not exist (named with its
/// set); the solver finds no solution (in its own words).
pub fn resolve(
    request: &Request<'_>,
    old: Option<&ReleaseLock>,
    update: &Update,
    mirrors: &Mirrors,
    roots: &dyn Roots,
) -> Result<ReleaseLock> {
    let release = request.release;
    if release.backend != Backend::Deb {
        return Err(
            Error::new("the release's backend is not deb").next("only releases with backend = \"deb\" are resolved by apt")
        );
    }
    request.knows(old, update)?;
    let archive = Archive::read(release, mirrors, Moment::now())?;
    let suites = archive.suites.clone();
    let mut index = Index::default();
    for list in &archive.lists {
        let what = |error: Error| error.doing(format!("reading the suite {}", release.suites[list.suite].name));
        index.add(list.suite, &list.text).map_err(what)?;
    }
    known_to_archive(request, &index)?;
    let root = roots.root(&solver(request, &index, &suites, old)?).map_err(|error| error.doing("getting the solver"))?;
    let apt = Apt::new(release, &archive, root.as_ref())?;

    let pins = pins(&index, old, update);
    apt.pin(&pins)?;
    let solved = match solve(request, &apt, &index) {
        Err(_) if !pins.is_empty() => {
            apt.pin(&relaxed(&pins, request, &index, old, update))?;
            let hint = "let every version change: `ostack-image lock --update`; or take a package out of the recipes";
            solve(request, &apt, &index).map_err(|error| error.next(hint))?
        }
        Err(error) => {
            return Err(error.next("take one of the packages out of the recipes, or add the suite that has what is missing"));
        }
        Ok(solved) => solved,
    };

    let mut packages: BTreeMap<PackageName, LockedPackage> = BTreeMap::new();
    for (set, chosen) in &solved {
        for stanza in chosen.values() {
            let package = locked(stanza, &index, release, &suites, old)?;
            let name = package.name.clone();
            let known = packages.entry(name).or_insert(package);
            if known.version != stanza.version {
                return Err(Error::new(format!(
                    "{} is {} in one set and {} in {set}",
                    known.name, known.version, stanza.version
                ))
                .next("ask for the same alternatives in every recipe"));
            }
            known.sets.insert(set.clone());
        }
    }
    Ok(request.lock(suites, packages, old))
}

/// The packages of the solver itself: those of the old lock if the archives still have them, or what a first lock begins with.
/// What this machine or its store has does not matter.
fn solver(
    request: &Request<'_>,
    index: &Index<'_>,
    suites: &[super::LockedSuite],
    old: Option<&ReleaseLock>,
) -> Result<Vec<LockedPackage>> {
    let set: Word = SOLVER.parse()?;
    let locked_before: Vec<&LockedPackage> = old.map(|old| old.set(&set)).unwrap_or_default();
    let is_there = |package: &&LockedPackage| index.versions(package.name.as_str()).iter().any(|one| is_locked(one, package));
    if !locked_before.is_empty() && locked_before.iter().all(is_there) {
        return Ok(locked_before.into_iter().cloned().collect());
    }
    let release = request.release;
    let names: BTreeSet<&str> = match request.sets.get(&set) {
        Some(names) => names.iter().map(PackageName::as_str).collect(),
        None => release.packages.solver.iter().map(PackageName::as_str).collect(),
    };
    if names.is_empty() {
        return Err(Error::new("the release does not say what solves its dependencies")
            .next("write solver = [\"apt\", \"dpkg\"] below [packages] in the release"));
    }
    let known = names.iter().map(|name| {
        let first = index.versions(name).first().map(|stanza| stanza.name);
        first.ok_or_else(|| {
            Error::new(format!("there is no package `{name}`, which solver asks for"))
                .next("write the name of a package that the release's suites have")
        })
    });
    let chosen = bootstrap::closure(index, known.collect::<Result<Vec<&str>>>()?)?;
    chosen.values().map(|stanza| locked(stanza, index, release, suites, None)).collect()
}

/// Names every package asked for that the archive does not have, with its set.
fn known_to_archive(request: &Request<'_>, index: &Index<'_>) -> Result<()> {
    let mut findings = Vec::new();
    for (set, names) in &request.sets {
        for name in names.iter().filter(|name| index.versions(name.as_str()).is_empty()) {
            let providers: Vec<&str> = index.providers(name.as_str()).into_iter().take(8).collect();
            findings.push(match providers.is_empty() {
                true => format!("there is no package `{name}`, which {set} asks for"),
                false => format!("`{name}`, which {set} asks for, is virtual: {} provide it", providers.join(", ")),
            });
        }
    }
    if findings.is_empty() {
        return Ok(());
    }
    let suites: Vec<&str> = request.release.suites.iter().map(|suite| suite.name.as_str()).collect();
    Err(Error::new(format!("{} (in {})", findings.join("; "), suites.join(", ")))
        .next("write the name of a package that these suites have"))
}

/// The locked versions to keep: name -> version.
///
/// Binary packages of one source usually want each other in the same version, so a source of which one
/// package has to change, or shall, is left free as a whole.
fn pins<'a>(index: &Index<'a>, old: Option<&ReleaseLock>, update: &Update) -> BTreeMap<&'a str, &'a str> {
    let (Some(old), false) = (old, *update == Update::All) else { return BTreeMap::new() };
    let mut kept = Vec::new();
    let mut free = BTreeSet::new();
    for package in old.packages.values() {
        let versions = index.versions(package.name.as_str());
        let named = matches!(update, Update::Only(names) if names.contains(&package.name));
        match versions.iter().find(|stanza| is_locked(stanza, package)) {
            Some(stanza) if !named => kept.push(stanza),
            _ => free.extend(versions.iter().map(|stanza| stanza.source)),
        }
    }
    kept.into_iter().filter(|stanza| !free.contains(stanza.source)).map(|stanza| (stanza.name, stanza.version)).collect()
}

/// `pins` without what packages that change or are new may depend on.
fn relaxed<'a>(
    pins: &BTreeMap<&'a str, &'a str>,
    request: &Request<'_>,
    index: &Index<'a>,
    old: Option<&ReleaseLock>,
    update: &Update,
) -> BTreeMap<&'a str, &'a str> {
    let locked = |name: &PackageName| old.is_some_and(|old| old.packages.contains_key(name));
    let new = request.sets.values().flatten().filter(|name| !locked(name));
    let changing = old.iter().flat_map(|old| old.packages.keys()).filter(|name| !pins.contains_key(name.as_str()));
    let named = match update {
        Update::Only(names) => names.iter().collect(),
        _ => Vec::new(),
    };
    // Names borrowed from the index, for those are what is reached.
    let roots =
        new.chain(changing).chain(named).filter_map(|name| index.versions(name.as_str()).first()).map(|stanza| stanza.name);
    let reached = index.reach(roots);
    pins.iter().filter(|(name, _)| !reached.contains(*name)).map(|(name, version)| (*name, *version)).collect()
}

fn is_locked(stanza: &Stanza<'_>, package: &LockedPackage) -> bool {
    (stanza.name, stanza.version, stanza.arch) == (package.name.as_str(), package.version.as_str(), package.arch.as_str())
        && Digest::from_hex(stanza.sha256).is_ok_and(|digest| digest == package.sha256)
}

/// Solves every set with the versions that apt prefers now.
fn solve<'a>(request: &Request<'_>, apt: &Apt<'_>, index: &Index<'a>) -> Result<Solved<'a>> {
    let base: Word = BASE.parse()?;
    let run = |set: &Word, roots: &BTreeSet<&str>| -> Result<BTreeMap<&'a str, Stanza<'a>>> {
        let roots: Vec<&str> = roots.iter().copied().collect();
        let installs = apt.solve(&roots).doing(|| format!("solving the set {set}"))?;
        installs.iter().map(|one| found(one, index).map(|stanza| (stanza.name, stanza))).collect()
    };
    let roots = |set: &Word| -> BTreeSet<&str> { request.sets.get(set).into_iter().flatten().map(PackageName::as_str).collect() };
    let mut solved = Solved::new();
    let mut minimal = BTreeMap::new();
    // Tools alone are asked for where another distribution's release takes its tools from this one's archives.
    if request.sets.keys().any(|set| !is_apart(set)) || request.sets.is_empty() {
        let mut wanted = roots(&base);
        wanted.extend(index.essential());
        minimal = run(&base, &wanted)?;
        solved.insert(base.clone(), minimal.clone());
    }
    for set in request.sets.keys().filter(|set| **set != base) {
        let mut wanted = roots(set);
        let mut chosen;
        if is_apart(set) {
            chosen = run(set, &wanted)?;
            // Some versions of apt add the essential packages to whatever is installed.
            let names: Vec<&str> = chosen.keys().copied().filter(|name| wanted.contains(name)).collect();
            let needed = index::closure(&chosen, names);
            chosen.retain(|name, _| needed.contains(name));
        } else {
            wanted.extend(minimal.keys());
            chosen = run(set, &wanted)?;
        }
        solved.insert(set.clone(), chosen);
    }
    Ok(solved)
}

/// What the lists say about a package that apt chose.
fn found<'a>(install: &apt::Install, index: &Index<'a>) -> Result<Stanza<'a>> {
    let fits = |stanza: &&Stanza<'a>| stanza.version == install.version && stanza.arch == install.arch;
    let stanza = index.versions(&install.name).iter().find(fits);
    stanza.copied().ok_or_else(|| Error::new(format!("apt chose {} {}, which is in no list", install.name, install.version)))
}

/// A package as it goes into the lock, without sets. One that was locked before keeps its suite and date.
fn locked(
    stanza: &Stanza<'_>,
    index: &Index<'_>,
    release: &Release,
    suites: &[super::LockedSuite],
    old: Option<&ReleaseLock>,
) -> Result<LockedPackage> {
    let name: PackageName = stanza.name.parse()?;
    if let Some(old) = old.and_then(|old| old.packages.get(&name)) {
        let same = |stanza: &&Stanza<'_>| {
            let suite = &release.suites[stanza.suite];
            is_locked(stanza, old) && (&suite.name, &suite.archive, stanza.path) == (&old.suite, &old.archive, old.path.as_str())
        };
        if stanza.version == old.version && index.versions(stanza.name).iter().any(|stanza| same(&stanza)) {
            return Ok(LockedPackage { sets: BTreeSet::new(), ..old.clone() });
        }
    }
    let suite = &suites[stanza.suite];
    let what = || format!("reading the list's entry of {name}");
    Ok(LockedPackage {
        version: stanza.version.to_string(),
        arch: stanza.arch.parse().doing(what)?,
        size: stanza.size.parse().doing(what)?,
        sha256: Digest::from_hex(stanza.sha256).doing(what)?,
        path: stanza.path.parse().doing(what)?,
        archive: suite.archive.clone(),
        suite: suite.name.clone(),
        date: suite.date,
        sets: BTreeSet::new(),
        name,
    })
}

#[cfg(test)]
mod tests;
