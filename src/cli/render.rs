//! `ostack-image render`: the files of a node, as its image and seed would give it.

use super::session::Session;
use super::{Global, print_json, unlock};
use crate::base::digest::Digest;
use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use crate::cli::terminal::out;
use crate::deploy::seed;
use crate::model::placeholder::{self, Values};
use crate::plan::Locked;
use crate::plan::files::{FileKind, FileSet};
use clap::Args;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub(super) struct Options {
    /// Node to render; the tree goes to --out, which must be empty or absent
    node: String,
    /// Fill in secrets, of this file or of secrets.age beside the site
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    secrets: Option<Option<PathBuf>>,
    #[command(flatten)]
    key: unlock::Opener,
}

pub(super) fn run(global: &Global, options: &Options) -> Result<()> {
    let session = Session::open(global)?;
    session.warn();
    let files = node_files(&session, &options.node)?;
    let folder = global.out.clone().unwrap_or_else(|| session.out.join(&options.node));
    if !fs::sorted_dir(&folder)?.is_empty() {
        return Err(
            Error::new(format!("the folder {} is not empty", folder.display())).next("name an empty or a new one with --out DIR")
        );
    }
    let values = match &options.secrets {
        Some(named) => Some(secrets(&session, options, named, &files)?),
        None => None,
    };
    if values.is_some() {
        fs::create_dir_all(&folder)?;
        let private = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(&folder, private).doing(|| format!("closing {} to others", folder.display()))?;
    }
    for (path, file) in &files {
        let kind = match (&file.kind, &values) {
            (FileKind::Regular(bytes), Some(values)) => FileKind::Regular(placeholder::fill(bytes, values)?),
            (kind, _) => kind.clone(),
        };
        write(&path.under(&folder), &kind, file.mode, file.uid, file.gid).doing(|| format!("writing {path}"))?;
    }
    // Of what is listed, a file's digest is always that of its placeholders: one of a password would help to guess it.
    let entry = |(path, file): (&crate::base::path::RelPath, &crate::plan::files::File)| -> Value {
        let (kind, value) = match &file.kind {
            FileKind::Regular(bytes) => ("file", Digest::of(bytes).to_string()),
            FileKind::Link(target) => ("link", target.clone()),
            FileKind::Directory => ("directory", String::new()),
        };
        json!({ "path": path, "kind": kind, "content": value, "mode": format!("{:04o}", file.mode), "uid": file.uid, "gid": file.gid })
    };
    if global.json {
        return print_json(
            &json!({ "node": options.node, "folder": folder, "files": files.iter().map(entry).collect::<Vec<_>>() }),
        );
    }
    for path in files.keys() {
        out!("{path}");
    }
    Ok(())
}

/// The values that the node's files ask for.
fn secrets(session: &Session, options: &Options, named: &Option<PathBuf>, files: &FileSet) -> Result<Values> {
    let from = unlock::From::file_or_usual(named.clone(), &options.key);
    let held = from.held(session)?.ok_or_else(|| unlock::not_there(&from.file(session)))?;
    held.needed(&options.node, &seed::asked(files))
}

/// The files of the role's overlays in order, then the node's own.
pub(super) fn node_files(session: &Session, name: &str) -> Result<FileSet> {
    let node = session.site.node(name)?;
    let mut planner = session.planner(session.role(node.role)?)?;
    let role = planner.role(Locked::default())?;
    let own = planner.nodes().plan(node)?;
    let mut files = FileSet::new();
    for step in role.overlays {
        files.extend(step.files);
    }
    files.extend(own);
    Ok(files)
}

fn write(target: &Path, kind: &FileKind, mode: u32, uid: u32, gid: u32) -> std::io::Result<()> {
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match kind {
        FileKind::Regular(bytes) => std::fs::write(target, bytes)?,
        FileKind::Link(to) => std::os::unix::fs::symlink(to, target)?,
        FileKind::Directory => std::fs::create_dir_all(target)?,
    }
    // Only root can give files away; for anybody else the listing has the owners.
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::lchown(target, Some(uid), Some(gid))?;
    }
    if matches!(kind, FileKind::Link(_)) {
        return Ok(());
    }
    std::fs::set_permissions(target, std::fs::Permissions::from_mode(mode))
}
