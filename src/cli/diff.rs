//! `ostack-image diff`: what changed between two images, packages and settings first.

mod files;

use super::inspect::layer_tree;
use super::session::store_folder;
use super::{Global, print_json};
use crate::base::error::Result;
use crate::base::path::RelPath;
use crate::cli::terminal::out;
use crate::image::manifest::{self, Image};
use crate::layer::tree::{Entry, Kind, Tree};
use crate::store::{PREVIOUS, Store};
use clap::Args;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Args)]
pub(super) struct Options {
    /// Image: a role's name or a digest. Alone: what the role's last build changed
    a: String,
    /// Image to compare with
    b: Option<String>,
}

#[derive(Serialize)]
struct Difference {
    a: String,
    b: String,
    packages: Vec<String>,
    settings: Vec<Setting>,
    /// Files of packages that differ although the packages do not.
    files: Vec<files::File>,
    layers: Vec<String>,
}

#[derive(Serialize)]
struct Setting {
    layer: String,
    path: String,
    change: String,
}

pub(super) fn run(global: &Global, options: &Options) -> Result<()> {
    let store = Store::open(&store_folder(global.store.as_deref())?)?;
    let (a, b) = match &options.b {
        Some(b) => (manifest::read(&store, &options.a)?, manifest::read(&store, b)?),
        None => (manifest::read(&store, &format!("{}{PREVIOUS}", options.a))?, manifest::read(&store, &options.a)?),
    };
    let packages = packages(&a.packages, &b.packages);
    let difference = Difference {
        a: a.manifest.digest.to_string(),
        b: b.manifest.digest.to_string(),
        // With other packages, other files are no news.
        files: if packages.is_empty() { files::of_packages(&store, &a, &b)? } else { Vec::new() },
        packages,
        settings: settings(&store, &a, &b)?,
        layers: layers(&a, &b),
    };
    if global.json {
        return print_json(&difference);
    }
    print(&difference);
    Ok(())
}

fn print(difference: &Difference) {
    out!("a {}\nb {}", difference.a, difference.b);
    if difference.a == difference.b {
        out!("the same image");
        return;
    }
    out!("packages: {} changed", difference.packages.len());
    for line in &difference.packages {
        out!("  {line}");
    }
    out!("settings: {} changed", difference.settings.len());
    for setting in &difference.settings {
        out!("  {} ({})", setting.path, setting.layer);
        for line in setting.change.lines() {
            out!("    {line}");
        }
    }
    if !difference.files.is_empty() {
        out!("files: {} differ, of the same packages", difference.files.len());
    }
    for file in &difference.files {
        out!("  {} ({})", file.path, file.origin);
        for line in file.change.lines() {
            out!("    {line}");
        }
    }
    out!("layers: {} changed", difference.layers.len());
    for line in &difference.layers {
        out!("  {line}");
    }
}

fn packages(a: &BTreeMap<String, String>, b: &BTreeMap<String, String>) -> Vec<String> {
    let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    names
        .into_iter()
        .filter_map(|name| match (a.get(name), b.get(name)) {
            (Some(old), Some(new)) if old != new => Some(format!("{name} {old} -> {new}")),
            (Some(old), None) => Some(format!("{name} {old} removed")),
            (None, Some(new)) => Some(format!("{name} {new} added")),
            _ => None,
        })
        .collect()
}

fn layers(a: &Image, b: &Image) -> Vec<String> {
    let sizes = |image: &Image| -> BTreeMap<String, (String, u64)> {
        image.layers.iter().map(|layer| (layer.name.clone(), (layer.diff_id.to_string(), layer.blob.size))).collect()
    };
    let (old, new) = (sizes(a), sizes(b));
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let mut lines: Vec<String> = names
        .into_iter()
        .filter_map(|name| match (old.get(name), new.get(name)) {
            (Some(before), Some(after)) if before.0 != after.0 => Some(format!("{name} {} -> {} bytes", before.1, after.1)),
            (Some(_), None) => Some(format!("{name} removed")),
            (None, Some(_)) => Some(format!("{name} added")),
            _ => None,
        })
        .collect();
    if a.kernel != b.kernel {
        lines.push("kernel".to_string());
    }
    if a.initrd != b.initrd {
        lines.push("initrd".to_string());
    }
    lines
}

/// The files of overlays that differ; texts line by line.
fn settings(store: &Store, a: &Image, b: &Image) -> Result<Vec<Setting>> {
    let mut settings = Vec::new();
    let names: BTreeSet<&str> =
        a.layers.iter().chain(&b.layers).filter(|layer| layer.kind == "overlay").map(|layer| layer.name.as_str()).collect();
    for name in names {
        let of = |image: &Image| image.layers.iter().find(|layer| layer.name == name).map(|layer| layer.diff_id);
        if of(a) == of(b) {
            continue;
        }
        let tree = |image: &Image| of(image).map_or(Ok(Tree::default()), |_| layer_tree(store, image, name));
        let (before, after) = (tree(a)?, tree(b)?);
        let paths: BTreeSet<&RelPath> = before.iter().chain(after.iter()).map(|(path, _)| path).collect();
        for path in paths {
            if let Some(change) = change(before.get(path), after.get(path))? {
                settings.push(Setting { layer: name.to_string(), path: path.to_string(), change });
            }
        }
    }
    Ok(settings)
}

fn change(before: Option<&Entry>, after: Option<&Entry>) -> Result<Option<String>> {
    let (before, after) = match (before, after) {
        (Some(before), Some(after)) => (before, after),
        (Some(entry), None) => return Ok((!matches!(entry.kind, Kind::Directory { .. })).then(|| "removed".to_string())),
        (None, Some(entry)) => return Ok((!matches!(entry.kind, Kind::Directory { .. })).then(|| "added".to_string())),
        (None, None) => return Ok(None),
    };
    let mut lines = Vec::new();
    if (before.uid, before.gid, before.mode) != (after.uid, after.gid, after.mode) {
        lines
            .push(format!("{}:{} {:04o} -> {}:{} {:04o}", before.uid, before.gid, before.mode, after.uid, after.gid, after.mode));
    }
    match (&before.kind, &after.kind) {
        (Kind::File(old), Kind::File(new)) => {
            let (old, new) = (old.bytes()?, new.bytes()?);
            if old != new {
                lines.push(text_change(&old, &new));
            }
        }
        (old, new) if old != new => lines.push(format!("{old:?} -> {new:?}")),
        _ => {}
    }
    Ok((!lines.is_empty()).then(|| lines.join("\n")))
}

fn text_change(old: &[u8], new: &[u8]) -> String {
    let (Ok(old), Ok(new)) = (std::str::from_utf8(old), std::str::from_utf8(new)) else {
        return format!("{} -> {} bytes", old.len(), new.len());
    };
    similar::TextDiff::from_lines(old, new)
        .iter_all_changes()
        .filter(|change| change.tag() != similar::ChangeTag::Equal)
        .map(|change| format!("{} {}", change.tag(), change.value().trim_end()))
        .collect::<Vec<_>>()
        .join("\n")
}
