//! Brings locked packages into the store; locks anew those that are gone, when asked to.

use super::lock;
use super::report::Bar;
use super::session::Session;
use crate::base::digest::Digest;
use crate::base::error::{Error, Result};
use crate::cli::terminal::note;
use crate::image::solver::Keeper;
use crate::lock::fetch::{Blobs, FetchError, fetch};
use crate::lock::request::Update;
use crate::lock::signature::Signed;
use crate::lock::{LockedPackage, ReleaseLock};
use crate::plan::Package;
use crate::store::{Store, WriteLock};
use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

struct Sink<'a>(&'a Store);

impl Blobs for Sink<'_> {
    fn has(&self, digest: &Digest) -> bool {
        self.0.has_any(digest)
    }

    fn partial(&self, digest: &Digest) -> PathBuf {
        self.0.partial(digest)
    }

    fn commit(&self, digest: &Digest, part: &Path) -> Result<()> {
        self.0.adopt(part, digest)
    }
}

/// The store for the packages of a solver, which no lock has yet.
pub(super) struct ForSolver<'a> {
    session: &'a Session,
    store: &'a Store,
    lock: OnceCell<Taken<'a>>,
}

/// A writer's lock, of the verb or taken for the solver alone.
enum Taken<'a> {
    Before(&'a WriteLock),
    Now(WriteLock),
}

impl<'a> ForSolver<'a> {
    pub fn new(session: &'a Session, store: &'a Store, held: Option<&'a WriteLock>) -> Self {
        Self { session, store, lock: held.map(|lock| OnceCell::from(Taken::Before(lock))).unwrap_or_default() }
    }
}

impl Keeper for ForSolver<'_> {
    fn lock(&self) -> Result<&WriteLock> {
        if self.lock.get().is_none() {
            let lock = self.store.lock()?;
            self.store.empty_scratch(&lock)?;
            let _ = self.lock.set(Taken::Now(lock));
        }
        match self.lock.get() {
            Some(Taken::Before(lock)) => Ok(lock),
            Some(Taken::Now(lock)) => Ok(lock),
            None => Err(Error::new("the store's lock was not kept")),
        }
    }

    fn fetch(&self, packages: &[LockedPackage]) -> Result<()> {
        let all: Vec<&LockedPackage> = packages.iter().collect();
        let Self { session, store, .. } = self;
        fetch(&all, &session.mirrors()?, &session.site.snapshot, &Sink(store), false, &Bar::new())?;
        Ok(())
    }
}

/// Fetches the packages that are missing. With `relock`, those that are gone are locked anew: `Some` lock is the new one.
pub(super) fn packages(
    session: &Session,
    store: &Store,
    lock: &ReleaseLock,
    wanted: &[&Package],
    offline: bool,
    relock: Option<&WriteLock>,
) -> Result<Option<ReleaseLock>> {
    let digests: BTreeSet<&Digest> = wanted.iter().map(|package| &package.digest).collect();
    let locked: Vec<_> = lock.all().filter(|package| digests.contains(&package.sha256)).collect();
    let mirrors = if offline { crate::lock::mirror::Mirrors::default() } else { session.mirrors()? };
    let sink = Sink(store);
    let signed = Signed::new(&sink, lock, if offline { &[] } else { &locked }, &session.site.trust)?;
    match (fetch(&locked, &mirrors, &session.site.snapshot, &signed, offline, &Bar::new()), relock) {
        (Ok(()), _) => Ok(None),
        (Err(FetchError::Gone(names)), Some(write_lock)) => {
            let what = if names.len() == 1 { "1 locked package is" } else { &format!("{} locked packages are", names.len()) };
            note!("  {what} on no mirror any more; locking anew");
            lock::update(session, store, Some(write_lock), &Update::Only(names.into_iter().collect()))?;
            Ok(Some(session.release_lock()?))
        }
        (Err(error), _) => Err(Error::from(error)),
    }
}
