//! What to resolve, whichever solver does it.

use super::mirror::Mirrors;
use super::solver::Roots;
use super::{LockedPackage, LockedSuite, ReleaseLock, deb, rpm};
use crate::base::error::{Error, Result};
use crate::base::name::{PackageName, Word};
use crate::model::release::{Backend, Release};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// The set that every role's set contains.
pub const BASE: &str = "base";

/// The tools' set.
pub const TOOLS: &str = "tools";

/// The loaders' set.
pub const LOADERS: &str = "loaders";

/// The set of what resolves all the others.
pub const SOLVER: &str = "solver";

/// Whether a set is solved on its own: what is in it is unpacked beside images, never in one.
pub fn is_apart(set: &Word) -> bool {
    [TOOLS, LOADERS, SOLVER].contains(&set.as_str())
}

/// What to resolve.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The release's name, for messages.
    pub name: &'a Word,
    /// The release.
    pub release: &'a Release,
    /// Set name -> the packages asked for. Every set is resolved, and `base` even when it is not listed, unless tools alone
    /// are asked for.
    pub sets: BTreeMap<Word, BTreeSet<PackageName>>,
    /// Archive name -> files with the keys to trust; for rpm.
    pub keys: &'a BTreeMap<Word, Vec<PathBuf>>,
    /// The release whose archives have the tools, where that is another one.
    pub tools: Option<(&'a Word, &'a Release)>,
}

/// Which versions may change when a release is locked anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// None that the archive still has.
    None,
    /// All: everything becomes the newest.
    All,
    /// These and the others built from the same sources.
    Only(BTreeSet<PackageName>),
}

/// Finds the exact packages of every set of a release, with the solver of its backend.
///
/// # Errors
/// An archive does not verify or cannot be reached; a package asked for does not exist (named with its
/// set); the solver finds no solution (in its own words).
pub fn resolve(
    request: &Request<'_>,
    old: Option<&ReleaseLock>,
    update: &Update,
    mirrors: &Mirrors,
    roots: &dyn Roots,
) -> Result<ReleaseLock> {
    let solved = match request.release.backend {
        Backend::Deb => deb::resolve(request, old, update, mirrors, roots),
        Backend::Rpm => rpm::resolve(request, old, update, mirrors, roots),
    };
    solved.map_err(|error| error.doing(format!("locking {}", request.name)))
}

impl<'a> Request<'a> {
    /// A request of a release whose archives have everything, by keys of its own.
    pub fn new(name: &'a Word, release: &'a Release, sets: BTreeMap<Word, BTreeSet<PackageName>>) -> Self {
        static NONE: BTreeMap<Word, Vec<PathBuf>> = BTreeMap::new();
        Self { name, release, sets, keys: &NONE, tools: None }
    }

    /// A name to update that nothing knows is a mistake of whoever typed it.
    pub(super) fn knows(&self, old: Option<&ReleaseLock>, update: &Update) -> Result<()> {
        let Update::Only(names) = update else { return Ok(()) };
        for name in names {
            let locked = old.is_some_and(|old| old.all().any(|package| package.name == *name));
            if !locked && !self.sets.values().any(|set| set.contains(name)) {
                return Err(Error::new(format!("`{name}` cannot be updated: it is not locked"))
                    .next("name packages of ostack.lock, or none to update all"));
            }
        }
        Ok(())
    }

    /// The lock of what was found. When everything was locked before, the old lock's suites and time stay, so that
    /// locking again changes nothing.
    pub(super) fn lock(
        &self,
        suites: Vec<LockedSuite>,
        packages: BTreeMap<PackageName, LockedPackage>,
        old: Option<&ReleaseLock>,
    ) -> ReleaseLock {
        let newest = suites.iter().map(|suite| suite.date.unix()).max().unwrap_or_default();
        let requested = self.sets.clone();
        let mut lock = ReleaseLock { source_date_epoch: newest, suites, requested, packages, tools: None };
        if let Some(old) = old.filter(|old| vouches(old, &lock)) {
            lock.source_date_epoch = old.source_date_epoch;
            lock.suites = old.suites.clone();
        }
        lock
    }
}

/// Whether an older lock's suites vouch for everything in a newer lock of the same suites. What only solves is in no image, so
/// that a newer one changes no image's time; its date is its own.
fn vouches(old: &ReleaseLock, new: &ReleaseLock) -> bool {
    let place = |lock: &ReleaseLock| {
        lock.suites.iter().map(|suite| (suite.archive.clone(), suite.name.clone(), suite.signed)).collect::<Vec<_>>()
    };
    let same = |package: &LockedPackage| {
        let old = old.packages.get(&package.name);
        old.is_some_and(|old| (&old.version, old.sha256, &old.suite) == (&package.version, package.sha256, &package.suite))
    };
    let in_images = |package: &&LockedPackage| package.sets.iter().any(|set| set.as_str() != SOLVER);
    place(old) == place(new) && new.packages.values().filter(in_images).all(same)
}
