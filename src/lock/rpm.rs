//! Resolves a release of the Red Hat family with dnf's own solver.
//!
//! Each repository's metadata is verified (`repomd.xml` by its signature where there is one, the lists by the digests in
//! it). Then dnf solves each set for an empty system, without weak dependencies:
//!
//! - `base`: what the release asks for
//! - any other set: what its role or kernel flavour asks for, on top of all of `base`
//! - `tools` and `solver` come from another release's archives, as Debian packages, and are resolved as those are. dnf is
//!   one of `solver`; a release that names none has the machine's own dnf asked, of which the command line tells
//!
//! Sets share one choice of versions. Versions already locked are kept as long as a repository has exactly them.
//! A repository without a signature is locked as such: its packages must each be signed, which is checked when
//! they are fetched (`super::signature`).

mod dnf;
pub(super) mod package;
mod repository;

use super::fetch::Getter;
use super::mirror::Mirrors;
use super::openpgp::Keyring;
use super::request::{Request, SOLVER, TOOLS, Update};
use super::solver::{Root, Roots};
use super::{LockedPackage, LockedSuite, ReleaseLock, deb};
use crate::base::digest::Digest;
use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use crate::base::name::{PackageName, Word};
use crate::lock::date::Moment;
use crate::model::release::{Backend, Suite};
use dnf::{Answer, Question, Refusal, Repository};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Finds the exact packages of every set of a release.
///
/// When kept versions and what is new cannot go together, what the new packages may depend on is freed as well.
///
/// # Errors
/// A repository does not verify or cannot be reached, or nobody says where it is or which keys to trust; a package
/// asked for does not exist (named with its set); the solver finds no solution (in its own words).
pub fn resolve(
    request: &Request<'_>,
    old: Option<&ReleaseLock>,
    update: &Update,
    mirrors: &Mirrors,
    roots: &dyn Roots,
) -> Result<ReleaseLock> {
    let release = request.release;
    if release.backend != Backend::Rpm {
        return Err(
            Error::new("the release's backend is not rpm").next("only releases with backend = \"rpm\" are resolved by dnf")
        );
    }
    if release.suites.is_empty() {
        return Err(
            Error::new("the release names no repository").next("write [[suite]] with name, archive and path in the release")
        );
    }
    request.knows(old, update)?;
    let mut request = request.clone();
    let tools = request.sets.remove(&TOOLS.parse::<Word>()?);

    let set: Word = SOLVER.parse()?;
    let solver = request.sets.remove(&set);
    // The tools first: dnf is one of their release's packages.
    let apart: BTreeMap<Word, BTreeSet<PackageName>> =
        [(TOOLS.parse()?, tools), (set.clone(), solver)].into_iter().filter_map(|(set, names)| Some((set, names?))).collect();
    let tools = match apart.is_empty() {
        true => None,
        false => Some(resolve_tools(&request, apart, old, update, mirrors, roots)?),
    };
    let solver: Vec<LockedPackage> = tools.iter().flat_map(|tools| tools.set(&set)).cloned().collect();

    let folder = tempfile::Builder::new().prefix("ostack-lock-").tempdir().doing(|| "creating a temporary folder for dnf")?;
    let folder = folder.path();
    let (getter, now) = (Getter::new(), Moment::now());
    let mut suites = Vec::new();
    for (number, suite) in release.suites.iter().enumerate() {
        let base = mirrors.of(&suite.archive)?.first().map(String::as_str).unwrap_or_default();
        let path = suite.path.as_ref().map(|path| path.as_str()).unwrap_or_default();
        let keyring = keyring(request.keys, &suite.archive)?;
        let found = repository::read(&getter, &format!("{base}/{path}"), &keyring, &place(folder, number), now)
            .map_err(|error| error.doing(format!("reading the repository {}", suite.name)))?;
        let (name, archive) = (suite.name.clone(), suite.archive.clone());
        suites.push(LockedSuite { name, archive, date: found.date, sha256: found.sha256, signed: found.signed });
    }
    let root: Box<dyn Root> = match solver.is_empty() {
        true => Box::new(dnf::Machine),
        false => roots.root(&solver).map_err(|error| error.doing("getting the solver"))?,
    };
    let repository = |(number, suite): (usize, &Suite)| Repository {
        id: suite.name.clone(),
        path: place(&root.sees(folder), number),
        priority: suite.priority,
        exclude: suite.exclude.clone(),
    };
    let repositories: Vec<Repository> = release.suites.iter().enumerate().map(repository).collect();
    let question = Question {
        folder: &root.sees(folder),
        architecture: &release.architecture,
        repositories: &repositories,
        sets: &request.sets,
        locked: match (old, update) {
            (Some(old), Update::None | Update::Only(_)) => old
                .packages
                .values()
                .map(|package| (&package.name, (package.version.as_str(), package.arch.as_str(), package.sha256.hex())))
                .collect(),
            _ => BTreeMap::new(),
        },
        update: match update {
            Update::Only(names) => names.iter().collect(),
            _ => BTreeSet::new(),
        },
    };
    let answer = dnf::solve(&question, folder, root.as_ref())?.map_err(|refusal| explained(&refusal, &request))?;

    let packages = locked(&answer, &release.suites, &suites, old)?;
    let mut lock = request.lock(suites, packages, old);
    lock.tools = tools.map(Box::new);
    Ok(lock)
}

/// The version of the machine's own dnf, which resolves releases that name no solver.
///
/// # Errors
/// The machine has none.
pub fn machine() -> Result<String> {
    dnf::version().map_err(|error| no_dnf(error.cause()))
}

fn no_dnf(said: &str) -> Error {
    Error::new(format!("dnf's Python library cannot be used: {said}")).next(
        "write solver = [\"apt\", \"dpkg\", \"python3-dnf\"] and tools_from below [packages] in the release, which then brings it along; \
         or install it: apt-get install python3-dnf",
    )
}

/// Where a repository is, as seen from the folder's own place.
fn place(folder: &Path, number: usize) -> PathBuf {
    folder.join("repositories").join(number.to_string())
}

/// The tools and the solver, from the archives of the release that has them.
fn resolve_tools(
    request: &Request<'_>,
    sets: BTreeMap<Word, BTreeSet<PackageName>>,
    old: Option<&ReleaseLock>,
    update: &Update,
    mirrors: &Mirrors,
    roots: &dyn Roots,
) -> Result<ReleaseLock> {
    let (name, release) = request.tools.ok_or_else(|| {
        Error::new("nobody says which release has the tools").next("write tools_from in the release's [packages]")
    })?;
    let old = old.and_then(|old| old.tools.as_deref());
    let update = match update {
        Update::Only(updated) => {
            let here = |one: &&PackageName| {
                sets.values().any(|names| names.contains(*one)) || old.is_some_and(|old| old.packages.contains_key(*one))
            };
            Update::Only(updated.iter().filter(here).cloned().collect())
        }
        other => other.clone(),
    };
    deb::resolve(&Request::new(name, release, sets), old, &update, mirrors, roots)
}

/// An archive's keys.
///
/// # Errors
/// The site names none, or one is no file of keys; the remedy is what to write there.
pub(super) fn keyring(trust: &BTreeMap<Word, Vec<PathBuf>>, archive: &Word) -> Result<Keyring> {
    let keyring = |file: PathBuf| {
        Keyring::read(&fs::read(&file)?).map_err(|error| {
            error
                .doing(format!("reading the key {}", file.display()))
                .next("name a file with a public key below [trust] in site.toml")
        })
    };
    Ok(Keyring::joined(keys(trust, archive)?.into_iter().map(keyring).collect::<Result<Vec<_>>>()?))
}

/// The files with an archive's keys, as absolute paths.
///
/// # Errors
/// The site names none, or one does not exist; the remedy is what to write there.
fn keys(trust: &BTreeMap<Word, Vec<PathBuf>>, archive: &Word) -> Result<Vec<PathBuf>> {
    let files = trust.get(archive).filter(|files| !files.is_empty()).ok_or_else(|| {
        Error::new(format!("no key of the archive `{archive}` is known, so that nothing of it could be verified")).next(format!(
            "write {archive} = [\"FILE\"] below [trust] in site.toml: the archive's public key, after comparing its \
             fingerprint with the published one"
        ))
    })?;
    files
        .iter()
        .map(|file| {
            fs::must_exist(file, &format!("a key of the archive `{archive}`"), "name its file below [trust] in site.toml")?;
            std::path::absolute(file).doing(|| format!("finding {}", file.display()))
        })
        .collect()
}

/// dnf's refusal as an error that names what to do.
fn explained(refusal: &Refusal, request: &Request<'_>) -> Error {
    match refusal {
        Refusal::NoDnf(said) => no_dnf(said),
        Refusal::Repository(said) => Error::new(format!("dnf could not read a repository:\n{said}"))
            .next("check its URL below [mirror] and its keys below [trust] in site.toml"),
        Refusal::Missing(missing) => {
            let findings: Vec<String> = missing
                .iter()
                .map(|one| match one.providers.is_empty() {
                    true => format!("there is no package `{}`, which {} asks for", one.name, one.set),
                    false => {
                        let some: Vec<&str> = one.providers.iter().take(8).map(String::as_str).collect();
                        format!("`{}`, which {} asks for, is no package: {} provide it", one.name, one.set, some.join(", "))
                    }
                })
                .collect();
            let suites: Vec<&str> = request.release.suites.iter().map(|suite| suite.name.as_str()).collect();
            Error::new(format!("{} (in {})", findings.join("; "), suites.join(", ")))
                .next("write the name of a package that these repositories have")
        }
        Refusal::Solution { set, words, kept } => {
            let next = match kept {
                true => "let every version change: `ostack-image lock --update`; or take a package out of the recipes",
                false => "take one of the packages out of the recipes, or add the repository that has what is missing",
            };
            Error::new(format!("dnf finds no solution:\n{words}")).doing(format!("solving the set {set}")).next(next)
        }
    }
}

/// The packages as they go into the lock. One that was locked before keeps its repository and date.
fn locked(
    answer: &Answer,
    releases_suites: &[Suite],
    suites: &[LockedSuite],
    old: Option<&ReleaseLock>,
) -> Result<BTreeMap<PackageName, LockedPackage>> {
    let mut packages: BTreeMap<PackageName, LockedPackage> = BTreeMap::new();
    for found in &answer.packages {
        let what = || format!("reading the metadata of {}", found.name);
        let (kind, value) = &found.checksum;
        if kind != "sha256" {
            return Err(Error::new(format!("the repository {} has only the {kind} digest of {}", found.repository, found.name))
                .next("use a repository whose metadata has sha256 digests (createrepo_c makes them)"));
        }
        let place = releases_suites.iter().zip(suites).find(|(suite, _)| suite.name == found.repository);
        let (suite, date) =
            place.ok_or_else(|| Error::new(format!("dnf chose {} of no repository of the release", found.name)))?;
        let folder = suite.path.as_ref().map(|path| path.as_str()).unwrap_or_default();
        let mut package = LockedPackage {
            name: found.name.parse().doing(what)?,
            version: found.version.clone(),
            arch: found.arch.parse().doing(what)?,
            size: found.size,
            sha256: Digest::from_hex(value).doing(what)?,
            path: Path::new(folder).join(&found.path).to_string_lossy().parse().doing(what)?,
            archive: suite.archive.clone(),
            suite: suite.name.clone(),
            date: date.date,
            sets: BTreeSet::new(),
        };
        if let Some(old) = old.and_then(|old| old.packages.get(&package.name)) {
            let same = LockedPackage { date: old.date, sets: old.sets.clone(), ..package.clone() };
            if same == *old {
                package.date = old.date;
            }
        }
        for (set, names) in &answer.sets {
            if names.contains(&found.name) {
                package.sets.insert(set.clone());
            }
        }
        if let Some(other) = packages.insert(package.name.clone(), package) {
            return Err(Error::new(format!("{} is {} in one set and {} in another", other.name, other.version, found.version))
                .next("ask for the same alternatives in every recipe"));
        }
    }
    Ok(packages)
}
