//! Signatures of rpm packages, checked before they enter the store.
//!
//! In: a lock, the site's keys, a store. Out: the same store, which now takes packages of a repository without signed
//! metadata only when one of the archive's keys has signed them. What the metadata's signature vouches for is
//! not asked again: its sha256 is in the lock.

use super::fetch::Blobs;
use super::{LockedPackage, ReleaseLock, rpm};
use crate::base::digest::Digest;
use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use crate::base::name::Word;
use crate::base::tool::Tool;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Recent versions of rpm refuse keys whose holder bound them to a name by SHA-1, as was usual until 2015. The site has
/// compared the key itself, so that binding is not what it is trusted by. SHA-1 stays refused for signatures of packages.
const POLICY: &str = "[hash_algorithms]\nsha1.second_preimage_resistance = \"always\"\n";

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

/// The keys of one archive, in a database of rpm's of their own.
struct Keys {
    archive: Word,
    folder: tempfile::TempDir,
}

impl Keys {
    fn new(archive: &Word, trust: &BTreeMap<Word, Vec<PathBuf>>) -> Result<Self> {
        let files = rpm::keys(trust, archive)?;
        let folder =
            tempfile::Builder::new().prefix("ostack-keys-").tempdir().doing(|| "creating a temporary folder for keys")?;
        let keys = Self { archive: archive.clone(), folder };
        fs::write_atomic(&keys.folder.path().join("policy"), POLICY.as_bytes())?;
        for file in files {
            let (success, words) = keys.rpmkeys(&["--import".as_ref(), file.as_os_str()])?;
            if !success {
                return Err(Error::new(words)
                    .doing(format!("reading the key {}", file.display()))
                    .next("name a file with a public key in text form below [trust] in site.toml"));
            }
        }
        Ok(keys)
    }

    /// Refuses a package that none of the keys has signed.
    fn check(&self, package: &Path) -> Result<()> {
        let level = "_pkgverify_level signature";
        let args = ["--define", level, "--checksig", "--verbose"].map(AsRef::as_ref);
        let (success, words) = self.rpmkeys(&[&args[..], &[package.as_os_str()]].concat())?;
        if success {
            return Ok(());
        }
        let archive = &self.archive;
        let signature = words.lines().map(str::trim).find(|line| line.contains(" Signature, key ID "));
        Err(match signature {
            None => Error::new("no one has signed it, nor its repository's metadata").next(format!(
                "name a mirror of {archive} below [mirror] in site.toml that has signed packages, or sign the repository \
                 (repodata/repomd.xml.asc) and lock again"
            )),
            Some(line) if line.ends_with("NOKEY") => Error::new(format!("it is signed with a key that is not trusted: {line}"))
                .next(format!(
                    "if that is a key that the distribution publishes, add its file to {archive} below [trust] in site.toml; \
                     otherwise name another mirror"
                )),
            Some(_) => Error::new(format!("its signature does not hold:\n{words}"))
                .next(format!("name another mirror of {archive} below [mirror] in site.toml")),
        })
    }

    /// Runs rpmkeys on the database; gives whether it succeeded, and everything it said but the name of the file.
    fn rpmkeys(&self, args: &[&std::ffi::OsStr]) -> Result<(bool, String)> {
        let folder = self.folder.path();
        // Several packages are checked at once.
        let log = tempfile::NamedTempFile::new_in(folder).doing(|| "creating a temporary file")?;
        let path = std::env::var_os("PATH").unwrap_or_default();
        let handle = Tool::new("rpmkeys")
            .package("rpm")
            .clear_env()
            .env("PATH", path)
            .env("LC_ALL", "C.UTF-8")
            .env("HOME", folder)
            .env("SEQUOIA_CRYPTO_POLICY", folder.join("policy"))
            .arg("--dbpath")
            .arg(folder.join("keys"))
            .args(args)
            .start(log.path())?;
        let output = handle.wait().doing(|| "waiting for rpmkeys")?;
        let said = fs::read(log.path())?;
        let said = String::from_utf8_lossy(&said);
        let words: Vec<&str> = said.lines().filter(|line| !line.ends_with(':')).map(str::trim_end).collect();
        Ok((output.status.success(), words.join("\n")))
    }
}
