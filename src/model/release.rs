//! `recipes/releases/<name>.toml`: a distribution, an OpenStack series and a package backend.

use super::Source;
use crate::base::error::{Error, Result};
use crate::base::name::{PackageName, Word};
use crate::base::path::RelPath;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A release as data: everything that differs between distributions and is no component's business.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// For people: "Debian 13 with OpenStack 2025.1 (Epoxy)".
    pub title: String,
    /// Which package tools and formats it uses.
    pub backend: Backend,
    /// The distribution's name of the machine architecture.
    pub architecture: Word,
    /// The public keys that the archive's signatures are checked against: a file below `recipes/`, or an absolute path.
    #[serde(default)]
    pub keyring: Option<String>,
    /// Where packages come from.
    #[serde(default, rename = "suite")]
    pub suites: Vec<Suite>,
    /// How packages of the backend rpm are laid down; such a release has it.
    #[serde(default)]
    pub rpm: Option<Rpm>,
    /// Package sets that belong to no overlay.
    pub packages: Packages,
    /// Kernel packages by flavour; a recipe's `kernel` picks one.
    #[serde(default)]
    pub kernel: BTreeMap<Word, Vec<PackageName>>,
    /// Accounts with fixed numbers, made before any package is configured, so that state outlives reimaging.
    #[serde(default, rename = "user")]
    pub users: Vec<User>,
    /// Groups with fixed numbers that have no user of the same name.
    #[serde(default, rename = "group")]
    pub groups: Vec<Group>,
    /// Numbers of users that the distribution itself fixes, for owners of files.
    #[serde(default)]
    pub base_users: BTreeMap<String, u32>,
    /// Numbers of groups that the distribution itself fixes.
    #[serde(default)]
    pub base_groups: BTreeMap<String, u32>,
    /// How maintainer scripts run.
    #[serde(default)]
    pub configure: Configure,
    /// What maintainer scripts leave behind and no layer may hold.
    #[serde(default)]
    pub clean: Clean,
    /// How layers of packages are stored.
    #[serde(default)]
    pub compression: Compression,
    /// What no layer of packages may hold.
    #[serde(default, rename = "forbid")]
    pub forbidden: Vec<Forbidden>,
    /// What the initrd carries.
    #[serde(default)]
    pub initrd: Initrd,
}

/// Which package tools a release uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// apt and dpkg.
    Deb,
    /// dnf and rpm.
    Rpm,
}

/// One suite of an archive: for rpm, one repository.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    /// The suite's name below `dists/`; a repository's own name.
    pub name: String,
    /// Which archive has it: a key of the site's `[mirror]` table.
    pub archive: Word,
    /// deb: the components taken from it.
    #[serde(default)]
    pub components: Vec<String>,
    /// rpm: where the repository is, below the archive's URL.
    #[serde(default)]
    pub path: Option<RelPath>,
    /// rpm: of what several repositories have, the one with the smallest number is taken, whatever the versions.
    #[serde(default = "usual_priority")]
    pub priority: u32,
    /// rpm: packages that are not taken from it; shell patterns of names.
    #[serde(default)]
    pub exclude: Vec<String>,
}

fn usual_priority() -> u32 {
    99
}

/// How packages of the backend rpm are laid down.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Rpm {
    /// Packages of the base that are there before accounts with fixed numbers are added: what has the files of accounts,
    /// and a shell with what it needs. They are installed without asking for what else they depend on.
    pub first: Vec<PackageName>,
    /// The folder of rpm's database.
    pub database: RelPath,
    /// rpm's macros, for instance `_install_langs`.
    #[serde(default)]
    pub macros: BTreeMap<String, String>,
    /// The image's own rpm writes the database once more, because it is older than the one of the tools and reads another form.
    #[serde(default)]
    pub own_database: bool,
}

/// Package sets that belong to no overlay.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Packages {
    /// The minimal system, besides the distribution's essential packages.
    pub base: Vec<PackageName>,
    /// What writes the image (filesystems, boot loader); unpacked beside the image, never in it.
    #[serde(default)]
    pub tools: Vec<PackageName>,
    /// What resolves dependencies (apt; for rpm dnf's library); unpacked beside the image, never in it.
    #[serde(default)]
    pub solver: Vec<PackageName>,
    /// What blank machines start by: boot loaders of the network and what writes media; unpacked beside the image, never in it.
    #[serde(default)]
    pub loaders: Vec<PackageName>,
    /// The release (of the backend deb) whose archives have tools and solver. These are unpacked Debian packages, so a release of
    /// another backend needs it.
    #[serde(default)]
    pub tools_from: Option<Word>,
}

/// An account with fixed numbers.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// Login name. A group of the same name gets `gid`, unless a group of that number exists already.
    pub name: String,
    /// User number.
    pub uid: u32,
    /// Group number.
    pub gid: u32,
    /// Home directory; not created.
    #[serde(default = "no_home")]
    pub home: String,
    /// Login shell.
    #[serde(default = "no_shell")]
    pub shell: String,
    /// Further groups that list the user.
    #[serde(default)]
    pub groups: Vec<String>,
}

fn no_home() -> String {
    "/nonexistent".to_string()
}

fn no_shell() -> String {
    "/usr/sbin/nologin".to_string()
}

/// A group with a fixed number.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Group name.
    pub name: String,
    /// Group number.
    pub gid: u32,
}

/// How maintainer scripts run. What hundreds of them wait for can be done beside them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Configure {
    /// Programs of the root, and the helper (a file of `recipes/helpers/`) that is called instead while packages are configured.
    /// The program itself is then below `/run/ostack/replaced`.
    /// A helper that leaves work to `beside` writes to `/run/ostack/calls`.
    #[serde(default)]
    pub replace: BTreeMap<RelPath, Word>,
    /// The helper that runs beside, from the first such call on. Its standard input is what was written, and ends with the last
    /// package; it is waited for. `/run/ostack/kept` has what it has left in `/run/ostack/made` in earlier builds: files named
    /// `KEY-SHA256`, by a key of all that their bytes depend on, and by their digest.
    #[serde(default)]
    pub beside: Option<Word>,
    /// Environment variables of all that runs in the root.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Whether dpkg unpacks every package, one after the other. Without it those are laid down side by side for which that leaves the
    /// same tree.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dpkg_unpacks: bool,
    /// The helpers' bytes, read with the release. Serialized, because they are part of what a root is made from.
    #[serde(default, skip_deserializing)]
    pub helpers: BTreeMap<Word, Vec<u8>>,
}

/// How the files of a layer are stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// As they are: for kernels that read no other, and for a few small files.
    None,
    /// By zstd. Needs Linux 6.10 or newer to read.
    #[default]
    Zstd,
}

impl Compression {
    /// The word that a release has for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Zstd => "zstd",
        }
    }
}

/// What is taken out of a layer after its packages are configured. Shell patterns, absolute.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Clean {
    /// Files and whole directories that go.
    #[serde(default)]
    pub remove: Vec<String>,
    /// Directories that stay, with their owner and mode, but empty.
    #[serde(default)]
    pub empty: Vec<String>,
    /// Files that stay, but without content.
    #[serde(default)]
    pub truncate: Vec<String>,
    /// Folders of which only the files of these names stay, with the folders that hold them: what has no use on a node.
    #[serde(default)]
    pub prune: BTreeMap<String, Vec<String>>,
    /// JSON files whose objects their writers leave in no order: they are written again with sorted keys.
    #[serde(default)]
    pub sort_json: Vec<String>,
}

/// Files that a layer may not hold, because they would make all nodes one or were different in the next build. A build that leaves
/// one behind fails: `[clean]` is what takes them out.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Forbidden {
    /// Which files: shell patterns, absolute; `**` is any number of folders.
    pub paths: Vec<String>,
    /// Only those with this somewhere in them: a regular expression over bytes, in which `.` is any byte.
    #[serde(default)]
    pub content: Option<String>,
    /// What they are, and why no image may have them.
    pub why: String,
}

impl Forbidden {
    /// The patterns, each with its text.
    ///
    /// # Errors
    /// One is none, or not absolute.
    pub fn patterns(&self) -> Result<Vec<(&str, glob::Pattern)>> {
        let pattern = |path: &'_ String| {
            glob::Pattern::new(path).ok().filter(|_| path.starts_with('/')).ok_or_else(|| {
                Error::new(format!("`{path}` is no absolute path or pattern")).next("write one such as \"/var/log/**\"")
            })
        };
        self.paths.iter().map(|path| Ok((path.as_str(), pattern(path)?))).collect()
    }

    /// The expression.
    ///
    /// # Errors
    /// It is none.
    pub fn expression(&self) -> Result<Option<regex::bytes::Regex>> {
        let build = |text: &String| {
            regex::bytes::RegexBuilder::new(text).unicode(false).dot_matches_new_line(true).build().map_err(|why| {
                let why = why.to_string();
                let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ");
                Error::new(format!("`{text}` is no regular expression: {why}"))
                    .next("write one such as '^-----BEGIN', between single quotes")
            })
        };
        self.content.as_ref().map(build).transpose()
    }
}

/// What the initrd carries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Initrd {
    /// Per kernel flavour: modules by name, or folders below `kernel/` ending in `/`; what they depend on comes along.
    #[serde(default)]
    pub modules: BTreeMap<Word, Vec<String>>,
    /// Per kernel flavour, in the same form: what an installer needs besides, which is network cards.
    #[serde(default)]
    pub network: BTreeMap<Word, Vec<String>>,
    /// Modules to load before looking for devices.
    #[serde(default)]
    pub load: Vec<String>,
    /// The kernel command line, without the image's digest.
    #[serde(default)]
    pub command_line: Vec<String>,
    /// Where the root has the kernel; `*` stands for its version.
    #[serde(default)]
    pub kernel: Option<RelPath>,
}

/// Reads a release.
///
/// # Errors
/// With file and line: an unknown key, or one that the backend cannot do without or knows nothing of.
pub fn parse(source: &Source<'_>) -> Result<Release> {
    let release: Release = source.toml()?;
    let lines = source.lines();
    for (index, suite) in release.suites.iter().enumerate() {
        let at = |error: Error| error.at(source.file, lines.of(&["suite", &index.to_string(), "name"]));
        let name = &suite.name;
        match release.backend {
            Backend::Deb if suite.components.is_empty() => {
                return Err(at(Error::new(format!("the suite {name} has no components"))).next("write components = [\"main\"]"));
            }
            Backend::Deb if suite.path.is_some() || !suite.exclude.is_empty() || suite.priority != usual_priority() => {
                return Err(at(Error::new(format!("the suite {name} has keys of an rpm repository")))
                    .next("take path, priority and exclude out"));
            }
            Backend::Rpm if suite.path.is_none() => {
                return Err(at(Error::new(format!("the repository {name} has no path")))
                    .next("write path = \"/…\", where it is below the archive's URL"));
            }
            Backend::Rpm if !suite.components.is_empty() => {
                return Err(at(Error::new(format!("the repository {name} has components"))).next("take them out"));
            }
            Backend::Deb | Backend::Rpm => {}
        }
    }
    for (index, one) in release.forbidden.iter().enumerate() {
        let at = |key: &str, error: Error| error.at(source.file, lines.of(&["forbid", &index.to_string(), key]));
        one.patterns().map_err(|error| at("paths", error))?;
        one.expression().map_err(|error| at("content", error))?;
    }
    if release.backend == Backend::Rpm {
        if release.rpm.is_none() {
            return Err(Error::new("a release with backend = \"rpm\" has no [rpm]")
                .at(source.file, lines.of(&["backend"]))
                .next("write [rpm] with first = [\"…\"] and database = \"/var/lib/rpm\""));
        }
        let Packages { tools, solver, tools_from, .. } = &release.packages;
        let apart = [("tools", tools), ("solver", solver)].into_iter().find(|(_, names)| !names.is_empty());
        if let (Some((key, _)), None) = (apart, tools_from) {
            return Err(Error::new(format!("{key} are unpacked Debian packages, which this release has not"))
                .at(source.file, lines.of(&["packages", key]))
                .next("write tools_from = \"…\", the name of a release that has them"));
        }
    }
    Ok(release)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const RPM: &str = "title = \"R\"\nbackend = \"rpm\"\narchitecture = \"x86_64\"\npackages = { base = [] }\n\n[[suite]]\nname = \"os\"\n\
        archive = \"vault\"\npath = \"/os/x86_64\"\n\n[rpm]\nfirst = [\"setup\", \"bash\"]\ndatabase = \"/var/lib/rpm\"\n";

    fn read(text: &str) -> Result<Release> {
        parse(&Source { file: Path::new("r.toml"), text })
    }

    #[test]
    fn a_repository_has_a_path_and_the_usual_priority() {
        let release = read(RPM).unwrap();
        let [suite] = &release.suites[..] else { panic!("{release:?}") };
        assert_eq!((suite.path.as_ref().map(RelPath::as_str), suite.priority, suite.exclude.len()), (Some("os/x86_64"), 99, 0));
        assert_eq!(release.rpm.unwrap().database.as_str(), "var/lib/rpm");
    }

    #[test]
    fn what_is_forbidden_is_said_by_patterns_and_expressions() {
        let rule = |line: &str| format!("{RPM}\n[[forbid]]\nwhy = \"w\"\n{line}\n");
        let release = read(&rule("paths = [\"/**/*.pyc\"]\ncontent = '\\A.{4}\\x00'")).unwrap();
        assert!(release.forbidden[0].expression().unwrap().unwrap().is_match(b"\xff\n\x00\x01\x00"));
        let cases = [
            ("paths = [\"var\"]", "r.toml:17: `var` is no absolute path or pattern\n  next: write one such as \"/var/log/**\""),
            ("paths = [\"/a**\"]", "r.toml:17: `/a**` is no absolute path or pattern\n  next: write one such as \"/var/log/**\""),
            (
                "paths = []\ncontent = '('",
                "r.toml:18: `(` is no regular expression: unclosed group\n  next: write one such as '^-----BEGIN', between single quotes",
            ),
        ];
        for (line, expected) in cases {
            assert_eq!(read(&rule(line)).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn what_a_backend_lacks_or_does_not_know_is_an_error_at_its_line() {
        let deb = RPM.replace("\"rpm\"", "\"deb\"");
        let cases = [
            (
                RPM.replace("path = \"/os/x86_64\"\n", ""),
                "r.toml:7: the repository os has no path\n  next: write path = \"/…\", where it is below the archive's URL",
            ),
            (
                RPM.replace("path =", "components = [\"main\"]\npath ="),
                "r.toml:7: the repository os has components\n  next: take them out",
            ),
            (
                RPM.split("[rpm]").next().unwrap().to_string(),
                "r.toml:2: a release with backend = \"rpm\" has no [rpm]\n  next: write [rpm] with first = [\"…\"] and database = \"/var/lib/rpm\"",
            ),
            (
                RPM.replace("base = []", "base = [], tools = [\"mkfs\"]"),
                "r.toml:4: tools are unpacked Debian packages, which this release has not\n  \
              next: write tools_from = \"…\", the name of a release that has them",
            ),
            (deb.clone(), "r.toml:7: the suite os has no components\n  next: write components = [\"main\"]"),
            (
                deb.replace("path =", "components = [\"main\"]\npath ="),
                "r.toml:7: the suite os has keys of an rpm repository\n  next: take path, priority and exclude out",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(read(&text).unwrap_err().to_string(), expected);
        }
    }
}
