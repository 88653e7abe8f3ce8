//! An overlay's files as they will lie in its layer, or in a node's seed: rendered, owned, with every link.

use super::render::Templates;
use super::secrets::{self, Secrets};
use super::steps;
use crate::base::digest::Digest;
use crate::base::error::{Error, Result};
use crate::base::name::{UnitName, Word};
use crate::base::path::RelPath;
use crate::model::load::LoadedOverlay;
use crate::model::overlay::{FileEntry, Owner, Scope, UnitAction, Units};
use crate::model::release::Release;
use crate::model::step;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Files by path.
pub type FileSet = BTreeMap<RelPath, File>;

/// One path of an overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// What it is.
    pub kind: FileKind,
    /// Owner's number.
    pub uid: u32,
    /// Group's number.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
    /// May replace what an earlier overlay wrote.
    pub overrides: bool,
    /// The line of `overlay.toml` that asks for it; 0 where the overlay's tables imply it.
    pub line: usize,
}

/// What a path of an overlay is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    Regular(Vec<u8>),
    /// A symbolic link.
    Link(String),
    /// A directory.
    Directory,
}

impl File {
    /// Everything about the file that reaches the layer, short: for keys and for showing what changed.
    pub fn identity(&self) -> String {
        let what = match &self.kind {
            FileKind::Regular(bytes) => Digest::of(bytes).to_string(),
            FileKind::Link(target) => format!("link {target}"),
            FileKind::Directory => "directory".to_string(),
        };
        format!("{what} {}:{} {:04o}", self.uid, self.gid, self.mode)
    }
}

/// Account numbers by name: the release's, and the overlay's own.
pub struct Accounts {
    users: BTreeMap<String, u32>,
    groups: BTreeMap<String, u32>,
}

impl Accounts {
    /// The accounts of a release and of a recipe's overlays.
    ///
    /// # Errors
    /// An overlay's account has a name or a number that another one has; with file and line.
    pub fn new(release: &Release, overlays: &[LoadedOverlay]) -> Result<Self> {
        let mut taken: Vec<(&str, u32, &str)> =
            release.users.iter().map(|user| (user.name.as_str(), user.uid, "the release")).collect();
        taken.extend(release.base_users.iter().map(|(name, uid)| (name.as_str(), *uid, "the release")));
        for overlay in overlays {
            for (index, user) in overlay.overlay.users.iter().enumerate() {
                if let Some((name, uid, by)) = taken.iter().find(|(name, uid, _)| *name == user.name || *uid == user.uid) {
                    return Err(Error::new(format!("the account {} ({}) and {name} ({uid}) of {by} clash", user.name, user.uid))
                        .at(&overlay.file, overlay.lines().of(&["user", &index.to_string(), "name"]))
                        .next("give each account its own name and number"));
                }
                taken.push((&user.name, user.uid, overlay.name.as_str()));
            }
        }
        let mut users = release.base_users.clone();
        let mut groups = release.base_groups.clone();
        groups.extend(release.groups.iter().map(|group| (group.name.clone(), group.gid)));
        for user in release.users.iter().chain(overlays.iter().flat_map(|overlay| &overlay.overlay.users)) {
            users.insert(user.name.clone(), user.uid);
            groups.entry(user.name.clone()).or_insert(user.gid);
        }
        users.insert("root".to_string(), 0);
        groups.insert("root".to_string(), 0);
        Ok(Self { users, groups })
    }

    /// The numbers of an owner.
    ///
    /// # Errors
    /// A name without a number; says where to write one.
    pub fn numbers(&self, owner: &Owner) -> Result<(u32, u32)> {
        let find = |what: &str, map: &BTreeMap<String, u32>, name: &str| {
            map.get(name).copied().ok_or_else(|| {
                Error::new(format!("the {what} `{name}` has no fixed number"))
                    .next(format!("add [[{what}]] name = \"{name}\" to the release's file"))
            })
        };
        Ok((find("user", &self.users, &owner.user)?, find("group", &self.groups, &owner.group)?))
    }
}

/// The files of one scope of an overlay. `context` must have `node` for [`Scope::Node`].
///
/// # Errors
/// A template, an owner without a number, a missing verbatim file; with file and line.
pub fn of_overlay(
    overlay: &LoadedOverlay,
    scope: Scope,
    release: &Word,
    accounts: &Accounts,
    declared: &Secrets,
    context: &Map<String, Value>,
) -> Result<FileSet> {
    let templates = Templates::parse(&overlay.templates, &overlay.template_folder)?;
    let at = |error: Error, line: usize| error.at(&overlay.file, line);
    let wanted = |only: &Option<Word>, when: &Option<String>, line: usize| {
        if only.as_ref().is_some_and(|only| only != release) {
            return Ok(false);
        }
        Templates::holds(when.as_deref(), context).map_err(|error| at(error, line))
    };
    if scope == Scope::Role {
        templates.check(context)?;
    }
    let mut files = FileSet::new();
    let mut with_secrets = String::new();
    for entry in overlay.overlay.files.iter().filter(|entry| entry.scope == scope) {
        let line = overlay.line(entry.path.span());
        if !wanted(&entry.release, &entry.when, line)? {
            continue;
        }
        let bytes = content(overlay, entry, &templates, context).map_err(|error| at(error, line))?;
        let (uid, gid) = accounts.numbers(&entry.owner).map_err(|error| at(error, line))?;
        let path = entry.path.get_ref();
        let references = secrets::references(&bytes);
        if !references.is_empty() {
            secrets::check(path, entry.mode.0, &references, declared).map_err(|error| at(error, line))?;
            with_secrets.push_str(&format!("{path}\n"));
        }
        let file = File { kind: FileKind::Regular(bytes), uid, gid, mode: entry.mode.0, overrides: entry.overrides, line };
        if files.insert(path.clone(), file).is_some() {
            return Err(at(Error::new(format!("the conditions of two entries of {path} hold at once")), line)
                .next("make one the opposite of the other: when = \"not …\""));
        }
    }
    if scope == Scope::Node {
        return Ok(files);
    }
    for entry in &overlay.overlay.links {
        let line = overlay.line(entry.path.span());
        if !wanted(&entry.release, &entry.when, line)? {
            continue;
        }
        let target = Templates::render_text(&entry.target, context).map_err(|error| at(error, line))?;
        files.insert(entry.path.get_ref().clone(), File { overrides: entry.overrides, line, ..link(target) });
    }
    for entry in &overlay.overlay.directories {
        let line = overlay.line(entry.path.span());
        if !wanted(&entry.release, &entry.when, line)? {
            continue;
        }
        let (uid, gid) = accounts.numbers(&entry.owner).map_err(|error| at(error, line))?;
        let file = File { kind: FileKind::Directory, uid, gid, mode: entry.mode.0, overrides: true, line };
        files.insert(entry.path.get_ref().clone(), file);
    }
    if !with_secrets.is_empty() {
        files.insert(format!("{}/{}", secrets::LISTS, overlay.name).parse()?, regular(with_secrets));
    }
    let steps = steps::of_overlay(overlay, release, context)?;
    if !steps.is_empty() {
        let text = serde_json::to_string_pretty(&steps).map_err(|error| Error::new(error).doing("writing steps"))?;
        files.insert(format!("{}/{}.json", step::FOLDER, overlay.name).parse()?, regular(text + "\n"));
    }
    let mut units = overlay.overlay.units.clone();
    for entry in &overlay.overlay.unit {
        if wanted(&entry.release, &entry.when, overlay.line(entry.name.span()))? {
            match entry.action {
                UnitAction::Enable => units.enable.push(entry.name.get_ref().clone()),
                UnitAction::Mask => units.mask.push(entry.name.get_ref().clone()),
            }
            if let Some(target) = &entry.wanted_by {
                units.wanted_by.insert(entry.name.get_ref().clone(), target.clone());
            }
        }
    }
    implied(overlay, &units, &mut files)?;
    Ok(files)
}

fn content(
    overlay: &LoadedOverlay,
    entry: &FileEntry,
    templates: &Templates<'_>,
    context: &Map<String, Value>,
) -> Result<Vec<u8>> {
    if let Some(content) = &entry.content {
        return Ok(content.as_bytes().to_vec());
    }
    if let Some(name) = &entry.template {
        return templates.render(name, context).map(String::into_bytes);
    }
    let name = entry.source.as_deref().unwrap_or_default();
    overlay.verbatim.get(name).cloned().ok_or_else(|| {
        Error::new(format!("there is no file files/{name} in the overlay {}", overlay.name))
            .next("write it, or correct source = \"…\"")
    })
}

/// What the overlay's units, and its `sysctl` and `modules` tables mean as files.
fn implied(overlay: &LoadedOverlay, units: &Units, files: &mut FileSet) -> Result<()> {
    let written = &overlay.overlay;
    let mut add = |path: String, file: File| -> Result<()> {
        let path: RelPath = path.parse()?;
        files.entry(path).or_insert(file);
        Ok(())
    };
    for unit in &units.enable {
        let target = match units.wanted_by.get(unit) {
            Some(target) => target.as_str(),
            None => usual_target(unit),
        };
        add(format!("etc/systemd/system/{target}.wants/{unit}"), link(format!("/usr/lib/systemd/system/{}", template_of(unit))))?;
    }
    for unit in &units.mask {
        add(format!("etc/systemd/system/{unit}"), link("/dev/null".to_string()))?;
    }
    if !written.sysctl.is_empty() {
        let line = |(name, value): (&String, &toml::Value)| {
            format!("{name} = {}\n", value.as_str().map_or_else(|| value.to_string(), str::to_string))
        };
        add(format!("etc/sysctl.d/60-{}.conf", overlay.name), regular(written.sysctl.iter().map(line).collect()))?;
    }
    if !written.modules.is_empty() {
        add(format!("etc/modules-load.d/{}.conf", overlay.name), regular(written.modules.join("\n") + "\n"))?;
    }

    // An enabled unit of the overlay's own lies in /etc.
    let own: Vec<(RelPath, String)> = files
        .iter()
        .filter_map(|(path, file)| match &file.kind {
            FileKind::Link(target) => {
                let unit = target.strip_prefix("/usr/lib/systemd/system/")?;
                let own: RelPath = format!("etc/systemd/system/{unit}").parse().ok()?;
                files.contains_key(&own).then(|| (path.clone(), own.to_string()))
            }
            _ => None,
        })
        .collect();
    for (path, target) in own {
        files.insert(path, link(target));
    }
    Ok(())
}

fn link(target: String) -> File {
    File { kind: FileKind::Link(target), uid: 0, gid: 0, mode: 0o777, overrides: false, line: 0 }
}

fn regular(text: String) -> File {
    File { kind: FileKind::Regular(text.into_bytes()), uid: 0, gid: 0, mode: 0o644, overrides: false, line: 0 }
}

/// The target that a unit of this kind usually hangs on: systemd.special(7).
fn usual_target(unit: &UnitName) -> &'static str {
    match unit.as_str().rsplit_once('.').map_or("", |(_, kind)| kind) {
        "socket" => "sockets.target",
        "timer" => "timers.target",
        "path" => "paths.target",
        _ => "multi-user.target",
    }
}

/// The file of an instance: `ceph-mon@a.service` is `ceph-mon@.service`.
fn template_of(unit: &UnitName) -> String {
    match (unit.as_str().split_once('@'), unit.as_str().rsplit_once('.')) {
        (Some((stem, _)), Some((_, kind))) => format!("{stem}@.{kind}"),
        _ => unit.to_string(),
    }
}

/// Refuses a path that two overlays write, unless the later one says so.
///
/// # Errors
/// Names both overlays and the line of the later one.
pub fn no_clash(overlays: &[(&LoadedOverlay, &FileSet)]) -> Result<()> {
    let mut owner: BTreeMap<&RelPath, &Word> = BTreeMap::new();
    for (overlay, files) in overlays {
        for (path, file) in files.iter() {
            if file.kind == FileKind::Directory {
                continue;
            }
            if let Some(first) = owner.insert(path, &overlay.name)
                && first != &overlay.name
                && !file.overrides
            {
                return Err(Error::new(format!("{path} is written by the overlay {first} too"))
                    .at(&overlay.file, (file.line > 0).then_some(file.line))
                    .next(format!("remove it from one of {first} and {}, or write override = true here", overlay.name)));
            }
        }
    }
    Ok(())
}
