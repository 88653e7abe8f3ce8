//! `ostack.lock` on disk: TOML, one line per package, sorted, so that a change of the lock reads as a diff.
//!
//! ```toml
//! version = 1
//!
//! [release.epoxy-debian13]
//! source_date_epoch = 1789199741
//! requested.controller = [
//!   "haproxy",
//! ]
//! suite = [
//!   { name = "trixie", archive = "debian", date = "2026-09-12T07:55:41Z", sha256 = "…" },
//! ]
//! package = [
//!   { name = "haproxy", version = "3.0.11-1", arch = "amd64", size = 2628116, sha256 = "…",
//!     path = "pool/…/haproxy_3.0.11-1_amd64.deb", archive = "debian", suite = "trixie",
//!     date = "2026-09-12T07:55:41Z", sets = ["controller"] },
//! ]
//! ```
//!
//! (A package is one line; it is broken here only to fit.) Tools of another distribution follow as
//! `[release.NAME.tools]`, in the same form. `signed = false` marks a suite whose packages vouch for themselves.
//! The same lock always gives the same bytes.

use super::{Lock, LockedPackage, LockedSuite, ReleaseLock};
use crate::base::digest::Digest;
use crate::base::error::{Error, Result};
use crate::base::fs;
use crate::base::name::{PackageName, Word};
use crate::model::Source;
use serde::{Deserialize, Deserializer};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::str::FromStr;
use toml::Spanned;

/// The format that this program writes, and the only one that it reads.
pub const VERSION: u64 = 1;

const HEADER: &str = "# Which package of which version the images are made of. Written by `ostack-image lock`.\n";

impl Lock {
    /// Reads a lock file.
    ///
    /// # Errors
    /// It is missing, or [`Lock::parse`] refuses it.
    pub fn load(path: &Path) -> Result<Self> {
        fs::must_exist(path, "the lock", "run `ostack-image lock`")?;
        let text = fs::read_text(path)?;
        Self::parse(&Source { file: path, text: &text })
    }

    /// Reads the text of a lock file.
    ///
    /// # Errors
    /// With file and line: another format version, an unknown key, a malformed value, a package that
    /// is listed twice, belongs to no set, or names a suite that the release does not list.
    pub fn parse(source: &Source<'_>) -> Result<Self> {
        let again = "restore the file, or write it anew with `ostack-image lock`";
        let version: written::Version = source.toml().map_err(|error| error.next(again))?;
        if *version.version.get_ref() != VERSION {
            return Err(source
                .error(&version.version.span(), format!("the lock has format {}, not {VERSION}", version.version.get_ref()))
                .next("use the ostack-image that wrote it, or write it anew with `ostack-image lock`"));
        }
        let file: written::File = source.toml().map_err(|error| match error.remedy() {
            Some(_) => error,
            None => error.next(again),
        })?;
        let mut releases = BTreeMap::new();
        for (name, release) in file.release {
            releases.insert(name, checked(source, release).map_err(|error| error.next(again))?);
        }
        Ok(Self { releases })
    }

    /// Writes the lock file whole, or leaves the old one untouched.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        fs::write_atomic(path, self.to_toml().as_bytes())
    }

    /// The text of the lock file.
    pub fn to_toml(&self) -> String {
        let mut out = format!("{HEADER}version = {VERSION}\n");
        for (name, release) in &self.releases {
            put_release(&mut out, &key(name), release);
            if let Some(tools) = &release.tools {
                put_release(&mut out, &format!("{}.tools", key(name)), tools);
            }
        }
        out
    }
}

fn put_release(out: &mut String, key_of_release: &str, release: &ReleaseLock) {
    put(out, format_args!("\n[release.{key_of_release}]\nsource_date_epoch = {}\n", release.source_date_epoch));
    for (set, names) in &release.requested {
        put(out, format_args!("requested.{} = [\n", key(set)));
        for name in names {
            put(out, format_args!("  {},\n", quote(name.as_str())));
        }
        out.push_str("]\n");
    }
    out.push_str("suite = [\n");
    for suite in &release.suites {
        let LockedSuite { name, archive, date, sha256, signed } = suite;
        let unsigned = if *signed { "" } else { ", signed = false" };
        put(
            out,
            format_args!(
                "  {{ name = {}, archive = \"{archive}\", date = \"{date}\", sha256 = \"{}\"{unsigned} }},\n",
                quote(name),
                sha256.hex()
            ),
        );
    }
    out.push_str("]\npackage = [\n");
    for package in release.packages.values() {
        let LockedPackage { name, version, arch, size, sha256, path, archive, suite, date, sets } = package;
        let sets: Vec<String> = sets.iter().map(|set| quote(set.as_str())).collect();
        put(
            out,
            format_args!(
                "  {{ name = \"{name}\", version = {}, arch = \"{arch}\", size = {size}, sha256 = \"{}\", path = {}, \
                 archive = \"{archive}\", suite = {}, date = \"{date}\", sets = [{}] }},\n",
                quote(version),
                sha256.hex(),
                quote(path.as_str()),
                quote(suite),
                sets.join(", ")
            ),
        );
    }
    out.push_str("]\n");
}

/// Writing into a `String` cannot fail.
fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(text);
}

/// A name as a bare key where TOML allows it.
fn key(name: &Word) -> String {
    if name.as_str().contains('.') { quote(name.as_str()) } else { name.to_string() }
}

/// Text as a TOML string.
fn quote(text: &str) -> String {
    let plain = |c: char| c.is_ascii_graphic() && c != '"' && c != '\\';
    if text.chars().all(plain) { format!("\"{text}\"") } else { toml::Value::String(text.to_string()).to_string() }
}

/// The file as written.
mod written {
    use super::*;

    /// Only the version, so that a file of another format is named as such whatever else it holds.
    #[derive(Deserialize)]
    pub struct Version {
        pub version: Spanned<u64>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    pub struct File {
        #[serde(rename = "version")]
        pub _version: u64,
        #[serde(default)]
        pub release: BTreeMap<Word, Release>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    pub struct Release {
        pub source_date_epoch: u64,
        #[serde(default)]
        pub requested: BTreeMap<Word, BTreeSet<PackageName>>,
        pub suite: Vec<Suite>,
        pub package: Vec<Spanned<Package>>,
        pub tools: Option<Box<Release>>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    pub struct Suite {
        pub name: String,
        pub archive: Word,
        #[serde(deserialize_with = "parsed")]
        pub date: super::super::date::Moment,
        #[serde(deserialize_with = "hex")]
        pub sha256: Digest,
        #[serde(default = "yes")]
        pub signed: bool,
    }

    fn yes() -> bool {
        true
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    pub struct Package {
        pub name: PackageName,
        pub version: String,
        pub arch: Word,
        pub size: u64,
        #[serde(deserialize_with = "hex")]
        pub sha256: Digest,
        #[serde(deserialize_with = "parsed")]
        pub path: crate::base::path::RelPath,
        pub archive: Word,
        pub suite: String,
        #[serde(deserialize_with = "parsed")]
        pub date: super::super::date::Moment,
        pub sets: BTreeSet<Word>,
    }
}

fn said(error: &Error) -> String {
    format!("{}; {}", error.cause(), error.remedy().unwrap_or_default())
}

fn parsed<'de, D: Deserializer<'de>, T: FromStr<Err = Error>>(deserializer: D) -> Result<T, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(|error| serde::de::Error::custom(said(&error)))
}

fn hex<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
    Digest::from_hex(&String::deserialize(deserializer)?).map_err(|error| serde::de::Error::custom(said(&error)))
}

fn checked(source: &Source<'_>, release: written::Release) -> Result<ReleaseLock> {
    let suites: Vec<LockedSuite> = release
        .suite
        .into_iter()
        .map(|written::Suite { name, archive, date, sha256, signed }| LockedSuite { name, archive, date, sha256, signed })
        .collect();
    let mut packages = BTreeMap::new();
    for spanned in release.package {
        let span = spanned.span();
        let written::Package { name, version, arch, size, sha256, path, archive, suite, date, sets } = spanned.into_inner();
        if !suites.iter().any(|known| known.name == suite && known.archive == archive) {
            return Err(source.error(&span, format!("`{name}` is of the suite {suite} of {archive}, which is not listed")));
        }
        if sets.is_empty() {
            return Err(source.error(&span, format!("`{name}` belongs to no set")));
        }
        let package = LockedPackage { name: name.clone(), version, arch, size, sha256, path, archive, suite, date, sets };
        if packages.insert(name.clone(), package).is_some() {
            return Err(source.error(&span, format!("`{name}` is listed twice")));
        }
    }
    let tools = release.tools.map(|tools| checked(source, *tools)).transpose()?.map(Box::new);
    Ok(ReleaseLock { source_date_epoch: release.source_date_epoch, suites, requested: release.requested, packages, tools })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{example, word};
    use super::*;

    const EXAMPLE: &str = r#"# Which package of which version the images are made of. Written by `ostack-image lock`.
version = 1

[release.epoxy-debian13]
source_date_epoch = 1789199741
requested.base = [
  "bash",
]
requested.controller = [
  "haproxy",
]
suite = [
  { name = "stable", archive = "debian", date = "2026-09-12T07:55:41Z", sha256 = "INRELEASE" },
]
package = [
  { name = "bash", version = "5.2", arch = "amd64", size = 8, sha256 = "BASH", path = "pool/bash_5.2_amd64.deb", archive = "debian", suite = "stable", date = "2026-09-12T07:55:41Z", sets = ["base", "controller"] },
  { name = "haproxy", version = "3.0.10", arch = "amd64", size = 14, sha256 = "HAPROXY", path = "pool/haproxy_3.0.10_amd64.deb", archive = "debian", suite = "stable", date = "2026-09-12T07:55:41Z", sets = ["controller"] },
]
"#;

    fn text() -> String {
        EXAMPLE
            .replace("INRELEASE", &Digest::of("InRelease").hex())
            .replace("BASH", &Digest::of("bash 5.2").hex())
            .replace("HAPROXY", &Digest::of("haproxy 3.0.10").hex())
    }

    fn refused(text: &str) -> String {
        Lock::parse(&Source { file: Path::new("ostack.lock"), text }).unwrap_err().to_string()
    }

    #[test]
    fn a_lock_is_written_with_one_line_per_package() {
        let lock = Lock { releases: BTreeMap::from([(word("epoxy-debian13"), example())]) };
        assert_eq!(lock.to_toml(), text());
    }

    #[test]
    fn what_was_written_reads_back() {
        let lock = Lock { releases: BTreeMap::from([(word("epoxy-debian13"), example()), (word("a.b"), example())]) };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ostack.lock");
        lock.write(&path).unwrap();
        assert_eq!(Lock::load(&path).unwrap(), lock);
    }

    #[test]
    fn a_name_with_a_dot_is_a_quoted_key() {
        let lock = Lock { releases: BTreeMap::from([(word("a.b"), example())]) };
        assert!(lock.to_toml().contains("\n[release.\"a.b\"]\n"));
    }

    #[test]
    fn tools_of_another_distribution_and_a_suite_that_nobody_signed_are_written_and_read_back() {
        let mut release = example();
        release.suites[0].signed = false;
        release.requested.remove(&word("base"));
        let requested = BTreeMap::from([(word("tools"), BTreeSet::new())]);
        release.tools = Some(Box::new(ReleaseLock { requested, packages: BTreeMap::new(), ..example() }));
        let lock = Lock { releases: BTreeMap::from([(word("a.b"), release)]) };
        let suite = format!(
            "name = \"stable\", archive = \"debian\", date = \"2026-09-12T07:55:41Z\", sha256 = \"{}\"",
            Digest::of("InRelease").hex()
        );
        let text = text().replace("requested.base = [\n  \"bash\",\n]\n", "").replace("epoxy-debian13", "\"a.b\"");
        let text = text.replace(&suite, &format!("{suite}, signed = false"));
        let tools = "\n[release.\"a.b\".tools]\nsource_date_epoch = 1789199741\nrequested.tools = [\n]\nsuite = [\n";
        assert_eq!(lock.to_toml(), format!("{text}{tools}  {{ {suite} }},\n]\npackage = [\n]\n"));
        assert_eq!(Lock::parse(&Source { file: Path::new("ostack.lock"), text: &lock.to_toml() }).unwrap(), lock);
    }

    #[test]
    fn a_missing_lock_names_the_command_that_writes_it() {
        assert_eq!(
            Lock::load(Path::new("no/such/ostack.lock")).unwrap_err().to_string(),
            "the lock no/such/ostack.lock does not exist\n  next: run `ostack-image lock`"
        );
    }

    #[test]
    fn a_bad_lock_is_refused_with_its_line() {
        let again = "\n  next: restore the file, or write it anew with `ostack-image lock`";
        let good = text();
        let bash = Digest::of("bash 5.2").hex();
        let line = good.lines().find(|line| line.contains("\"bash\", version")).unwrap();
        let cases = [
            (good.replace("suite = \"stable\"", "suite = \"old\""),
             format!("ostack.lock:16: `bash` is of the suite old of debian, which is not listed{again}")),
            (good.replace("sets = [\"controller\"]", "sets = []"), format!("ostack.lock:17: `haproxy` belongs to no set{again}")),
            (good.replace(line, &format!("{line}\n{line}")), format!("ostack.lock:17: `bash` is listed twice{again}")),
            (good.replace("size = 8,", "sise = 8,"),
             "ostack.lock:16: unknown key `sise`\n  next: write one of name, version, arch, size, sha256, path, archive, suite, date, sets".to_string()),
            (good.replace(&bash, "00"),
             "ostack.lock:16: `00` is no sha256 digest\n  next: write 64 lower-case hexadecimal digits".to_string()),
            (good.replace("pool/bash", "../bash"),
             "ostack.lock:16: `../bash_5.2_amd64.deb` is no path inside a root\n  next: write an absolute path without `.`, `..` or empty parts".to_string()),
            (good.replace("version = 1\n", "version = 2\n"),
             "ostack.lock:2: the lock has format 2, not 1\n  next: use the ostack-image that wrote it, or write it anew with `ostack-image lock`".to_string()),
        ];
        for (text, expected) in cases {
            assert_eq!(refused(&text), expected);
        }
    }
}
