//! `overlays/<component>/overlay.toml`: the only place that knows a component.

use super::Source;
use super::check::{self, CheckEntry};
use super::secret::{self, SecretEntry};
use super::step::{self, StepEntry};
use crate::base::error::{Error, Result};
use crate::base::name::{PackageName, UnitName, Word};
use crate::base::path::RelPath;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use toml::Spanned;

/// Values that templates see as `param.NAME`: an overlay's defaults, then the recipe's, then the site's.
pub type Parameters = BTreeMap<String, toml::Value>;

/// A component: packages, files, units, users, kernel settings and state.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Overlay {
    /// For people, one line.
    pub description: String,
    /// Packages by release name.
    #[serde(default)]
    pub packages: BTreeMap<Word, BTreeSet<PackageName>>,
    /// Defaults of the overlay's parameters. A recipe or a site can set only what is listed here.
    #[serde(default)]
    pub parameters: Parameters,
    /// Files, in any order.
    #[serde(default, rename = "file")]
    pub files: Vec<FileEntry>,
    /// Symbolic links.
    #[serde(default, rename = "link")]
    pub links: Vec<LinkEntry>,
    /// Directories that no file of the overlay implies, or that need an owner or a mode.
    #[serde(default, rename = "directory")]
    pub directories: Vec<DirectoryEntry>,
    /// systemd units.
    #[serde(default)]
    pub units: Units,
    /// Kernel settings: become one file in `/etc/sysctl.d`.
    #[serde(default)]
    pub sysctl: BTreeMap<String, toml::Value>,
    /// Kernel modules to load at boot: become one file in `/etc/modules-load.d`.
    #[serde(default)]
    pub modules: Vec<String>,
    /// Accounts of the overlay's own (those of packages are the release's), with fixed numbers.
    #[serde(default, rename = "user")]
    pub users: Vec<super::release::User>,
    /// Paths that outlive a reboot.
    #[serde(default, rename = "state")]
    pub state: Vec<StateEntry>,
    /// Units whose fate depends on the release or on an option.
    #[serde(default, rename = "unit")]
    pub unit: Vec<UnitEntry>,
    /// What must be drawn for a site.
    #[serde(default, rename = "secret")]
    pub secrets: Vec<SecretEntry>,
    /// Ports that peers may reach; everything else is closed.
    #[serde(default, rename = "port")]
    pub ports: Vec<PortEntry>,
    /// How the component's own program judges its files.
    #[serde(default, rename = "check")]
    pub checks: Vec<CheckEntry>,
    /// What a living node must do.
    #[serde(default, rename = "step")]
    pub steps: Vec<StepEntry>,
    /// Answers to packages' installation questions, in `debconf-set-selections` form, by release name.
    #[serde(default)]
    pub debconf: BTreeMap<Word, Vec<String>>,
}

/// A file of an overlay: exactly one of `template`, `source` and `content`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Where it goes.
    pub path: Spanned<RelPath>,
    /// A tera template in the overlay's `templates/` folder.
    pub template: Option<String>,
    /// A file in the overlay's `files/` folder, taken as it is.
    pub source: Option<String>,
    /// The content itself, taken as it is.
    pub content: Option<String>,
    /// `user:group`.
    #[serde(default = "root")]
    pub owner: Owner,
    /// Permission bits.
    #[serde(default = "mode_644")]
    pub mode: Mode,
    /// Whether it is the same on every node of the role.
    #[serde(default)]
    pub scope: Scope,
    /// Only in this release; every release by default.
    pub release: Option<Word>,
    /// Only where this tera expression is true, such as `option.tls`.
    pub when: Option<String>,
    /// The name of a list, such as `node.interfaces`: the file is there once for each element, which template, condition and
    /// path see as `item`.
    pub each: Option<String>,
    /// Allows replacing a file that an earlier overlay of the recipe writes.
    #[serde(default, rename = "override")]
    pub overrides: bool,
}

/// A symbolic link of an overlay.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LinkEntry {
    /// Where it goes.
    pub path: Spanned<RelPath>,
    /// What it points at, as written into the link.
    pub target: String,
    /// Only in this release.
    pub release: Option<Word>,
    /// Only where this tera expression is true, such as `option.tls`.
    pub when: Option<String>,
    /// Allows replacing what an earlier overlay of the recipe writes.
    #[serde(default, rename = "override")]
    pub overrides: bool,
}

/// A directory of an overlay.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DirectoryEntry {
    /// Where it goes.
    pub path: Spanned<RelPath>,
    /// `user:group`.
    #[serde(default = "root")]
    pub owner: Owner,
    /// Permission bits.
    #[serde(default = "mode_755")]
    pub mode: Mode,
    /// Only in this release.
    pub release: Option<Word>,
    /// Only where this tera expression is true, such as `option.tls`.
    pub when: Option<String>,
}

/// A path that outlives a reboot.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct StateEntry {
    /// The directory.
    pub path: Spanned<RelPath>,
    /// What becomes of it when the node is reimaged, and who can give it back.
    pub class: StateClass,
    /// `user:group` of a directory that the image does not have.
    #[serde(default = "root")]
    pub owner: Owner,
    /// Permission bits of a directory that the image does not have.
    #[serde(default = "mode_755")]
    pub mode: Mode,
    /// Only in this release.
    pub release: Option<Word>,
    /// Only where this tera expression is true, such as `option.tls`.
    pub when: Option<String>,
}

/// A unit whose fate depends on the release or on an option.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct UnitEntry {
    /// The unit.
    pub name: Spanned<UnitName>,
    /// What becomes of it.
    #[serde(rename = "do")]
    pub action: UnitAction,
    /// The target that it is enabled for, where that is not the usual one of its kind.
    pub wanted_by: Option<UnitName>,
    /// Only in this release.
    pub release: Option<Word>,
    /// Only where this tera expression is true.
    pub when: Option<String>,
}

/// What becomes of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum UnitAction {
    /// Started at boot.
    Enable,
    /// Can not be started at all.
    Mask,
}

/// Ports that peers may reach.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PortEntry {
    /// What listens, for people.
    pub name: Spanned<Word>,
    /// Numbers and ranges, separated by commas ("2379,2380", "5900-5999"); may be a template.
    pub ports: String,
    /// The transport.
    #[serde(default)]
    pub protocol: Protocol,
    /// Who may connect.
    pub from: Peers,
    /// At which of the node's addresses.
    #[serde(default)]
    pub at: At,
    /// Only in this release.
    pub release: Option<Word>,
    /// Only where this tera expression is true.
    pub when: Option<String>,
}

/// The addresses of a node at which a port may be reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum At {
    /// All.
    #[default]
    Any,
    /// The site's VIPs, while the node holds them.
    Vip,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

/// Who may connect to a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Peers {
    /// The controllers.
    Controllers,
    /// The compute nodes.
    Computes,
    /// The storage nodes.
    Storages,
    /// Every node of the site.
    Nodes,
    /// The management network.
    Management,
    /// Everybody.
    Any,
}

/// What becomes of a state path when the node is reimaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StateClass {
    /// Must survive: instances, OSDs, images.
    Data,
    /// Comes back from peers: databases, queues.
    Replicated,
    /// Makes the node itself: host keys, machine-id.
    Identity,
    /// Logs.
    Log,
    /// Can be made again.
    Cache,
}

/// Whether a file is the same on every node of the role, or belongs into the node's seed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// In the role's image; the template does not see `node`.
    #[default]
    Role,
    /// In the node's seed; the template sees `node`.
    Node,
}

/// What systemd shall do with units. A unit that no overlay names stays disabled.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Units {
    /// Started at boot.
    #[serde(default)]
    pub enable: Vec<UnitName>,
    /// Can not be started at all.
    #[serde(default)]
    pub mask: Vec<UnitName>,
    /// Enabled for another target than the usual one of its kind: unit -> target.
    #[serde(default)]
    pub wanted_by: BTreeMap<UnitName, UnitName>,
}

/// `user:group`, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// User name.
    pub user: String,
    /// Group name.
    pub group: String,
}

/// Permission bits, written as a string of octal digits ("0640").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode(pub u32);

fn root() -> Owner {
    Owner { user: "root".to_string(), group: "root".to_string() }
}

fn mode_644() -> Mode {
    Mode(0o644)
}

fn mode_755() -> Mode {
    Mode(0o755)
}

impl<'de> Deserialize<'de> for Owner {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.split_once(':') {
            Some((user, group)) if !user.is_empty() && !group.is_empty() => {
                Ok(Self { user: user.to_string(), group: group.to_string() })
            }
            _ => Err(serde::de::Error::custom(format!("`{text}` is no owner; write user:group, such as root:haproxy"))),
        }
    }
}

impl Serialize for Owner {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}:{}", self.user, self.group))
    }
}

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match u32::from_str_radix(&text, 8) {
            Ok(bits) if bits <= 0o7777 && (3..=4).contains(&text.len()) => Ok(Self(bits)),
            _ => Err(serde::de::Error::custom(format!("`{text}` is no mode; write octal digits, such as \"0640\""))),
        }
    }
}

impl Serialize for Mode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:04o}", self.0))
    }
}

/// Reads an overlay.
///
/// # Errors
/// With file and line: an unknown key, a file with no or several contents, a path written twice.
pub fn parse(source: &Source<'_>) -> Result<Overlay> {
    let overlay: Overlay = source.toml()?;
    for file in &overlay.files {
        let given = [&file.template, &file.source, &file.content].iter().filter(|one| one.is_some()).count();
        if given != 1 {
            return Err(source
                .error(&file.path.span(), format!("the file {} has {given} contents", file.path.get_ref()))
                .next("write exactly one of template, source and content"));
        }
        for name in [&file.template, &file.source].into_iter().flatten() {
            name.parse::<RelPath>().map_err(|error| source.error(&file.path.span(), error.cause()))?;
        }
        if file.each.is_some() != file.path.get_ref().as_str().contains("{{") {
            return Err(source
                .error(&file.path.span(), format!("{} needs both `each` and a path that names the item", file.path.get_ref()))
                .next("write each = \"…\", a list, and {{ item.… }} in the path, or neither"));
        }
        if file.scope == Scope::Node && file.template.is_none() {
            return Err(source
                .error(&file.path.span(), format!("{} is the same on every node, but has scope = \"node\"", file.path.get_ref()))
                .next("remove the scope, or use a template"));
        }
    }
    no_path_twice(source, &overlay)?;
    for (name, value) in &overlay.sysctl {
        if !matches!(value, toml::Value::Integer(_) | toml::Value::String(_)) {
            return Err(Error::new(format!("the sysctl {name} is neither a number nor a string"))
                .at(source.file, source.lines().of(&["sysctl", name]))
                .next("write for example \"net.ipv4.ip_forward\" = 1"));
        }
    }
    secret::check(source, &overlay.secrets)?;
    step::check(source, &overlay.steps)?;
    check::check(source, &overlay.checks)?;
    for unit in overlay.units.wanted_by.keys() {
        if !overlay.units.enable.contains(unit) {
            return Err(Error::new(format!("wanted_by names {unit}, which the overlay does not enable"))
                .at(source.file, source.lines().of(&["units", "wanted_by", unit.as_str()]))
                .next("add it to units.enable"));
        }
    }
    Ok(overlay)
}

fn no_path_twice(source: &Source<'_>, overlay: &Overlay) -> Result<()> {
    // Two entries may share a path when they are of different releases, or when both have a condition.
    let mut seen: Vec<(&RelPath, Option<&Word>, usize)> = Vec::new();
    let files = overlay.files.iter().filter(|f| f.when.is_none()).map(|f| (&f.path, f.release.as_ref()));
    let links = overlay.links.iter().filter(|l| l.when.is_none()).map(|l| (&l.path, l.release.as_ref()));
    for (path, release) in files.chain(links) {
        let line = source.line(&path.span());
        let clash =
            seen.iter().find(|(other, of, _)| *other == path.get_ref() && (release.is_none() || of.is_none() || *of == release));
        if let Some((_, _, first)) = clash {
            return Err(source
                .error(&path.span(), format!("{} is written twice (first in line {first})", path.get_ref()))
                .next("remove one of the two, or give each its release"));
        }
        seen.push((path.get_ref(), release, line));
    }
    Ok(())
}
