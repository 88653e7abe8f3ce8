//! `ostack-image store`: what the store holds, whether it is whole, and what can go.

use super::session::{store_folder, write_lock};
use super::{Global, print_json};
use crate::base::digest::Digest;
use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use crate::cli::terminal::out;
use crate::image::manifest;
use crate::store::Store;
use clap::Subcommand;
use serde_json::json;
use std::collections::BTreeSet;

#[derive(Subcommand)]
pub(super) enum Verb {
    /// List images
    Ls,
    /// Check every blob against its digest
    Verify,
    /// Remove what no image needs, downloaded packages included
    Gc,
}

pub(super) fn run(global: &Global, verb: &Verb) -> Result<()> {
    let store = Store::open(&store_folder(global.store.as_deref())?)?;
    match verb {
        Verb::Ls => list(global, &store),
        Verb::Verify => verify(global, &store),
        Verb::Gc => gc(global, &store),
    }
}

fn list(global: &Global, store: &Store) -> Result<()> {
    let mut images = Vec::new();
    for name in store.references()? {
        let image = manifest::read(store, &name)?;
        let size: u64 = image.layers.iter().map(|layer| layer.blob.size).sum();
        images.push(json!({ "name": name, "digest": image.manifest.digest, "release": image.release, "size": size }));
    }
    if global.json {
        return print_json(&images);
    }
    for image in images {
        out!(
            "{:20} {}  {:.1} MB  {}",
            image["name"].as_str().unwrap_or_default(),
            image["digest"].as_str().unwrap_or_default(),
            image["size"].as_u64().unwrap_or(0) as f64 / 1e6,
            image["release"].as_str().unwrap_or_default()
        );
    }
    Ok(())
}

fn blobs(store: &Store) -> Result<Vec<(Digest, u64)>> {
    let mut blobs = Vec::new();
    for path in fs::sorted_dir(&store.pool())? {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if let Ok(digest) = Digest::from_hex(&name) {
            let size = path.metadata().doing(|| format!("reading {}", path.display()))?.len();
            blobs.push((digest, size));
        }
    }
    Ok(blobs)
}

fn verify(global: &Global, store: &Store) -> Result<()> {
    let blobs = blobs(store)?;
    let damaged: Vec<Digest> = blobs.iter().map(|(digest, _)| *digest).filter(|digest| store.verify(digest).is_err()).collect();
    if global.json {
        print_json(&json!({ "blobs": blobs.len(), "damaged": damaged }))?;
    } else {
        out!("{} blobs, {} damaged", blobs.len(), damaged.len());
    }
    if damaged.is_empty() {
        return Ok(());
    }
    let paths: Vec<String> = damaged.iter().map(|digest| store.path(digest).display().to_string()).collect();
    Err(Error::new(format!("damaged blobs:\n{}", paths.join("\n"))).next("remove these files and build again"))
}

fn gc(global: &Global, store: &Store) -> Result<()> {
    // An ordinary user's scratch folder may have files of the ids that are its own in its user namespace only.
    let lock = write_lock(store)?;
    store.remove_unfinished(&lock)?;
    let mut needed = BTreeSet::new();
    for name in store.references()? {
        let image = manifest::read(store, &name)?;
        needed.insert(image.manifest.digest);
        needed.insert(manifest::config(store, &image.manifest.digest)?);
        needed.extend([image.kernel.digest, image.initrd.digest]);
        needed.extend(image.layers.iter().map(|layer| layer.blob.digest));
    }
    let (mut count, mut freed) = (0, 0);
    for (digest, size) in blobs(store)?.into_iter().filter(|(digest, _)| !needed.contains(digest)) {
        std::fs::remove_file(store.path(&digest)).doing(|| format!("removing {digest}"))?;
        count += 1;
        freed += size;
    }
    for path in [fs::sorted_dir(&store.unpacked())?, fs::sorted_dir(&store.kept())?, fs::sorted_dir(&store.again())?].concat() {
        let what = || format!("removing {}", path.display());
        if path.is_dir() {
            // A killed build's.
            fs::remove_tree(&path)?;
            continue;
        }
        freed += path.metadata().doing(what)?.len();
        std::fs::remove_file(&path).doing(what)?;
    }
    if global.json {
        return print_json(&json!({ "removed": count, "bytes": freed }));
    }
    out!("removed {count} blobs, {:.1} MB", freed as f64 / 1e6);
    Ok(())
}
