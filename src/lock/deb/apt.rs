//! The build machine's `apt-get` in a folder of its own: it sees the release's suites, the release's
//! keyring and an empty system, and nothing of the machine's own apt configuration.

use crate::base::digest::Digest;
use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use crate::base::name::Word;
use crate::base::tool::Tool;
use crate::lock::LockedSuite;
use crate::lock::date::Moment;
use crate::lock::mirror::Mirrors;
use crate::model::release::{Release, Suite};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What of the caller's environment apt sees: where to find programs and proxies.
const ENVIRONMENT: [&str; 7] = ["PATH", "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"];

/// How much of apt's own words an error shows, in lines.
const WORDS_LINES: usize = 30;

/// An apt that knows nothing but the suites of one release.
pub(super) struct Apt<'a> {
    folder: tempfile::TempDir,
    suites: &'a [Suite],
    keyring: &'a str,
}

/// A verified `Packages` list.
pub(super) struct List {
    /// Index of its suite in the release.
    pub suite: usize,
    /// Where its text is.
    pub path: PathBuf,
}

/// A package that apt would install.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Install {
    pub name: String,
    pub version: String,
    pub arch: String,
}

impl<'a> Apt<'a> {
    /// Lays the folder out; nothing is downloaded yet.
    pub fn new(release: &'a Release, mirrors: &Mirrors) -> Result<Self> {
        let Some(keyring) = release.keyring.as_deref() else {
            return Err(Error::new("the release names no keyring, so that no archive could be verified")
                .next("write keyring = \"/usr/share/keyrings/….gpg\" in the release"));
        };
        fs::must_exist(
            Path::new(keyring),
            "the release's keyring",
            "install the distribution's keyring package (for Debian: apt-get install debian-archive-keyring), or name its file in the release",
        )?;
        let folder = tempfile::Builder::new().prefix("ostack-lock-").tempdir().doing(|| "creating a temporary folder for apt")?;
        let apt = Self { folder, suites: &release.suites, keyring };
        for name in ["etc/apt.conf.d", "etc/auth.conf.d", "etc/preferences.d", "etc/sources.list.d", "etc/trusted.gpg.d"] {
            fs::create_dir_all(&apt.path(name))?;
        }
        for name in ["state/lists/partial", "cache/archives/partial", "log"] {
            fs::create_dir_all(&apt.path(name))?;
        }
        apt.put("state/status", "")?;
        apt.put("apt.conf", &configuration(apt.folder.path(), &release.architecture))?;
        for (number, suite) in release.suites.iter().enumerate() {
            let url = mirrors.of(&suite.archive)?.first().map(String::as_str).unwrap_or_default();
            // apt would link the lists of a file:// archive, which could change after they were verified.
            let url = url.replacen("file://", "copy:", 1);
            let (name, components) = (&suite.name, suite.components.join(" "));
            let architecture = &release.architecture;
            let text = format!(
                "Types: deb\nURIs: {url}\nSuites: {name}\nComponents: {components}\n\
                 Architectures: {architecture}\nSigned-By: {keyring}\n"
            );
            apt.put(&source_file(number), &text)?;
        }
        Ok(apt)
    }

    /// Downloads and verifies the lists of every suite.
    ///
    /// # Errors
    /// A suite is not there, not signed with the keyring, outdated, or its lists are not the signed ones.
    pub fn update(&self) -> Result<()> {
        let (success, text) = self.run(&["update"])?;
        if success {
            return Ok(());
        }
        let words = complaints(&text);
        let error = if ["is not signed", "NO_PUBKEY", "BADSIG", "signatures were invalid"].iter().any(|sign| text.contains(sign))
        {
            Error::new(format!("the archive's signature did not verify against {}:\n{words}", self.keyring))
                .next("check that the mirror is the distribution's own and that the release's keyring has its current keys")
        } else if ["is expired", "is not valid yet"].iter().any(|sign| text.contains(sign)) {
            Error::new(format!("the archive is out of date:\n{words}"))
                .next("use a mirror that is up to date, and check this machine's clock")
        } else {
            Error::new(format!("apt could not get the archive's lists:\n{words}"))
                .next("check the mirror: [mirror] in site.toml, --mirror, or this machine's apt sources")
        };
        Err(error)
    }

    /// The lists of every suite, after [`Apt::update`]. A suite without packages has none.
    pub fn lists(&self) -> Result<Vec<List>> {
        let (success, text) = self.run(&["indextargets", "--format", "$(CREATED_BY) $(SOURCESENTRY) $(FILENAME)"])?;
        if !success {
            return Err(Error::new(format!("apt could not say where its lists are:\n{}", complaints(&text))));
        }
        let mut lists = Vec::new();
        for line in text.lines() {
            let mut words = line.splitn(3, ' ');
            let (Some("Packages"), Some(entry), Some(path)) = (words.next(), words.next(), words.next()) else { continue };
            let of_entry = |number: &usize| entry.contains(&source_file(*number));
            let suite = (0..self.suites.len()).find(of_entry);
            let suite = suite.ok_or_else(|| Error::new(format!("apt has a list of an unknown source: {line}")))?;
            lists.push(List { suite, path: PathBuf::from(path) });
        }
        lists.sort_by(|a, b| (a.suite, &a.path).cmp(&(b.suite, &b.path)));
        Ok(lists)
    }

    /// What the verified `Release` file of each suite says, in the release's order.
    pub fn suites(&self, mirrors: &Mirrors) -> Result<Vec<LockedSuite>> {
        let mut suites = Vec::new();
        for suite in self.suites {
            let url = mirrors.of(&suite.archive)?.first().map(String::as_str).unwrap_or_default();
            let stem = self.path("state/lists").join(list_stem(url, &suite.name));
            let found = ["InRelease", "Release"].map(|kind| PathBuf::from(format!("{}_{kind}", stem.display())));
            let Some(path) = found.iter().find(|path| path.exists()) else {
                return Err(Error::new(format!("apt kept no Release file of the suite {}", suite.name)));
            };
            let text = fs::read_text(path)?;
            let date = text.lines().find_map(|line| line.strip_prefix("Date:"));
            let date = date.ok_or_else(|| Error::new(format!("the suite {} is not dated", suite.name)))?;
            suites.push(LockedSuite {
                name: suite.name.clone(),
                archive: suite.archive.clone(),
                date: Moment::from_release(date.trim())
                    .map_err(|error| error.doing(format!("reading the suite {}", suite.name)))?,
                sha256: Digest::of(&text),
                signed: true,
            });
        }
        Ok(suites)
    }

    /// Makes apt take these versions (name -> version) even where newer ones are there.
    pub fn pin(&self, pins: &BTreeMap<&str, &str>) -> Result<()> {
        let mut text = String::new();
        for (name, version) in pins {
            text.push_str(&format!("Package: {name}\nPin: version {version}\nPin-Priority: 1001\n\n"));
        }
        self.put("etc/preferences", &text)
    }

    /// What installing `names` into an empty system would install, by apt's solver.
    ///
    /// # Errors
    /// There is no solution: in apt's own words.
    pub fn solve(&self, names: &[&str]) -> Result<Vec<Install>> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        // A simulation would also work out in which order to unpack, which takes apt eight times as long.
        let mut args = vec!["--print-uris", "install", "--"];
        args.extend(names);
        let (success, text) = self.run(&args)?;
        if !success {
            let words = match text.find("The following packages have unmet dependencies:") {
                Some(start) => shortened(text[start..].lines()),
                None => complaints(&text),
            };
            return Err(Error::new(format!("apt finds no solution:\n{words}")));
        }
        text.lines().filter(|line| line.starts_with('\'')).map(install).collect()
    }

    /// Runs apt-get; gives whether it succeeded, and everything it said in order.
    fn run(&self, args: &[&str]) -> Result<(bool, String)> {
        let mut tool = Tool::new("apt-get").package("apt").args(args).clear_env().env("LC_ALL", "C.UTF-8");
        tool = tool.env("APT_CONFIG", self.path("apt.conf"));
        for name in ENVIRONMENT {
            if let Some(value) = std::env::var_os(name) {
                tool = tool.env(name, value);
            }
        }
        let log = self.path("said");
        let handle = tool.start(&log)?;
        let output = handle.wait().doing(|| "waiting for apt-get")?;
        let text = fs::read(&log)?;
        Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn put(&self, name: &str, text: &str) -> Result<()> {
        fs::write_atomic(&self.path(name), text.as_bytes())
    }
}

fn source_file(number: usize) -> String {
    format!("etc/sources.list.d/suite-{number}.sources")
}

/// apt's configuration. It is read before the folders that it names, so that the machine's own are not.
fn configuration(folder: &Path, architecture: &Word) -> String {
    let folder = folder.display();
    format!(
        r#"Dir "{folder}";
Dir::Etc "{folder}/etc";
Dir::State "{folder}/state";
Dir::State::status "{folder}/state/status";
Dir::Cache "{folder}/cache";
Dir::Log "{folder}/log";
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::Solver "internal";
// An unprivileged user could not enter this folder, and in a user namespace there is none.
APT::Sandbox::User "root";
APT::Get::Assume-Yes "true";
// A suite that cannot be had is an error, not a warning.
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::GzipIndexes "false";
Acquire::Retries "3";
quiet "1";
"#
    )
}

/// How apt names what it keeps of a suite: the URL without its scheme, quoted, slashes as underscores.
fn list_stem(url: &str, suite: &str) -> String {
    let place = url.split_once("://").map_or(url, |(_, place)| place);
    // User names and passwords of a URL are not in the name.
    let place = match place.split_once('/') {
        Some((host, path)) => format!("{}/{path}", host.rsplit('@').next().unwrap_or_default()),
        None => place.rsplit('@').next().unwrap_or_default().to_string(),
    };
    let mut stem = String::new();
    for c in format!("{place}/dists/{suite}").chars() {
        match c {
            '/' => stem.push('_'),
            c if "\\|{}[]<>\"^~_=!@#$%^&*".contains(c) => stem.push_str(&format!("%{:02x}", c as u32)),
            c => stem.push(c),
        }
    }
    stem
}

/// `'URI' NAME_VERSION_ARCH.deb SIZE HASH`. apt percent-encodes what would be mistaken within the three parts.
fn install(line: &str) -> Result<Install> {
    let read = || {
        let file = line.split_once("' ")?.1.split(' ').next()?;
        let (stem, _) = file.rsplit_once('.')?;
        let mut parts = stem.split('_').map(decoded);
        let one = Install { name: parts.next()??, version: parts.next()??, arch: parts.next()?? };
        parts.next().is_none().then_some(one)
    };
    read().ok_or_else(|| Error::new(format!("apt said what this program does not understand: {line}")))
}

/// Takes percent-encoding back.
fn decoded(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut plain = parts.next()?.to_string();
    for part in parts {
        let (code, rest) = part.split_at_checked(2)?;
        plain.push(char::from(u8::from_str_radix(code, 16).ok()?));
        plain.push_str(rest);
    }
    Some(plain)
}

/// apt's errors and warnings.
fn complaints(text: &str) -> String {
    let complaint = |line: &&str| ["E: ", "W: ", "   "].iter().any(|start| line.starts_with(start));
    shortened(text.lines().filter(complaint))
}

fn shortened<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    lines.take(WORDS_LINES).map(str::trim_end).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_machines_own_apt_configuration_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("apt.conf");
        let text = configuration(folder.path(), &"amd64".parse().unwrap());
        fs::write_atomic(&path, text.as_bytes()).unwrap();
        let dump = |variables: &[&str]| {
            let tool = Tool::new("apt-config").args(["shell"]).args(variables).clear_env().env("APT_CONFIG", &path);
            tool.env("PATH", std::env::var_os("PATH").unwrap())
                .run()
                .unwrap()
                .text()
                .replace(&folder.path().display().to_string(), "")
        };
        let folders = [
            "A",
            "Dir::Etc::parts/d",
            "B",
            "Dir::Etc::main/f",
            "C",
            "Dir::Etc::preferencesparts/d",
            "D",
            "Dir::Etc::trustedparts/d",
        ];
        assert_eq!(dump(&folders), "A='/etc/apt.conf.d/'\nB='/etc/apt.conf'\nC='/etc/preferences.d/'\nD='/etc/trusted.gpg.d/'\n");
        let folders = ["A", "Dir::State::lists/d", "B", "Dir::State::status/f", "C", "Dir::Cache::archives/d"];
        assert_eq!(dump(&folders), "A='/state/lists/'\nB='/state/status'\nC='/cache/archives/'\n");
    }

    #[test]
    fn what_apt_would_download_names_package_version_and_architecture() {
        let read =
            |line| install(line).map(|one| format!("{} {} {}", one.name, one.version, one.arch)).map_err(|e| e.to_string());
        assert_eq!(
            [
                read("'http://m/debian/pool/libc6_2.41-12%2bdeb13u4_amd64.deb' libc6_2.41-12+deb13u4_amd64.deb 2 SHA256:00"),
                read("'copy:/m/pool/zlib1g_1.3_amd64.deb' zlib1g_1%3a1.3_amd64.deb 2 "),
                read("'copy:/m/pool/a_b_c_d.deb' a_b_c_d.deb 2"),
            ],
            [
                Ok("libc6 2.41-12+deb13u4 amd64".to_string()),
                Ok("zlib1g 1:1.3 amd64".to_string()),
                Err("apt said what this program does not understand: 'copy:/m/pool/a_b_c_d.deb' a_b_c_d.deb 2".to_string()),
            ]
        );
    }

    #[test]
    fn a_lists_name_is_made_as_apt_makes_it() {
        assert_eq!(
            list_stem("http://u:p@mirror.example:8080/a_b/debian", "stable"),
            "mirror.example:8080_a%5fb_debian_dists_stable"
        );
        assert_eq!(list_stem("file:///srv/debian", "stable-updates"), "_srv_debian_dists_stable-updates");
    }
}
