//! `ostack-image inspect`: what an image is made of.

use super::session::store_folder;
use super::{Global, print_json};
use crate::base::error::{Context, Error, Result};
use crate::cli::terminal::out;
use crate::image::manifest::{self, Image};
use crate::layer::erofs;
use crate::layer::tree::{Kind, Tree};
use crate::store::Store;
use clap::Args;
use serde_json::{Value, json};

#[derive(Args)]
pub(super) struct Options {
    /// Image: a role's name, or sha256: and the first digits of its digest
    image: String,
    /// List every package with its version
    #[arg(long)]
    packages: bool,
    /// List the files of this layer
    #[arg(long, value_name = "LAYER")]
    files: Option<String>,
}

pub(super) fn run(global: &Global, options: &Options) -> Result<()> {
    let store = Store::open(&store_folder(global.store.as_deref())?)?;
    let image = manifest::read(&store, &options.image)?;
    if let Some(name) = &options.files {
        return files(global, &store, &image, name);
    }
    let total: u64 = image.layers.iter().map(|layer| layer.blob.size).sum();
    if global.json {
        let mut value = serde_json::to_value(&image).doing(|| "writing JSON")?;
        value["size"] = json!(total);
        return print_json(&value);
    }
    if options.packages {
        for (name, version) in &image.packages {
            out!("{name} {version}");
        }
        return Ok(());
    }
    out!("image     {}", image.manifest.digest);
    out!("role      {}", image.role);
    out!("release   {}", image.release);
    out!("made of   {} packages as of {}", image.packages.len(), manifest::humane(image.epoch));
    out!("kernel    {:.1} MB, initrd {:.1} MB", image.kernel.size as f64 / 1e6, image.initrd.size as f64 / 1e6);
    out!("arguments {}", image.command_line);
    out!("layers    {:.1} MB", total as f64 / 1e6);
    for layer in &image.layers {
        out!("  {:12} {:8} {:10.3} MB  {}", layer.name, layer.kind, layer.blob.size as f64 / 1e6, layer.diff_id);
    }
    out!("state");
    for state in &image.state {
        out!("  {:10} {}", state.class, state.path);
    }
    Ok(())
}

fn files(global: &Global, store: &Store, image: &Image, name: &str) -> Result<()> {
    let tree = layer_tree(store, image, name)?;
    let lines: Vec<Value> = tree
        .iter()
        .map(|(path, entry)| {
            let (kind, detail) = match &entry.kind {
                Kind::File(content) => ("file", content.size().to_string()),
                Kind::HardLink(first) => ("hard link", first.to_string()),
                Kind::Directory { opaque: false } => ("directory", String::new()),
                Kind::Directory { opaque: true } => ("directory, hides lower layers'", String::new()),
                Kind::Symlink(target) => ("link", target.clone()),
                Kind::Device { major, minor, .. } => ("device", format!("{major}:{minor}")),
                Kind::Fifo => ("fifo", String::new()),
                Kind::Whiteout => ("removed", String::new()),
            };
            json!({ "path": path, "kind": kind, "detail": detail, "mode": format!("{:04o}", entry.mode), "uid": entry.uid, "gid": entry.gid })
        })
        .collect();
    if global.json {
        return print_json(&lines);
    }
    for line in &lines {
        let text = |key: &str| line[key].as_str().unwrap_or_default().to_string();
        let (uid, gid) = (line["uid"].to_string(), line["gid"].to_string());
        let shown = format!("{} {uid:>5}:{gid:<5} {:9} {} {}", text("mode"), text("kind"), text("path"), text("detail"));
        out!("{}", shown.trim_end());
    }
    Ok(())
}

/// A layer's tree, in the store's file.
pub(super) fn layer_tree(store: &Store, image: &Image, name: &str) -> Result<Tree> {
    let Some(layer) = image.layers.iter().find(|layer| layer.name == name) else {
        let known: Vec<&str> = image.layers.iter().map(|layer| layer.name.as_str()).collect();
        return Err(Error::new(format!("the image has no layer `{name}`")).next(format!("use one of: {}", known.join(", "))));
    };
    store.verify(&layer.blob.digest)?;
    erofs::tree(&store.path(&layer.blob.digest))
}
