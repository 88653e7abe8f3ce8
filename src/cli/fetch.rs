//! Brings locked packages into the store; locks anew those that are gone, when asked to.

use super::lock;
use super::report::Bar;
use super::session::Session;
use crate::base::digest::Digest;
use crate::base::error::{Error, Result};
use crate::lock::ReleaseLock;
use crate::lock::fetch::{Blobs, FetchError, fetch};
use crate::lock::request::Update;
use crate::lock::signature::Signed;
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
    let digests: BTreeSet<&Digest> = wanted.iter().map(|package| &package.digest).collect();
    let locked: Vec<_> = lock.all().filter(|package| digests.contains(&package.sha256)).collect();
    let mirrors = if offline { crate::lock::mirror::Mirrors::default() } else { session.mirrors()? };
    let sink = Sink(store);
    let signed = Signed::new(&sink, lock, if offline { &[] } else { &locked }, &session.site.trust)?;
    match fetch(&locked, &mirrors, &session.site.snapshot, &signed, offline, &Bar::new()) {
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
