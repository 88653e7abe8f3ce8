//! The solver's `apt-get` in a folder of its own: it sees the verified lists of the release's suites and an empty system,
//! and nothing else: no network, no other apt's configuration.

use super::archive::Archive;
use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use crate::base::name::Word;
use crate::lock::solver::Root;
use crate::model::release::Release;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How much of apt's own words an error shows, in lines.
const WORDS_LINES: usize = 30;

/// An apt that knows nothing but the suites of one release.
pub(super) struct Apt<'a> {
    root: &'a dyn Root,
    folder: tempfile::TempDir,
}

/// A package that apt would install.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Install {
    pub name: String,
    pub version: String,
    pub arch: String,
}

impl<'a> Apt<'a> {
    /// Lays the folder out and has apt read the suites' lists.
    ///
    /// # Errors
    /// The folder cannot be written, or apt does not take the lists: in its own words.
    pub fn new(release: &Release, archive: &Archive, root: &'a dyn Root) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("ostack-lock-").tempdir().doing(|| "creating a temporary folder for apt")?;
        let apt = Self { root, folder };
        for name in ["etc/apt.conf.d", "etc/auth.conf.d", "etc/preferences.d", "etc/sources.list.d", "etc/trusted.gpg.d"] {
            fs::create_dir_all(&apt.path(name))?;
        }
        for name in ["state/lists/partial", "cache/archives/partial", "log"] {
            fs::create_dir_all(&apt.path(name))?;
        }
        apt.put("state/status", "")?;
        let seen = root.sees(apt.folder.path());
        apt.put("apt.conf", &configuration(&seen, &release.architecture))?;
        archive.lay_out(&apt.path("archive"))?;
        for (number, suite) in release.suites.iter().enumerate() {
            let place = seen.join("archive").join(number.to_string());
            let (name, components, architecture) = (&suite.name, suite.components.join(" "), &release.architecture);
            // Signature and dates were checked when the lists were downloaded, by one rule for every version of apt, whose
            // verifiers (gpgv, sqv) have rules of their own. Digests apt checks again.
            let text = format!(
                "Types: deb\nURIs: copy:{}\nSuites: {name}\nComponents: {components}\nArchitectures: {architecture}\n\
                 Trusted: yes\nCheck-Valid-Until: no\nCheck-Date: no\nBy-Hash: no\n",
                place.display()
            );
            apt.put(&format!("etc/sources.list.d/suite-{number}.sources"), &text)?;
        }
        let (success, text) = apt.run(&["update"])?;
        if success {
            return Ok(apt);
        }
        Err(Error::new(format!("apt does not take the archive's lists:\n{}", complaints(&text)))
            .next("name another package of the solver below [packages] in the release"))
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
        let folder = self.folder.path();
        let configuration = self.root.sees(folder).join("apt.conf").display().to_string();
        let command = [&["apt-get"], args].concat();
        self.root.run(folder, &command, &[("APT_CONFIG", &configuration)])
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn put(&self, name: &str, text: &str) -> Result<()> {
        fs::write_atomic(&self.path(name), text.as_bytes())
    }
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
// A list that it cannot read is an error, not a warning.
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::GzipIndexes "false";
quiet "1";
"#
    )
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
    use crate::base::tool::Tool;

    #[test]
    fn no_other_configuration_of_apt_is_read() {
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
}
