//! Signatures of rpm packages, checked before they enter the store.
//!
//! In: a lock, the site's keys, a store. Out: the same store, which now takes packages of a repository without signed
//! metadata only when one of the archive's keys has signed them. What the metadata's signature vouches for is
//! not asked again: its sha256 is in the lock.

use super::date::Moment;
use super::fetch::Blobs;
use super::openpgp::{Keyring, Unverified};
use super::{LockedPackage, ReleaseLock, rpm};
use crate::base::digest::Digest;
use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use crate::base::name::Word;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A store that takes packages only with the signatures that they need.
pub struct Signed<'a> {
    sink: &'a dyn Blobs,
    /// Package -> its archive, of those that must be signed.
    archives: BTreeMap<Digest, &'a Word>,
    keys: BTreeMap<&'a Word, Keys>,
}

impl<'a> Signed<'a> {
    /// Makes ready for those of `packages` that the store lacks.
    ///
    /// # Errors
    /// The site names no key of an archive whose packages must be signed, or one is no key.
    pub fn new(
        sink: &'a dyn Blobs,
        lock: &'a ReleaseLock,
        packages: &[&'a LockedPackage],
        trust: &BTreeMap<Word, Vec<PathBuf>>,
    ) -> Result<Self> {
        let mut signed = Self { sink, archives: BTreeMap::new(), keys: BTreeMap::new() };
        let unsigned = |package: &&&LockedPackage| lock.suite(package).is_some_and(|suite| !suite.signed);
        for package in packages.iter().filter(|package| !sink.has(&package.sha256)).filter(unsigned) {
            signed.archives.insert(package.sha256, &package.archive);
            if !signed.keys.contains_key(&package.archive) {
                signed.keys.insert(&package.archive, Keys::new(&package.archive, trust)?);
            }
        }
        Ok(signed)
    }
}

impl Blobs for Signed<'_> {
    fn has(&self, digest: &Digest) -> bool {
        self.sink.has(digest)
    }

    fn partial(&self, digest: &Digest) -> PathBuf {
        self.sink.partial(digest)
    }

    fn commit(&self, digest: &Digest, part: &Path) -> Result<()> {
        let keys = self.archives.get(digest).and_then(|archive| self.keys.get(archive));
        if let Some(Err(error)) = keys.map(|keys| keys.check(part)) {
            std::fs::remove_file(part).doing(|| format!("removing {}", part.display()))?;
            return Err(error);
        }
        self.sink.commit(digest, part)
    }
}

/// The keys of one archive.
struct Keys {
    archive: Word,
    keyring: Keyring,
}

impl Keys {
    fn new(archive: &Word, trust: &BTreeMap<Word, Vec<PathBuf>>) -> Result<Self> {
        Ok(Self { archive: archive.clone(), keyring: rpm::keyring(trust, archive)? })
    }

    /// Refuses a package that none of the keys has signed.
    fn check(&self, package: &Path) -> Result<()> {
        let archive = &self.archive;
        rpm::package::verify(&fs::read(package)?, &self.keyring, Moment::now())?.map_err(|unverified| match unverified {
            Unverified::Unsigned => Error::new("no one has signed it, nor its repository's metadata").next(format!(
                "name a mirror of {archive} below [mirror] in site.toml that has signed packages, or sign the repository \
                 (repodata/repomd.xml.asc) and lock again"
            )),
            Unverified::Strange(keys) => Error::new(format!("it is signed with a key that is not trusted: {}", keys.join(", ")))
                .next(format!(
                    "if that is a key that the distribution publishes, add its file to {archive} below [trust] in site.toml; \
                     otherwise name another mirror"
                )),
            Unverified::Flawed(why) => Error::new(format!("its signature does not hold: {why}"))
                .next(format!("name another mirror of {archive} below [mirror] in site.toml")),
        })
    }
}
