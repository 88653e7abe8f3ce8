//! Gets locked packages into the store: eight at a time, largest first, resumed where a try broke off.
//!
//! A package is asked of each mirror of its archive in turn, then of the archive's snapshot mirror, which
//! keeps what mirrors have dropped. It enters the store only with the size and the sha256 of the lock.
//! A snapshot mirror is laid out as `<base>/<stamp>/<path>`, `<base>` being the URL of the archive's own
//! snapshots and `<stamp>` a moment (`20260912T075541Z`); it answers with what was there at that moment.

mod get;
mod resolver;
mod transfer;

pub(in crate::lock) use get::Getter;

use super::mirror::Mirrors;
use super::{LockedPackage, join};
use crate::base::digest::Digest;
use crate::base::error::{Error, Result};
use crate::base::name::{PackageName, Word};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use transfer::{Manner, Outcome, Transfer};

/// How many packages are under way at once.
const CONNECTIONS: usize = 8;

/// Where packages go: the store, as far as a download needs it.
pub trait Blobs: Sync {
    /// Whether the store has the blob.
    fn has(&self, digest: &Digest) -> bool;

    /// The file in which the blob is gathered, in an existing folder. It may hold the beginning of an
    /// earlier try.
    fn partial(&self, digest: &Digest) -> PathBuf;

    /// Takes `part`, whose digest was checked and which was synced, into the store by renaming it.
    ///
    /// # Errors
    /// The store cannot take it.
    fn commit(&self, digest: &Digest, part: &Path) -> Result<()>;
}

/// Hears how a download gets on. Called from several threads.
pub trait Progress: Sync {
    /// What is to be got: bytes and files.
    fn total(&self, bytes: u64, files: usize);
    /// So many more bytes are here. A repeated part is not counted again.
    fn advance(&self, bytes: u64);
    /// What is going on, for people; the line before it is over.
    fn message(&self, text: &str);
}

/// Nobody listens.
pub struct Silent;

impl Progress for Silent {
    fn total(&self, _bytes: u64, _files: usize) {}
    fn advance(&self, _bytes: u64) {}
    fn message(&self, _text: &str) {}
}

/// Why packages could not be got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchError {
    /// Neither a mirror nor a snapshot has these any more: all of them, by name. Everything else was got.
    Gone(Vec<PackageName>),
    /// Anything else.
    Failed(Error),
}

impl From<Error> for FetchError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<FetchError> for Error {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Failed(error) => error,
            FetchError::Gone(names) => {
                let count = names.len();
                let packages = if count == 1 { "locked package is" } else { "locked packages are" };
                let all: Vec<&str> = names.iter().map(PackageName::as_str).collect();
                Self::new(format!("{count} {packages} on no mirror any more: {}", join(&names))).next(format!(
                    "lock newer ones with `ostack-image lock --update {}`, or name a mirror that keeps old packages \
                     below [snapshot] in site.toml, or put the files into the store",
                    all.join(" ")
                ))
            }
        }
    }
}

/// Gets every package that `sink` does not have.
///
/// `snapshots` says for an archive where its snapshots are; an archive without an entry has none.
/// With `offline` nothing is downloaded. Proxies are those of the environment (`http_proxy` and the like).
///
/// # Errors
/// [`FetchError::Gone`] when some are nowhere any more. [`FetchError::Failed`] when packages are missing
/// and `offline`, when an archive has no mirror, when a server fails repeatedly or gives other bytes than
/// the lock says; it names the package, the URL and what differed. What was got stays.
pub fn fetch(
    packages: &[&LockedPackage],
    mirrors: &Mirrors,
    snapshots: &BTreeMap<Word, String>,
    sink: &dyn Blobs,
    offline: bool,
    progress: &dyn Progress,
) -> Result<(), FetchError> {
    fetch_with(packages, mirrors, snapshots, sink, offline, progress, Manner::usual())
}

fn fetch_with(
    packages: &[&LockedPackage],
    mirrors: &Mirrors,
    snapshots: &BTreeMap<Word, String>,
    sink: &dyn Blobs,
    offline: bool,
    progress: &dyn Progress,
    manner: Manner,
) -> Result<(), FetchError> {
    let mut seen = BTreeSet::new();
    let mut missing: Vec<&LockedPackage> =
        packages.iter().copied().filter(|package| seen.insert(package.sha256) && !sink.has(&package.sha256)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if offline {
        let total = seen.len();
        missing.sort_by(|a, b| a.name.cmp(&b.name));
        let names = join(missing.iter().map(|package| &package.name));
        return Err(Error::new(format!("{} of {total} packages are not in the store: {names}", missing.len()))
            .next("run once without --offline")
            .into());
    }
    // Ends are popped: the largest is last, so that no big one is left over at the end.
    missing.sort_by(|a, b| (a.size, &b.name).cmp(&(b.size, &a.name)));
    let mut queue = Vec::with_capacity(missing.len());
    for package in &missing {
        queue.push((*package, urls(package, mirrors, snapshots)?));
    }
    progress.total(missing.iter().map(|package| package.size).sum(), missing.len());
    let threads = CONNECTIONS.min(queue.len());
    let queue = Mutex::new(queue);
    let ends = Mutex::new(Ends::default());
    let transfer = Transfer::new(sink, progress, manner);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let next = if lock(&ends).failed.is_some() { None } else { lock(&queue).pop() };
                    let Some((package, urls)) = next else { break };
                    match transfer.package(package, &urls) {
                        Ok(Outcome::Done) => {}
                        Ok(Outcome::Gone) => lock(&ends).gone.push(package.name.clone()),
                        Err(error) => {
                            lock(&ends).failed.get_or_insert(error);
                        }
                    }
                }
            });
        }
    });
    let mut ends = ends.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(error) = ends.failed {
        return Err(error.into());
    }
    if ends.gone.is_empty() {
        return Ok(());
    }
    ends.gone.sort();
    Err(FetchError::Gone(ends.gone))
}

#[derive(Default)]
struct Ends {
    gone: Vec<PackageName>,
    failed: Option<Error>,
}

/// A panicking thread ends the whole scope, so what the mutex holds is never half changed.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Where to ask for a package, in order.
fn urls(package: &LockedPackage, mirrors: &Mirrors, snapshots: &BTreeMap<Word, String>) -> Result<Vec<String>> {
    let mirrors = mirrors.of(&package.archive).map_err(|error| error.doing(format!("getting {}", package.name)))?;
    let mut urls: Vec<String> = mirrors.iter().map(|base| url(base, package.path.as_str())).collect();
    if let Some(base) = snapshots.get(&package.archive) {
        // A snapshot is taken some hours after the archive dated itself: the one before that date may
        // lack what was new then, and the one a day later has it.
        for moment in [package.date, package.date.days_later(1)] {
            urls.push(url(&format!("{}/{}", base.trim_end_matches('/'), moment.stamp()), package.path.as_str()));
        }
    }
    Ok(urls)
}

/// The URL of a path below a base. Only what every server reads the same stays as it is: `+` does not.
fn url(base: &str, path: &str) -> String {
    let mut url = format!("{base}/");
    for byte in path.bytes() {
        match byte {
            _ if base.starts_with("file://") => url.push(char::from(byte)),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => url.push(char::from(byte)),
            _ => url.push_str(&format!("%{byte:02x}")),
        }
    }
    url
}

#[cfg(test)]
mod tests;
