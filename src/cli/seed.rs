//! `ostack-image seed`: the small volumes that make a role's image one node each.

use super::build::Work;
use super::report::Steps;
use super::session::{Session, leave_host_mounts, locked};
use super::{Global, media, print_json, unlock};
use crate::base::error::{Error, Result};
use crate::base::fs::Batch;
use crate::base::name::Role;
use crate::cli::terminal::out;
use crate::deploy::config_drive;
use crate::deploy::seed::{self, Needed};
use crate::image::step;
use crate::lock::ReleaseLock;
use crate::model::site::Node;
use crate::secrets::Held;
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub(super) struct Options {
    /// Nodes whose seeds to write
    #[arg(value_name = "NODE", required_unless_present = "all")]
    nodes: Vec<String>,
    /// Write the seeds of all nodes of the site
    #[arg(long, conflicts_with = "nodes")]
    all: bool,
    /// File to write, for one node; else NODE.seed.img in the output folder
    #[arg(long, value_name = "FILE", conflicts_with = "all")]
    file: Option<PathBuf>,
    /// Also write a config drive for each, NODE.config-2.iso
    #[arg(long)]
    config_drive: bool,
    #[command(flatten)]
    secrets: unlock::From,
}

/// A seed that was written.
#[derive(Serialize)]
struct Written {
    node: String,
    path: PathBuf,
    size: u64,
}

pub(super) fn run(global: &Global, options: &Options) -> Result<()> {
    let session = Session::open(global)?;
    session.warn();
    let lock = session.release_lock()?;
    let mut nodes: Vec<&Node> = Vec::new();
    for name in &options.nodes {
        let node = session.site.node(name)?;
        if !nodes.iter().any(|one| one.name == node.name) {
            nodes.push(node);
        }
    }
    if options.all {
        nodes.extend(&session.site.nodes);
    }
    let held = secrets(&session, &options.secrets, &nodes)?;
    let mut written = write(&session, &lock, &nodes, options.file.as_deref(), held.as_ref(), &Steps::new(global.verbose, None))?;
    if options.config_drive {
        let drives = config_drives(global, &session, lock, &nodes, &written)?;
        written.extend(drives);
    }
    if global.json {
        return match &written[..] {
            [one] if !options.all => print_json(one),
            several => print_json(&several),
        };
    }
    for one in &written {
        out!("{}  {:.1} MB", one.path.display(), one.size as f64 / 1e6);
    }
    Ok(())
}

/// Writes a config drive beside each seed.
fn config_drives(
    global: &Global,
    session: &Session,
    mut lock: ReleaseLock,
    nodes: &[&Node],
    seeds: &[Written],
) -> Result<Vec<Written>> {
    let store = session.store()?;
    leave_host_mounts()?;
    let write_lock = store.lock()?;
    let steps = Steps::new(global.verbose, None);
    let mut drives = Vec::new();
    for seed in seeds {
        let Some(node) = nodes.iter().find(|node| node.name.as_str() == seed.node) else { continue };
        let files = session.role(node.role)?;
        let plan = session.plan(files, &lock)?;
        let work = Work { session, files, store: &store, write_lock: &write_lock, global, relock: false, steps: &steps };
        let (_, loaders) = media::roots(&work, &plan, &mut lock)?;
        let path = seed.path.with_file_name(format!("{}.config-2.iso", seed.node));
        let size = config_drive::write(&loaders, &seed.node, &seed.path, &path, plan.epoch)?;
        drives.push(Written { node: seed.node.clone(), path, size });
    }
    Ok(drives)
}

/// Writes the seed of one node to `file`.
pub(super) fn write_to(
    session: &Session,
    lock: &ReleaseLock,
    node: &Node,
    file: Option<&Path>,
    held: Option<&Held>,
) -> Result<()> {
    write(session, lock, &[node], file, held, &Steps::default()).map(|_| ())
}

/// The secrets for the seeds of these nodes; none only if their files ask for none.
pub(super) fn secrets(session: &Session, from: &unlock::From, nodes: &[&Node]) -> Result<Option<Held>> {
    let held = from.held(session)?;
    for role in Role::ALL.into_iter().filter(|_| held.is_none()) {
        let Some(node) = nodes.iter().find(|node| node.role == role) else { continue };
        let mut planner = session.planner(session.role(role)?)?;
        let nothing = Needed::of(&mut planner, None)?.role.is_empty() && seed::asked(&planner.nodes().plan(node)?).is_empty();
        if !nothing {
            return Err(unlock::not_there(&from.file(session)).doing(format!("making the seed of {}", node.name)));
        }
    }
    Ok(held)
}

/// Writes nodes' seeds: all of them, or none.
fn write(
    session: &Session,
    lock: &ReleaseLock,
    nodes: &[&Node],
    file: Option<&Path>,
    held: Option<&Held>,
    steps: &Steps,
) -> Result<Vec<Written>> {
    let (folder, name) = match file {
        Some(file) if nodes.len() != 1 => {
            return Err(Error::new(format!("{} is one file, and these are {} nodes", file.display(), nodes.len()))
                .next("leave --file out, and name the folder with --out DIR"));
        }
        Some(file) => {
            let name = file.file_name().ok_or_else(|| Error::new(format!("{} is no file's name", file.display())))?;
            (file.parent().unwrap_or(Path::new("")), Some(name.to_string_lossy().into_owned()))
        }
        None => (session.out.as_path(), None),
    };
    let batch = Batch::new(folder)?;
    let mut written = Vec::with_capacity(nodes.len());
    for role in Role::ALL {
        let of_role = nodes.iter().filter(|node| node.role == role);
        let of_role: Vec<(&Node, String)> =
            of_role.map(|node| (*node, name.clone().unwrap_or_else(|| format!("{}.seed.img", node.name)))).collect();
        if of_role.is_empty() {
            continue;
        }
        let sizes = step::timed(steps, &format!("seeds of {role}"), || {
            let files = session.role(role)?;
            let mut planner = session.planner(files)?;
            let needed = Needed::of(&mut planner, held)?;
            seed::write(&planner, &needed, &session.site, locked(lock, files)?.epoch, &of_role, &batch)
        })?;
        written.extend(of_role.iter().zip(sizes).map(|((node, name), size)| Written {
            node: node.name.to_string(),
            path: folder.join(name),
            size,
        }));
    }
    batch.publish()?;
    Ok(written)
}
