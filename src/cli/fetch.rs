//! Brings locked packages into the store; locks anew those that are gone, when asked to.

use super::lock;
use super::report::Bar;
use super::session::Session;
use crate::base::digest::Digest;
use crate::base::error::{Error, Result};
use crate::base::name::PackageName;
use crate::lock::ReleaseLock;
use crate::lock::deb::Update;
use crate::lock::fetch::{Blobs, FetchError, fetch};
use crate::plan::Package;
use crate::store::Store;
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

/// Fetches the packages that are missing. `Some` lock: some were gone, and were locked anew.
pub(super) fn packages(
    session: &Session,
    store: &Store,
    lock: &ReleaseLock,
    wanted: &[&Package],
    offline: bool,
    relock: bool,
) -> Result<Option<ReleaseLock>> {
    let names: BTreeSet<&PackageName> = wanted.iter().map(|package| &package.name).collect();
    let locked: Vec<_> = lock.packages.values().filter(|package| names.contains(&package.name)).collect();
    let mirrors = if offline { crate::lock::mirror::Mirrors::default() } else { session.mirrors()? };
    match fetch(&locked, &mirrors, &session.site.snapshot, &Sink(store), offline, &Bar::new()) {
        Ok(()) => Ok(None),
        Err(FetchError::Gone(names)) if relock => {
            let what = if names.len() == 1 { "1 locked package is" } else { &format!("{} locked packages are", names.len()) };
            eprintln!("  {what} on no mirror any more; locking anew");
            lock::update(session, &Update::Only(names.into_iter().collect()))?;
            Ok(Some(session.release_lock()?))
        }
        Err(error) => Err(Error::from(error)),
    }
}
