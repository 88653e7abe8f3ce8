//! `recipes/releases/<name>.toml`: a distribution, an OpenStack series and a package backend.

use super::Source;
use crate::base::error::Result;
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
    /// Keyring that the archive's signatures are checked against (a file of the build machine).
    #[serde(default)]
    pub keyring: Option<String>,
    /// Where packages come from.
    #[serde(default, rename = "suite")]
    pub suites: Vec<Suite>,
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

/// One suite of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    /// The suite's name below `dists/`.
    pub name: String,
    /// Which archive has it: a key of the site's `[mirror]` table.
    pub archive: Word,
    /// The components taken from it.
    pub components: Vec<String>,
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

/// How maintainer scripts run. What hundreds of them do each for itself can be put off and done once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Configure {
    /// Programs of the root, and the helper (a file of `recipes/helpers/`) that is called instead while packages are configured.
    /// A helper that puts work off writes to `/run/ostack/deferred/calls`.
    #[serde(default)]
    pub replace: BTreeMap<RelPath, Word>,
    /// The helper that runs after the last package, if calls were put off.
    #[serde(default)]
    pub finish: Option<Word>,
    /// Environment variables of all that runs in the root.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The helpers' bytes, read with the release. Serialized, because they are part of what a root is made from.
    #[serde(default, skip_deserializing)]
    pub helpers: BTreeMap<Word, Vec<u8>>,
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
    /// JSON files whose objects their writers leave in no order: they are written again with sorted keys.
    #[serde(default)]
    pub sort_json: Vec<String>,
}

/// What the initrd carries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Initrd {
    /// Per kernel flavour: modules by name, or folders below `kernel/` ending in `/`; what they depend on comes along.
    #[serde(default)]
    pub modules: BTreeMap<Word, Vec<String>>,
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
/// With file and line.
pub fn parse(source: &Source<'_>) -> Result<Release> {
    source.toml()
}
