//! The package lock: which package of which version each release's images are made of, and getting them.
//!
//! In: a release, the packages that recipes ask for, the archives' signed lists. Out: `ostack.lock`
//! ([`Lock`]) and, from it alone, the package files in the store.
//!
//! What must hold: only `lock` resolves ([`request::resolve`]); whoever builds reads the lock, and a lock
//! that no longer fits the recipes is refused ([`ReleaseLock::check`]). Every package is in the lock with
//! the sha256 that a signature of its archive vouches for; [`fetch::fetch`] lets nothing else into the store.
//! Of an rpm repository whose metadata nobody signed, each package's own signature is checked instead, before it
//! enters the store ([`signature`]).
//!
//! - [`file`] the form on disk · [`date`] moments
//! - [`mirror`] where archives are: explicit, or the build machine's own apt sources
//! - [`request`] what to resolve · [`deb`], [`rpm`] ask the distribution's solver (apt, dnf) in a private folder
//! - [`solver`] where solvers run · [`openpgp`] archives' signatures
//! - [`fetch`] downloads
//!
//! To add a package backend: one more file beside `deb` with the same `resolve`, and a line in `request`.

pub mod date;
pub mod deb;
pub mod fetch;
pub mod file;
pub mod mirror;
pub mod openpgp;
pub mod request;
pub mod rpm;
pub mod signature;
pub mod solver;

use crate::base::digest::Digest;
use crate::base::error::{Error, Result};
use crate::base::name::{PackageName, Word};
use crate::base::path::RelPath;
use crate::plan::Package;
use date::Moment;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Every locked release of a project: what `ostack.lock` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lock {
    /// Release name -> its packages.
    pub releases: BTreeMap<Word, ReleaseLock>,
}

/// The exact packages of one release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseLock {
    /// The time that builds of this release take for now, in unix seconds: the newest suite's date.
    pub source_date_epoch: u64,
    /// The suites that vouch for the packages, in the release's order.
    pub suites: Vec<LockedSuite>,
    /// Set name -> the packages that were asked for, without what they depend on.
    pub requested: BTreeMap<Word, BTreeSet<PackageName>>,
    /// Every package of every set; a name has one version in all of them.
    pub packages: BTreeMap<PackageName, LockedPackage>,
    /// The set of tools, where it comes from another distribution: its names have nothing to do with those of `packages`.
    pub tools: Option<Box<ReleaseLock>>,
}

/// One suite as it was when the release was locked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockedSuite {
    /// The suite's name below `dists/`.
    pub name: String,
    /// Which archive has it.
    pub archive: Word,
    /// The `Date` of its `Release` file.
    pub date: Moment,
    /// Digest of the `InRelease` (or `Release`) file; of a repository's `repomd.xml`.
    pub sha256: Digest,
    /// Whether a signature of the archive vouches for that file. If not, each package must be signed.
    pub signed: bool,
}

/// One package file, exactly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockedPackage {
    /// Binary package name.
    pub name: PackageName,
    /// Version as the distribution writes it.
    pub version: String,
    /// The distribution's name of the architecture; `all` where it does not matter.
    pub arch: Word,
    /// Size of the file in bytes.
    pub size: u64,
    /// Digest of the file.
    pub sha256: Digest,
    /// Where the archive has the file, below its base URL.
    pub path: RelPath,
    /// Which archive has it.
    pub archive: Word,
    /// The suite that vouches for it.
    pub suite: String,
    /// That suite's date when this version was locked: where a snapshot mirror surely has the file.
    pub date: Moment,
    /// The sets that it belongs to; never empty.
    pub sets: BTreeSet<Word>,
}

impl From<&LockedPackage> for Package {
    fn from(locked: &LockedPackage) -> Self {
        Self { name: locked.name.clone(), version: locked.version.clone(), digest: locked.sha256, size: locked.size }
    }
}

impl Lock {
    /// The lock of a release.
    ///
    /// # Errors
    /// It was never locked.
    pub fn release(&self, name: &Word) -> Result<&ReleaseLock> {
        self.releases
            .get(name)
            .ok_or_else(|| Error::new(format!("the release `{name}` is not locked")).next("run `ostack-image lock`"))
    }
}

impl ReleaseLock {
    /// The packages of a set, by name; none when there is no such set.
    pub fn set(&self, name: &Word) -> Vec<&LockedPackage> {
        self.all().filter(|package| package.sets.contains(name)).collect()
    }

    /// Every package, the tools of another distribution last.
    pub fn all(&self) -> impl Iterator<Item = &LockedPackage> {
        self.packages.values().chain(self.tools.iter().flat_map(|tools| tools.packages.values()))
    }

    /// The suite that vouches for a package.
    pub fn suite(&self, package: &LockedPackage) -> Option<&LockedSuite> {
        let mut suites = self.suites.iter().chain(self.tools.iter().flat_map(|tools| &tools.suites));
        suites.find(|suite| suite.name == package.suite && suite.archive == package.archive)
    }

    /// Refuses a lock that was made for other requests than `requested` (set name -> packages asked for). What resolved it is
    /// in no image: a lock of another solver, or one that does not name it, is as good.
    ///
    /// # Errors
    /// Names what each set misses or no longer wants.
    pub fn check(&self, requested: &BTreeMap<Word, BTreeSet<PackageName>>) -> Result<()> {
        let locked = |set: &Word| self.requested.get(set).or_else(|| self.tools.as_ref()?.requested.get(set));
        let tools = self.tools.iter().flat_map(|tools| tools.requested.keys());
        let mut sets: BTreeSet<&Word> = requested.keys().chain(self.requested.keys()).chain(tools).collect();
        sets.retain(|set| set.as_str() != request::SOLVER);
        let mut findings = Vec::new();
        for set in sets {
            match (requested.get(set), locked(set)) {
                (Some(_), None) => findings.push(format!("the set {set} is not locked")),
                (None, Some(_)) => findings.push(format!("nothing asks for the set {set} any more")),
                (Some(wanted), Some(locked)) => {
                    let mut say = |what: &str, names: Vec<&PackageName>| {
                        if !names.is_empty() {
                            findings.push(format!("{set} {what} {}", join(names)));
                        }
                    };
                    say("asks for", wanted.difference(locked).collect());
                    say("no longer asks for", locked.difference(wanted).collect());
                }
                (None, None) => {}
            }
        }
        if findings.is_empty() {
            return Ok(());
        }
        Err(Error::new(format!("the lock does not fit the recipes: {}", findings.join("; "))).next("run `ostack-image lock`"))
    }

    /// What `new` changes, by package name; tools of another distribution last.
    pub fn diff(old: &Self, new: &Self) -> Vec<Change> {
        let between = |old: &BTreeMap<PackageName, LockedPackage>, new: &BTreeMap<PackageName, LockedPackage>| {
            let names: BTreeSet<&PackageName> = old.keys().chain(new.keys()).collect();
            names.into_iter().filter_map(|name| Change::between(old.get(name), new.get(name))).collect::<Vec<_>>()
        };
        let tools = |lock: &Self| lock.tools.as_ref().map(|tools| tools.packages.clone()).unwrap_or_default();
        let mut changes = between(&old.packages, &new.packages);
        changes.extend(between(&tools(old), &tools(new)));
        changes
    }
}

/// How one package of a release changed. Displays as `haproxy 3.0.10 -> 3.0.11`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Newly locked.
    Added {
        /// Its name.
        name: PackageName,
        /// Its version.
        version: String,
    },
    /// No longer locked.
    Removed {
        /// Its name.
        name: PackageName,
        /// The version it had.
        version: String,
    },
    /// Another version.
    Version {
        /// Its name.
        name: PackageName,
        /// The version it had.
        old: String,
        /// The version it has.
        new: String,
    },
    /// The same version with other bytes: the archive rebuilt it.
    Content {
        /// Its name.
        name: PackageName,
        /// Its version.
        version: String,
    },
}

impl Change {
    fn between(old: Option<&LockedPackage>, new: Option<&LockedPackage>) -> Option<Self> {
        match (old, new) {
            (None, Some(new)) => Some(Self::Added { name: new.name.clone(), version: new.version.clone() }),
            (Some(old), None) => Some(Self::Removed { name: old.name.clone(), version: old.version.clone() }),
            (Some(old), Some(new)) if old.version != new.version => {
                Some(Self::Version { name: new.name.clone(), old: old.version.clone(), new: new.version.clone() })
            }
            (Some(old), Some(new)) if old.sha256 != new.sha256 => {
                Some(Self::Content { name: new.name.clone(), version: new.version.clone() })
            }
            _ => None,
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Added { name, version } => write!(f, "{name} {version} added"),
            Self::Removed { name, version } => write!(f, "{name} {version} removed"),
            Self::Version { name, old, new } => write!(f, "{name} {old} -> {new}"),
            Self::Content { name, version } => write!(f, "{name} {version} rebuilt"),
        }
    }
}

/// How many names an error lists before it says how many more there are.
const NAMES_IN_ERROR: usize = 8;

fn join<'a>(names: impl IntoIterator<Item = &'a PackageName>) -> String {
    let names: Vec<&str> = names.into_iter().map(PackageName::as_str).collect();
    match names.len().checked_sub(NAMES_IN_ERROR) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{} and {more} more", names[..NAMES_IN_ERROR].join(", ")),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A lock of two packages; what is not said is made from the name.
    pub(crate) fn example() -> ReleaseLock {
        let date: Moment = "2026-09-12T07:55:41Z".parse().unwrap();
        let requested = BTreeMap::from([
            (word("base"), BTreeSet::from([name("bash")])),
            (word("controller"), BTreeSet::from([name("haproxy")])),
        ]);
        let packages = [package("bash", "5.2", &["base", "controller"]), package("haproxy", "3.0.10", &["controller"])];
        ReleaseLock {
            source_date_epoch: date.unix(),
            suites: vec![LockedSuite {
                name: "stable".to_string(),
                archive: word("debian"),
                date,
                sha256: Digest::of("InRelease"),
                signed: true,
            }],
            requested,
            packages: packages.into_iter().map(|package| (package.name.clone(), package)).collect(),
            tools: None,
        }
    }

    /// A package whose file holds `NAME VERSION`.
    pub(crate) fn package(package: &str, version: &str, sets: &[&str]) -> LockedPackage {
        let content = format!("{package} {version}");
        LockedPackage {
            name: name(package),
            version: version.to_string(),
            arch: word("amd64"),
            size: content.len() as u64,
            sha256: Digest::of(content),
            path: format!("pool/{package}_{version}_amd64.deb").parse().unwrap(),
            archive: word("debian"),
            suite: "stable".to_string(),
            date: "2026-09-12T07:55:41Z".parse().unwrap(),
            sets: sets.iter().map(|set| word(set)).collect(),
        }
    }

    /// A package name that is one.
    pub(crate) fn name(text: &str) -> PackageName {
        text.parse().unwrap()
    }

    /// A word that is one.
    pub(crate) fn word(text: &str) -> Word {
        text.parse().unwrap()
    }

    #[test]
    fn a_set_is_every_package_that_says_so() {
        let lock = example();
        let names = |set: &str| lock.set(&word(set)).iter().map(|package| package.name.to_string()).collect::<Vec<_>>();
        assert_eq!(
            [names("base"), names("controller"), names("tools")],
            [vec!["bash".to_string()], vec!["bash".to_string(), "haproxy".to_string()], vec![]]
        );
    }

    #[test]
    fn tools_of_another_distribution_are_a_set_like_any_other() {
        let (mut old, mut new) = (example(), example());
        let tools = |version: &str| {
            let package = package("bash", version, &["tools"]);
            let requested = BTreeMap::from([(word("tools"), BTreeSet::from([name("bash")]))]);
            let packages = BTreeMap::from([(package.name.clone(), package)]);
            Some(Box::new(ReleaseLock { requested, packages, ..example() }))
        };
        (old.tools, new.tools) = (tools("5.3"), tools("5.4"));
        let versions: Vec<&str> = old.set(&word("tools")).iter().map(|package| package.version.as_str()).collect();
        assert_eq!((versions, old.all().count()), (vec!["5.3"], 3));
        let mut requested = old.requested.clone();
        assert_eq!(
            old.check(&requested).unwrap_err().to_string(),
            "the lock does not fit the recipes: nothing asks for the set tools any more\n  next: run `ostack-image lock`"
        );
        requested.insert(word("tools"), BTreeSet::from([name("bash")]));
        old.check(&requested).unwrap();
        let said: Vec<String> = ReleaseLock::diff(&old, &new).iter().map(ToString::to_string).collect();
        assert_eq!(said, ["bash 5.3 -> 5.4"]);
    }

    #[test]
    fn a_lock_that_fits_the_recipes_is_taken() {
        let lock = example();
        lock.check(&lock.requested).unwrap();
    }

    #[test]
    fn a_lock_fits_whatever_resolved_it() {
        let lock = example();
        let mut requested = lock.requested.clone();
        requested.insert(word("solver"), BTreeSet::from([name("apt")]));
        lock.check(&requested).unwrap();
        ReleaseLock { requested, ..lock.clone() }.check(&lock.requested).unwrap();
    }

    #[test]
    fn a_stale_lock_is_refused_naming_what_each_set_misses_or_no_longer_wants() {
        let requested = BTreeMap::from([
            (word("controller"), BTreeSet::from([name("etcd-server"), name("mariadb-server")])),
            (word("storage"), BTreeSet::new()),
        ]);
        assert_eq!(
            example().check(&requested).unwrap_err().to_string(),
            "the lock does not fit the recipes: nothing asks for the set base any more; \
             controller asks for etcd-server, mariadb-server; controller no longer asks for haproxy; \
             the set storage is not locked\n  next: run `ostack-image lock`"
        );
    }

    #[test]
    fn an_error_lists_a_few_names_and_counts_the_rest() {
        let names: Vec<PackageName> = (10..20).map(|number| name(&format!("p{number}"))).collect();
        assert_eq!(join(&names[..8]), "p10, p11, p12, p13, p14, p15, p16, p17");
        assert_eq!(join(&names), "p10, p11, p12, p13, p14, p15, p16, p17 and 2 more");
    }

    #[test]
    fn a_release_that_was_never_locked_is_an_error() {
        assert_eq!(
            Lock::default().release(&word("epoxy-debian13")).unwrap_err().to_string(),
            "the release `epoxy-debian13` is not locked\n  next: run `ostack-image lock`"
        );
    }

    #[test]
    fn a_diff_names_what_came_went_and_changed() {
        let (old, mut new) = (example(), example());
        new.packages.remove("bash".parse::<PackageName>().as_ref().unwrap());
        for package in [package("haproxy", "3.0.11", &["controller"]), package("etcd-server", "3.5.16", &["controller"])] {
            new.packages.insert(package.name.clone(), package);
        }
        let said: Vec<String> = ReleaseLock::diff(&old, &new).iter().map(ToString::to_string).collect();
        assert_eq!(said, ["bash 5.2 removed", "etcd-server 3.5.16 added", "haproxy 3.0.10 -> 3.0.11"]);
    }

    #[test]
    fn the_same_version_with_other_bytes_is_a_change_but_another_set_is_none() {
        let (old, mut new) = (example(), example());
        new.packages.get_mut(&name("haproxy")).unwrap().sha256 = Digest::of("other");
        new.packages.get_mut(&name("bash")).unwrap().sets = BTreeSet::from([word("base")]);
        let said: Vec<String> = ReleaseLock::diff(&old, &new).iter().map(ToString::to_string).collect();
        assert_eq!(said, ["haproxy 3.0.10 rebuilt"]);
    }
}
