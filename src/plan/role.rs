//! The plan of a role's image.

use super::checks::{CheckLayer, CheckStep, Sources};
use super::files::{self, FileSet};
use super::planner::Planner;
use super::render::Templates;
use super::secrets::Secrets;
use super::{Key, Locked, Package, checks, steps, version};
use crate::base::digest::Digest;
use crate::base::error::{Error, Result};
use crate::base::name::{Role, Word};
use crate::base::path::RelPath;
use crate::model::load::LoadedOverlay;
use crate::model::overlay::{Parameters, Scope, StateClass, StateEntry};
use crate::model::recipe::Recipe;
use crate::model::release::{Release, User};
use crate::model::site::Site;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Everything that a role's plan is made from.
pub struct Inputs<'a> {
    /// The site.
    pub site: &'a Site,
    /// Its file, for messages.
    pub site_file: &'a Path,
    /// The role.
    pub role: Role,
    /// Its recipe.
    pub recipe: &'a Recipe,
    /// The recipe's file, for messages.
    pub recipe_file: &'a Path,
    /// The recipe's overlays, in its order.
    pub overlays: &'a [LoadedOverlay],
    /// The release's name.
    pub release_name: &'a Word,
    /// The release.
    pub release: &'a Release,
    /// The values of the site's options.
    pub options: &'a Parameters,
    /// The secrets that any overlay of the site declares.
    pub secrets: &'a Secrets,
}

/// Every choice made: the steps of a role's image.
#[derive(Debug)]
pub struct RolePlan {
    /// The role.
    pub role: Role,
    /// The release's name.
    pub release: Word,
    /// The build's time, seconds since 1970.
    pub epoch: i64,
    /// The packages by layer.
    pub locked: Locked,
    /// Answers to installation questions.
    pub debconf: Vec<String>,
    /// Accounts of the overlays' own.
    pub users: Vec<User>,
    /// Unpacking the tools.
    pub tools: Key,
    /// Unpacking what blank machines start by.
    pub loaders: Key,
    /// The base layer.
    pub base: Key,
    /// The role's package layer.
    pub packages: Key,
    /// That the layers of packages hold nothing that the release forbids; `None` where it forbids nothing.
    pub lint: Option<Key>,
    /// One layer per overlay that has files for the role.
    pub overlays: Vec<OverlayStep>,
    /// How the components' own programs judge what the role and its first node give them.
    pub checks: Vec<CheckStep>,
    /// Kernel and initrd; the program that becomes `/init` is added by [`RolePlan::boot`].
    boot: Key,
    /// Paths that outlive a reboot.
    pub state: Vec<PlannedState>,
    /// The kernel command line without the image's digest.
    pub command_line: String,
    /// The kernel modules of the initrd, as the release lists them for the recipe's kernel.
    pub modules: Vec<String>,
    /// What an installer needs besides; see `image::installer`.
    pub installer: Key,
    /// The kernel modules of network cards, likewise.
    pub network: Vec<String>,
}

/// One overlay's layer.
#[derive(Debug)]
pub struct OverlayStep {
    /// The overlay's name.
    pub name: Word,
    /// What goes into the layer.
    pub files: FileSet,
    /// The step's key.
    pub key: Key,
}

/// A path that outlives a reboot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedState {
    /// The directory.
    pub path: RelPath,
    /// The overlay that declares it.
    pub overlay: Word,
    /// What becomes of it when the node is reimaged.
    pub class: StateClass,
    /// Owner's number, where the image does not have the directory.
    pub uid: u32,
    /// Group's number.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
}

/// Plans a role.
///
/// # Errors
/// A template, a parameter, an owner, or two overlays that write the same path; with file and line.
pub(super) fn plan(planner: &mut Planner<'_>, locked: Locked) -> Result<RolePlan> {
    let state = state(planner)?;
    let node_layers = first_node(planner)?;
    let Planner { inputs, accounts, overlays, values, .. } = planner;
    let mut rendered = Vec::new();
    let mut steps = Vec::new();
    for prepared in overlays.iter() {
        values.set("param", &prepared.parameters);
        steps.push((prepared.overlay, steps::of_overlay(prepared.overlay, inputs.release_name, values)?));
        rendered.push((prepared.overlay, prepared.files(Scope::Role, accounts, inputs.secrets, values)?));
    }
    steps::check(&steps)?;
    let shown: Vec<(&LoadedOverlay, &FileSet)> = rendered.iter().map(|(overlay, files)| (*overlay, files)).collect();
    files::no_clash(&shown)?;

    let tools = unpacked_key("tools", &locked.tools);
    let loaders = unpacked_key("loaders", &locked.loaders);
    let clean = serde_json::to_string(&inputs.release.clean).unwrap_or_default();
    let configure = serde_json::to_string(&inputs.release.configure).unwrap_or_default();
    let people = serde_json::to_string(&(&inputs.release.users, &inputs.release.groups)).unwrap_or_default();
    let debconf: Vec<String> = inputs
        .overlays
        .iter()
        .flat_map(|overlay| overlay.overlay.debconf.get(inputs.release_name).cloned().unwrap_or_default())
        .collect();
    let root = |step, packages: &[Package]| {
        let key = packages_key(step, version::PACKAGES, packages);
        let key = match &inputs.release.rpm {
            // Debian's packages are laid down by this program and configured by their own; these are installed by the tools' rpm.
            Some(rpm) => {
                key.with("rpm", Digest::of(serde_json::to_string(rpm).unwrap_or_default())).with("tools", tools.digest())
            }
            None => key,
        };
        key.with("time", locked.epoch)
            .with("configure", Digest::of(&configure))
            .with("clean", Digest::of(&clean))
            .with("compression", inputs.release.compression.word())
            .with("accounts", Digest::of(&people))
    };
    let base = root("base", &locked.base);
    let users: Vec<User> = inputs.overlays.iter().flat_map(|overlay| overlay.overlay.users.clone()).collect();
    let packages = root("packages", &locked.role)
        .with("base", base.digest())
        .with("installation answers", Digest::of(debconf.join("\n")))
        .with("overlays' accounts", Digest::of(serde_json::to_string(&users).unwrap_or_default()));
    let forbidden = &inputs.release.forbidden;
    let lint = (!forbidden.is_empty()).then(|| {
        Key::new("lint", version::LINT)
            .with("packages", packages.digest())
            .with("forbidden", Digest::of(serde_json::to_string(forbidden).unwrap_or_default()))
    });
    let layer = |(overlay, files): &(&LoadedOverlay, FileSet)| CheckLayer {
        overlay: overlay.name.clone(),
        of_node: false,
        files: files.clone(),
    };
    let layers: Vec<CheckLayer> = rendered.iter().map(layer).chain(node_layers).collect();
    let host = inputs.site.of_role(inputs.role).next().map_or("localhost", |node| node.name.as_str());
    let sources = Sources { release: inputs.release_name, host, secrets: inputs.secrets, packages: &packages, layers: &layers };
    let mut checks = Vec::new();
    for prepared in overlays.iter() {
        let own: Vec<PlannedState> = state.iter().filter(|one| one.overlay == prepared.overlay.name).cloned().collect();
        values.set("param", &prepared.parameters);
        checks.extend(checks::of_overlay(prepared.overlay, &sources, &own, values)?);
    }
    let overlays = rendered
        .into_iter()
        .filter(|(_, files)| !files.is_empty())
        .map(|(overlay, files)| OverlayStep {
            name: overlay.name.clone(),
            key: files_key(&format!("overlay {}", overlay.name), &files, locked.epoch),
            files,
        })
        .collect();
    let modules = inputs.release.initrd.modules.get(&inputs.recipe.kernel).cloned().unwrap_or_default();
    let network = inputs.release.initrd.network.get(&inputs.recipe.kernel).cloned().unwrap_or_default();
    let installer = Key::new("installer", version::INSTALLER)
        .with("base", base.digest())
        .with("modules", Digest::of(modules.join("\n")))
        .with("network", Digest::of(network.join("\n")))
        .with("time", locked.epoch);
    let boot = Key::new("boot", version::BOOT)
        .with("base", base.digest())
        .with("modules", Digest::of(modules.join("\n")))
        .with("modules loaded first", inputs.release.initrd.load.join(" "))
        .with("kernel", inputs.release.initrd.kernel.as_ref().map(ToString::to_string).unwrap_or_default())
        .with("time", locked.epoch);
    Ok(RolePlan {
        role: inputs.role,
        release: inputs.release_name.clone(),
        epoch: locked.epoch,
        debconf,
        users,
        tools,
        loaders,
        base,
        packages,
        lint,
        overlays,
        checks,
        boot,
        state,
        command_line: inputs.release.initrd.command_line.join(" "),
        modules,
        installer,
        network,
        locked,
    })
}

impl RolePlan {
    /// The key of kernel and initrd, now that the program for `/init` is known.
    pub fn boot(&self, program: &Digest) -> Key {
        self.boot.clone().with("ostack-node", program)
    }

    /// The key of the layer that has the node's own program.
    pub fn agent(&self, program: &Digest) -> Key {
        Key::new("agent", version::OVERLAY).with("ostack-node", program).with("time", self.epoch)
    }

    /// The image's name in the store.
    pub fn image_name(&self) -> String {
        format!("{}-{}", self.release, self.role)
    }
}

/// The key of packages that are unpacked beside images.
pub fn unpacked_key(step: &str, packages: &[Package]) -> Key {
    packages_key(step, version::TOOLS, packages)
}

fn packages_key(step: &str, version: u32, packages: &[Package]) -> Key {
    packages.iter().fold(Key::new(step, version), |key, package| {
        key.with(format!("package {}", package.name), format!("{} {}", package.version, package.digest))
    })
}

fn files_key(step: &str, files: &FileSet, epoch: i64) -> Key {
    let key = Key::new(step, version::OVERLAY).with("time", epoch);
    files.iter().fold(key, |key, (path, file)| key.with(path.to_string(), file.identity()))
}

/// The own files of the role's first node, which stands for all in checks. A role may have no node.
fn first_node(planner: &Planner<'_>) -> Result<Vec<CheckLayer>> {
    let Some(node) = planner.inputs.site.of_role(planner.inputs.role).next() else { return Ok(Vec::new()) };
    let layer = |(overlay, files): (&LoadedOverlay, FileSet)| CheckLayer { overlay: overlay.name.clone(), of_node: true, files };
    Ok(planner.nodes().by_overlay(node)?.into_iter().map(layer).collect())
}

fn state(planner: &mut Planner<'_>) -> Result<Vec<PlannedState>> {
    let Planner { inputs, accounts, overlays, values, .. } = planner;
    let mut paths: BTreeMap<RelPath, PlannedState> = BTreeMap::new();
    for prepared in overlays {
        let overlay = prepared.overlay;
        values.set("param", &prepared.parameters);
        let here = |entry: &&StateEntry| entry.release.as_ref().is_none_or(|only| only == inputs.release_name);
        for entry in overlay.overlay.state.iter().filter(here) {
            let line = overlay.line(entry.path.span());
            let holds = Templates::holds(entry.when.as_deref(), values);
            if !holds.map_err(|error| error.at(&overlay.file, line))? {
                continue;
            }
            let path = entry.path.get_ref().clone();
            let at = |error: Error| error.at(&overlay.file, line);
            let (uid, gid) = accounts.numbers(&entry.owner).map_err(at)?;
            let clash = paths.keys().find(|other| path.is_in(other) || other.is_in(&path));
            if let Some(other) = clash {
                return Err(at(Error::new(format!("the state path {path} and {other} lie in each other")))
                    .next("declare only the outer one, once"));
            }
            if path.is_root() {
                return Err(
                    at(Error::new("the whole root cannot be a state path")).next("name the directories that must survive")
                );
            }
            paths.insert(
                path.clone(),
                PlannedState { path, overlay: overlay.name.clone(), class: entry.class, uid, gid, mode: entry.mode.0 },
            );
        }
    }
    Ok(paths.into_values().collect())
}
