//! An overlay's files as they will lie in its layer, or in a node's seed: rendered, owned, with every link.

use super::context::Values;
use super::render::{Condition, Templates, Text};
use super::secrets::{self, Secrets};
use super::steps;
use crate::base::digest::Digest;
use crate::base::error::{Error, Result};
use crate::base::name::{UnitName, Word};
use crate::base::path::RelPath;
use crate::model::load::LoadedOverlay;
use crate::model::overlay::{FileEntry, Owner, Scope, UnitAction, Units};
use crate::model::placeholder;
use crate::model::release::Release;
use crate::model::step;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

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

/// An overlay made ready for a role: its parameters are settled, its templates and conditions parsed.
pub struct Prepared<'a> {
    /// The overlay.
    pub overlay: &'a LoadedOverlay,
    /// What its templates see as `param`.
    pub parameters: Value,
    release: &'a Word,
    templates: Templates<'a>,
    /// Those of the release.
    files: Vec<PreparedFile<'a>>,
}

struct PreparedFile<'a> {
    entry: &'a FileEntry,
    line: usize,
    condition: Option<Condition>,
    /// The path, where the file is there once for each item of a list.
    path: Option<Text>,
}

impl<'a> Prepared<'a> {
    /// Parses what an overlay has for a release.
    ///
    /// # Errors
    /// The syntax of a template or of a file's condition, with file and line.
    pub fn new(overlay: &'a LoadedOverlay, release: &'a Word, parameters: Value) -> Result<Self> {
        let prepare = |entry: &'a FileEntry| {
            let line = overlay.line(entry.path.span());
            let condition = entry.when.as_deref().map(Condition::parse).transpose();
            let condition = condition.map_err(|error| error.at(&overlay.file, line))?;
            let path = entry.each.as_ref().map(|_| Text::parse(entry.path.get_ref().as_str())).transpose();
            let path = path.map_err(|error| error.at(&overlay.file, line))?;
            Ok(PreparedFile { entry, line, condition, path })
        };
        let here = |entry: &&FileEntry| entry.release.as_ref().is_none_or(|only| only == release);
        Ok(Self {
            overlay,
            parameters,
            release,
            templates: Templates::parse(&overlay.templates, &overlay.template_folder)?,
            files: overlay.overlay.files.iter().filter(here).map(prepare).collect::<Result<_>>()?,
        })
    }

    /// The files of one scope. `values` must have `param`, and `node` for [`Scope::Node`]; `item` comes and goes in it.
    ///
    /// # Errors
    /// A template, an owner without a number, a missing verbatim file; with file and line.
    pub fn files(&self, scope: Scope, accounts: &Accounts, declared: &Secrets, values: &mut Values) -> Result<FileSet> {
        if scope == Scope::Role {
            self.templates.check(values)?;
        }
        let mut files = FileSet::new();
        let mut with_secrets = String::new();
        for file in self.files.iter().filter(|file| file.entry.scope == scope) {
            let PreparedFile { entry, line, path, .. } = file;
            let line = *line;
            let at = |error: Error| error.at(&self.overlay.file, line);
            for item in items(entry, values).map_err(at)? {
                if let Some(item) = &item {
                    values.set("item", item);
                }
                let bytes = self.bytes(file, values).map_err(at);
                let path = path.as_ref().map_or_else(|| Ok(entry.path.get_ref().clone()), |path| path.render(values)?.parse());
                values.remove("item");
                let (Some(bytes), path) = (bytes?, path.map_err(at)?) else { continue };
                let (uid, gid) = accounts.numbers(&entry.owner).map_err(at)?;
                let references = placeholder::references(&bytes);
                if !references.is_empty() {
                    secrets::check(&path, entry.mode.0, &references, declared).map_err(at)?;
                    with_secrets.push_str(&format!("{path}\n"));
                }
                let file =
                    File { kind: FileKind::Regular(bytes), uid, gid, mode: entry.mode.0, overrides: entry.overrides, line };
                if files.insert(path.clone(), file).is_some() {
                    return Err(at(Error::new(format!("the conditions of two entries of {path} hold at once")))
                        .next("make one the opposite of the other: when = \"not …\""));
                }
            }
        }
        if scope == Scope::Node {
            return Ok(files);
        }
        self.others(accounts, values, &mut files)?;
        if !with_secrets.is_empty() {
            files.insert(format!("{}/{}", placeholder::LISTS, self.overlay.name).parse()?, regular(with_secrets));
        }
        let steps = steps::of_overlay(self.overlay, self.release, values)?;
        if !steps.is_empty() {
            let text = serde_json::to_string_pretty(&steps).map_err(|error| Error::new(error).doing("writing steps"))?;
            files.insert(format!("{}/{}.json", step::FOLDER, self.overlay.name).parse()?, regular(text + "\n"));
        }
        implied(self.overlay, &self.units(values)?, &mut files)?;
        Ok(files)
    }

    /// The texts that decide what a node's own files say: their templates with all that these name, and their conditions.
    pub fn node_texts(&self) -> Vec<&'a str> {
        let mut texts = Vec::new();
        let mut names = Vec::new();
        for file in self.files.iter().filter(|file| file.entry.scope == Scope::Node) {
            texts.extend(file.entry.when.as_deref().into_iter().chain(file.entry.each.as_deref()));
            names.extend(file.entry.template.as_deref());
        }
        let mut seen = BTreeSet::new();
        while let Some(name) = names.pop() {
            if let Some(text) = self.overlay.templates.get(name).filter(|_| seen.insert(name)) {
                texts.push(text);
                names.extend(self.overlay.templates.keys().map(String::as_str).filter(|other| text.contains(other)));
            }
        }
        texts
    }

    /// What a file has in it; `None` where its condition does not hold.
    fn bytes(&self, file: &PreparedFile<'_>, values: &Values) -> Result<Option<Vec<u8>>> {
        let holds = file.condition.as_ref().map_or(Ok(true), |condition| condition.holds(values))?;
        holds.then(|| self.content(file.entry, values)).transpose()
    }

    /// The entry that writes a path, where one does: its condition holds.
    pub(super) fn entry(&self, path: &RelPath, scope: Scope, values: &Values) -> Option<&'a FileEntry> {
        let of_path = |file: &&PreparedFile<'a>| file.entry.scope == scope && file.entry.path.get_ref() == path;
        let holds = |file: &&PreparedFile<'a>| file.condition.as_ref().is_none_or(|one| one.holds(values).unwrap_or(false));
        self.files.iter().filter(of_path).find(holds).map(|file| file.entry)
    }

    /// The line of the table that means a path without an entry of its own.
    pub(super) fn implied_line(&self, path: &RelPath) -> Option<usize> {
        let own = |folder: &str| path.as_str().starts_with(folder) && path.name().contains(self.overlay.name.as_str());
        let table = match () {
            () if own("etc/sysctl.d/") => "sysctl",
            () if own("etc/modules-load.d/") => "modules",
            () => return None,
        };
        self.overlay.lines().of(&[table])
    }

    /// The templates.
    pub(super) fn templates(&self) -> &Templates<'a> {
        &self.templates
    }

    fn content(&self, entry: &FileEntry, values: &Values) -> Result<Vec<u8>> {
        if let Some(content) = &entry.content {
            return Ok(content.as_bytes().to_vec());
        }
        if let Some(name) = &entry.template {
            return self.templates.render(name, values).map(String::into_bytes);
        }
        let name = entry.source.as_deref().unwrap_or_default();
        self.overlay.verbatim.get(name).cloned().ok_or_else(|| {
            Error::new(format!("there is no file files/{name} in the overlay {}", self.overlay.name))
                .next("write it, or correct source = \"…\"")
        })
    }

    /// Whether an entry is for the release and its condition holds.
    fn wanted(&self, only: &Option<Word>, when: &Option<String>, line: usize, values: &Values) -> Result<bool> {
        if only.as_ref().is_some_and(|only| only != self.release) {
            return Ok(false);
        }
        Templates::holds(when.as_deref(), values).map_err(|error| error.at(&self.overlay.file, line))
    }

    /// Links and directories.
    fn others(&self, accounts: &Accounts, values: &Values, files: &mut FileSet) -> Result<()> {
        let overlay = self.overlay;
        for entry in &overlay.overlay.links {
            let line = overlay.line(entry.path.span());
            if self.wanted(&entry.release, &entry.when, line, values)? {
                let target = Templates::render_text(&entry.target, values).map_err(|error| error.at(&overlay.file, line))?;
                files.insert(entry.path.get_ref().clone(), File { overrides: entry.overrides, line, ..link(target) });
            }
        }
        for entry in &overlay.overlay.directories {
            let line = overlay.line(entry.path.span());
            if self.wanted(&entry.release, &entry.when, line, values)? {
                let (uid, gid) = accounts.numbers(&entry.owner).map_err(|error| error.at(&overlay.file, line))?;
                let file = File { kind: FileKind::Directory, uid, gid, mode: entry.mode.0, overrides: true, line };
                files.insert(entry.path.get_ref().clone(), file);
            }
        }
        Ok(())
    }

    /// The units of both forms.
    fn units(&self, values: &Values) -> Result<Units> {
        let mut units = self.overlay.overlay.units.clone();
        for entry in &self.overlay.overlay.unit {
            if self.wanted(&entry.release, &entry.when, self.overlay.line(entry.name.span()), values)? {
                match entry.action {
                    UnitAction::Enable => units.enable.push(entry.name.get_ref().clone()),
                    UnitAction::Mask => units.mask.push(entry.name.get_ref().clone()),
                }
                if let Some(target) = &entry.wanted_by {
                    units.wanted_by.insert(entry.name.get_ref().clone(), target.clone());
                }
            }
        }
        Ok(units)
    }
}

/// The items for which an entry is there: those of its list, or none, once.
fn items(entry: &FileEntry, values: &Values) -> Result<Vec<Option<Value>>> {
    let Some(name) = &entry.each else { return Ok(vec![None]) };
    let mut parts = name.split('.');
    let first = parts.next().and_then(|first| values.get(first));
    let Some(list) = parts.fold(first, |value, part| value?.get(part)).and_then(Value::as_array) else {
        return Err(Error::new(format!("there is no list `{name}`")).next("name one that templates see, such as node.interfaces"));
    };
    Ok(list.iter().cloned().map(Some).collect())
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
