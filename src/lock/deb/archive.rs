//! The archives' lists: downloaded, and verified in this process.
//!
//! ```text
//! keyring ── signature ──> InRelease ── size, sha256 ──> COMPONENT/binary-ARCHITECTURE/Packages.xz ── ──> packages
//! ```
//!
//! In: a release, where its archives are, its keyring, the clock. Out: what each suite says, as the solver's own archive
//! and as text. A list is asked for by its digest where the suite offers that, so that a mirror that is updated meanwhile does no harm.

use crate::base::digest::Digest;
use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use crate::base::name::Word;
use crate::lock::LockedSuite;
use crate::lock::date::Moment;
use crate::lock::fetch::Getter;
use crate::lock::mirror::Mirrors;
use crate::lock::openpgp::Keyring;
use crate::model::release::{Release, Suite};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

/// How far a suite's date may lie ahead of this machine's clock, in seconds; apt's own limit (`Acquire::Max-FutureTime`).
const AHEAD: u64 = 10;

/// The forms in which a list may come, the smallest first.
const FORMS: [&str; 3] = [".xz", ".gz", ""];

const CHECK_MIRROR: &str = "check the mirror: [mirror] in site.toml, --mirror, or this machine's apt sources";

/// What the suites of a release say.
pub(super) struct Archive {
    pub suites: Vec<LockedSuite>,
    pub lists: Vec<List>,
    /// The signed text of each suite's `InRelease`.
    signed: Vec<String>,
}

/// A verified `Packages` list.
pub(super) struct List {
    /// Index of its suite in the release.
    pub suite: usize,
    pub text: String,
    /// Its path below the suite's folder, and its bytes there.
    path: String,
    packed: Vec<u8>,
}

/// The parts of a `Release` file that are looked at.
struct SuiteFile<'a> {
    fields: BTreeMap<&'a str, &'a str>,
    /// Path below the suite's folder -> digest and size.
    files: BTreeMap<&'a str, (Digest, u64)>,
}

impl Archive {
    /// Downloads and verifies every suite of a release. `now` is the clock.
    ///
    /// # Errors
    /// The release names no keyring; a suite is not there, not signed with a key of it, outdated, or its lists are not the
    /// signed ones. Names the suite, the URL, what differed.
    pub fn read(release: &Release, mirrors: &Mirrors, now: Moment) -> Result<Self> {
        let keyring = Trusted::of(release)?;
        let bases = release.suites.iter().map(|suite| Ok(mirrors.of(&suite.archive)?.first().cloned().unwrap_or_default()));
        let bases = bases.collect::<Result<Vec<String>>>()?;
        let getter = Getter::new();
        let mut archive = Self { suites: Vec::new(), lists: Vec::new(), signed: Vec::new() };
        for (number, (suite, base)) in release.suites.iter().zip(bases).enumerate() {
            let url = format!("{base}/dists/{}", suite.name);
            archive.suite(&getter, number, suite, &url, &release.architecture, &keyring, now)?;
        }
        Ok(archive)
    }

    #[allow(clippy::too_many_arguments, reason = "one suite's part of `read`")]
    fn suite(
        &mut self,
        getter: &Getter,
        number: usize,
        suite: &Suite,
        url: &str,
        architecture: &Word,
        keyring: &Trusted<'_>,
        now: Moment,
    ) -> Result<()> {
        let release_url = format!("{url}/InRelease");
        let bytes = getter.get(&release_url).map_err(|error| error.next(CHECK_MIRROR))?.ok_or_else(|| {
            Error::new(format!("the suite {} is not at this mirror, or nobody signed it: there is no {release_url}", suite.name))
                .next(CHECK_MIRROR)
        })?;
        let text = keyring.text(&bytes, &release_url, now)?;
        let file = SuiteFile::read(&text).map_err(|error| error.doing(format!("reading {release_url}")))?;
        file.is_of(suite, &release_url)?;
        let date = file.date(&release_url, now)?;
        for path in file.lists(suite, architecture, &release_url)? {
            let (packed, path) = file.get(getter, url, &path)?;
            let text = unpacked(&packed, &path).doing(|| format!("reading {url}/{path}"))?;
            self.lists.push(List { suite: number, text, path, packed });
        }
        let (name, archive) = (suite.name.clone(), suite.archive.clone());
        self.suites.push(LockedSuite { name, archive, date, sha256: Digest::of(&bytes), signed: true });
        self.signed.push(text);
        Ok(())
    }

    /// Lays the suites out below `folder` as an archive each, in folders by their number, for a solver that takes them as they are.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn lay_out(&self, folder: &Path) -> Result<()> {
        let place = |number: usize| folder.join(number.to_string()).join("dists").join(&self.suites[number].name);
        for (number, text) in self.signed.iter().enumerate() {
            fs::create_dir_all(&place(number))?;
            fs::write_atomic(&place(number).join("Release"), text.as_bytes())?;
        }
        for list in &self.lists {
            let path = place(list.suite).join(&list.path);
            fs::create_dir_all(path.parent().unwrap_or(folder))?;
            fs::write_atomic(&path, &list.packed)?;
        }
        Ok(())
    }
}

/// A release's keyring.
struct Trusted<'a> {
    file: &'a str,
    keyring: Keyring,
}

impl<'a> Trusted<'a> {
    fn of(release: &'a Release) -> Result<Self> {
        let file = release.keyring.as_deref().ok_or_else(|| {
            Error::new("the release names no keyring, so that no archive could be verified")
                .next("write keyring = \"keyrings/….asc\" in the release: a file below recipes/ with the archive's public keys")
        })?;
        fs::must_exist(
            Path::new(file),
            "the release's keyring",
            "name a file below recipes/ with the archive's public keys in the release",
        )?;
        let keyring = Keyring::read(&fs::read(Path::new(file))?).map_err(|error| {
            error.doing(format!("reading the release's keyring {file}")).next("name a file of public OpenPGP keys in the release")
        })?;
        Ok(Self { file, keyring })
    }

    /// What a key of the keyring has signed.
    fn text(&self, bytes: &[u8], url: &str, now: Moment) -> Result<String> {
        let text = String::from_utf8_lossy(bytes);
        self.keyring.cleartext(&text, now).map_err(|error| {
            Error::new(format!("the archive's signature did not verify against {}: {url}: {error}", self.file))
                .next("check that the mirror is the distribution's own and that the release's keyring has its current keys")
        })
    }
}

impl<'a> SuiteFile<'a> {
    fn read(text: &'a str) -> Result<Self> {
        let mut file = Self { fields: BTreeMap::new(), files: BTreeMap::new() };
        let mut field = "";
        for line in text.lines() {
            if !line.starts_with(' ') {
                let (name, value) = line.split_once(':').unwrap_or((line, ""));
                field = name;
                file.fields.insert(name, value.trim());
            } else if field == "SHA256" {
                let words: Vec<&str> = line.split_whitespace().collect();
                let [digest, size, path] = words[..] else { return Err(Error::new(format!("`{line}` is no file's line"))) };
                let size = size.parse().map_err(|_| Error::new(format!("`{size}` is no size of a file")))?;
                file.files.insert(path, (Digest::from_hex(digest)?, size));
            }
        }
        Ok(file)
    }

    fn field(&self, name: &str) -> &'a str {
        self.fields.get(name).copied().unwrap_or_default()
    }

    /// Another suite's file, which the same keys have signed, is not this one's.
    fn is_of(&self, suite: &Suite, url: &str) -> Result<()> {
        let names = ["Suite", "Codename"].map(|name| self.field(name));
        // `stable/updates` once was a suite whose file said `stable`.
        if [suite.name.as_str(), suite.name.split('/').next().unwrap_or_default()].iter().any(|name| names.contains(name)) {
            return Ok(());
        }
        Err(Error::new(format!("{url} is of the suite {} ({}), not of {}", names[0], names[1], suite.name)).next(CHECK_MIRROR))
    }

    /// When the suite was dated, which must be neither too long ago nor yet to come.
    fn date(&self, url: &str, now: Moment) -> Result<Moment> {
        let read = |name: &str| match self.field(name) {
            "" => Ok(None),
            text => Moment::from_release(text).map(Some).map_err(|error| error.doing(format!("reading {url}"))),
        };
        let date = read("Date")?.ok_or_else(|| Error::new(format!("{url} is not dated")))?;
        let why = match read("Valid-Until")? {
            Some(end) if end < now => format!("was valid until {end}"),
            _ if date.unix() > now.unix() + AHEAD => format!("is dated {date}"),
            _ => return Ok(date),
        };
        Err(Error::new(format!("the archive is out of date: {url} {why}, and this machine's clock says {now}"))
            .next("use a mirror that is up to date, and check this machine's clock"))
    }

    /// The lists of a suite's components, by path without their form. What has packages of every architecture is apart in some archives.
    fn lists(&self, suite: &Suite, architecture: &Word, url: &str) -> Result<Vec<String>> {
        let words = |name: &str| self.field(name).split_whitespace().collect::<Vec<_>>();
        let known = |list: &String| FORMS.iter().any(|form| self.files.contains_key(format!("{list}{form}").as_str()));
        let mut found = Vec::new();
        for component in &suite.components {
            let list = |architecture: &str| format!("{component}/binary-{architecture}/Packages");
            let own = list(architecture.as_str());
            if !known(&own) {
                let (components, architectures) = (words("Components"), words("Architectures"));
                return Err(Error::new(format!(
                    "the suite {} has no packages of {component} for {architecture}: {url} names the components {} and the architectures {}",
                    suite.name,
                    components.join(", "),
                    architectures.join(", ")
                ))
                .next("write components and an architecture that the suite has in the release"));
            }
            found.push(own);
            let apart = words("Architectures").contains(&"all") && self.field("No-Support-for-Architecture-all") != "Packages";
            found.extend(Some(list("all")).filter(|all| apart && known(all)));
        }
        Ok(found)
    }

    /// A list's bytes, which are the signed ones, and the path that it has.
    fn get(&self, getter: &Getter, url: &str, list: &str) -> Result<(Vec<u8>, String)> {
        for form in FORMS {
            let path = format!("{list}{form}");
            let Some((digest, size)) = self.files.get(path.as_str()) else { continue };
            let by_digest = path.rsplit_once('/').map(|(folder, _)| format!("{folder}/by-hash/SHA256/{}", digest.hex()));
            let by_digest = by_digest.filter(|_| self.field("Acquire-By-Hash") == "yes");
            for place in by_digest.into_iter().chain([path.clone()]) {
                let url = format!("{url}/{place}");
                let Some(bytes) = getter.get(&url).map_err(|error| error.next(CHECK_MIRROR))? else { continue };
                let (found, length) = (Digest::of(&bytes), bytes.len() as u64);
                if (&found, &length) != (digest, size) {
                    return Err(Error::new(format!(
                        "{url} has {length} bytes with {found}, its signed InRelease says {size} bytes with {digest}"
                    ))
                    .next("if the mirror is just being updated, try again in some minutes; otherwise name another one below [mirror] in site.toml"));
                }
                return Ok((bytes, path));
            }
        }
        Err(Error::new(format!("{url}/{list} is not there, though its InRelease names it")).next(CHECK_MIRROR))
    }
}

fn unpacked(packed: &[u8], path: &str) -> std::io::Result<String> {
    let mut text = String::new();
    match path.rsplit_once('.').map(|(_, form)| form) {
        Some("xz") => liblzma::read::XzDecoder::new_multi_decoder(packed).read_to_string(&mut text)?,
        Some("gz") => flate2::read::MultiGzDecoder::new(packed).read_to_string(&mut text)?,
        _ => (&mut &packed[..]).read_to_string(&mut text)?,
    };
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A suite's file and folder: `main` in two forms, by digest or by name; packages of every architecture apart.
    fn suite(folder: &Path, fields: &str, files: &[(&str, &[u8])]) -> String {
        let mut text =
            format!("Suite: stable\nCodename: trixie\nDate: Sat, 01 Jun 2024 10:00:00 UTC\n{fields}MD5Sum:\n 00 1 a\nSHA256:\n");
        for (path, bytes) in files {
            text += &format!(" {} {} {path}\n", Digest::of(bytes).hex(), bytes.len());
            fs::write_atomic(&folder.join(path), bytes).unwrap();
        }
        text
    }

    fn release(component: &str) -> Suite {
        let text = format!("name = \"trixie\"\narchive = \"debian\"\ncomponents = [\"{component}\"]\n");
        toml::from_str(&text).unwrap()
    }

    fn packed() -> [Vec<u8>; 2] {
        use std::io::Write;
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 0);
        xz.write_all(b"Package: a\n").unwrap();
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(b"Package: a\n").unwrap();
        [xz.finish().unwrap(), gz.finish().unwrap()]
    }

    #[test]
    fn the_smallest_form_that_the_mirror_has_is_taken_by_digest_where_the_suite_offers_it() {
        let folder = tempfile::tempdir().unwrap();
        let [xz, gz] = packed();
        let (xz_path, gz_path) = ("main/binary-amd64/Packages.xz", "main/binary-amd64/Packages.gz");
        let text = suite(folder.path(), "Acquire-By-Hash: yes\n", &[(gz_path, &gz), (xz_path, &xz)]);
        let file = SuiteFile::read(&text).unwrap();
        let get = || {
            let (bytes, path) =
                file.get(&Getter::new(), &format!("file://{}", folder.path().display()), "main/binary-amd64/Packages")?;
            assert_eq!(unpacked(&bytes, &path).unwrap(), "Package: a\n");
            Ok::<_, Error>(path)
        };
        assert_eq!(get().unwrap(), xz_path);
        // The mirror has a newer list under the name, and keeps the older one under its digest.
        fs::write_atomic(&folder.path().join(xz_path), b"newer").unwrap();
        assert!(get().unwrap_err().to_string().contains("Packages.xz has 5 bytes with "));
        let by_digest = format!("main/binary-amd64/by-hash/SHA256/{}", Digest::of(&xz).hex());
        fs::write_atomic(&folder.path().join(by_digest), &xz).unwrap();
        assert_eq!(get().unwrap(), xz_path);
        let other = folder.path().join("main");
        std::fs::remove_dir_all(&other).unwrap();
        fs::write_atomic(&folder.path().join(gz_path), &gz).unwrap();
        assert_eq!(get().unwrap(), gz_path);
    }

    #[test]
    fn packages_of_every_architecture_are_looked_for_where_an_archive_keeps_them_apart() {
        let folder = tempfile::tempdir().unwrap();
        let files: &[(&str, &[u8])] = &[("main/binary-all/Packages", b""), ("main/binary-amd64/Packages.xz", b"")];
        let lists = |fields: &str, component: &str| {
            let text = suite(folder.path(), fields, files);
            let amd64 = "amd64".parse().unwrap();
            SuiteFile::read(&text).unwrap().lists(&release(component), &amd64, "URL").map_err(|error| error.to_string())
        };
        let (all, own) = ("main/binary-all/Packages".to_string(), "main/binary-amd64/Packages".to_string());
        assert_eq!(lists("Architectures: all amd64\n", "main"), Ok(vec![own.clone(), all]));
        assert_eq!(lists("Architectures: all amd64\nNo-Support-for-Architecture-all: Packages\n", "main"), Ok(vec![own]));
        assert_eq!(
            lists("Architectures: all amd64\nComponents: main\n", "contrib"),
            Err("the suite trixie has no packages of contrib for amd64: URL names the components main and the architectures all, \
                 amd64\n  next: write components and an architecture that the suite has in the release"
                .to_string())
        );
    }

    #[test]
    fn a_suite_counts_until_its_date_and_under_either_of_its_names() {
        let folder = tempfile::tempdir().unwrap();
        let text = suite(folder.path(), "Valid-Until: Sat, 08 Jun 2024 10:00:00 UTC\n", &[]);
        let file = SuiteFile::read(&text).unwrap();
        let date = |now: &str| file.date("URL", now.parse().unwrap()).map_err(|error| error.cause().to_string());
        assert_eq!(date("2024-06-08T10:00:00Z").unwrap().to_string(), "2024-06-01T10:00:00Z");
        assert_eq!(
            date("2024-06-08T10:00:01Z").unwrap_err(),
            "the archive is out of date: URL was valid until 2024-06-08T10:00:00Z, and this machine's clock says 2024-06-08T10:00:01Z"
        );
        for (name, taken) in [("trixie", true), ("stable", true), ("stable/updates", true), ("bookworm", false)] {
            assert_eq!(file.is_of(&Suite { name: name.to_string(), ..release("main") }, "URL").is_ok(), taken, "{name}");
        }
    }
}
