//! `ostack-image seed`: the small volume that makes a role's image one node.

use super::report::Steps;
use super::session::{Session, locked};
use super::{Global, fetch, print_json};
use crate::base::digest::Digest;
use crate::base::error::{Error, Result};
use crate::deploy::seed;
use crate::image::build::tools;
use crate::layer::scratch;
use crate::lock::ReleaseLock;
use crate::model::site::Node;
use crate::plan::{self, Package};
use crate::store::{Store, WriteLock};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

#[derive(Args)]
pub(super) struct Options {
    /// Node whose seed to write
    node: String,
    /// File to write; by default NODE.seed.img in the output folder
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

pub(super) fn run(global: &Global, options: &Options) -> Result<()> {
    let session = Session::open(global)?;
    session.warn();
    let lock = session.release_lock()?;
    let node = session.site.node(&options.node)?;
    let files = session.role(node.role)?;
    plan::plan_node(&session.inputs(files), &locked(&lock, files)?, node)?;
    let store = session.store()?;
    scratch::leave_host_mounts()?;
    let write_lock = store.lock()?;
    let wanted = locked(&lock, files)?.tools;
    let role_plan = session.plan(files, &lock)?;
    if !store.tools(&role_plan.tools.digest()).exists() {
        fetch::packages(&session, &store, &lock, &wanted.iter().collect::<Vec<&Package>>(), global.offline, false)?;
    }
    let (path, digest, size) = write(&session, &lock, &store, &write_lock, node, options.file.clone())?;
    if global.json {
        return print_json(&json!({ "node": node.name, "path": path, "digest": digest, "size": size }));
    }
    println!("{}  {:.1} MB  {digest}", path.display(), size as f64 / 1e6);
    Ok(())
}

/// Writes a node's seed; the tools' packages must be in the store.
pub(super) fn write(
    session: &Session,
    lock: &ReleaseLock,
    store: &Store,
    write_lock: &WriteLock,
    node: &Node,
    file: Option<PathBuf>,
) -> Result<(PathBuf, Digest, u64)> {
    let files = session.role(node.role)?;
    let locked = locked(lock, files)?;
    let epoch = locked.epoch;
    let node_plan = plan::plan_node(&session.inputs(files), &locked, node)?;
    let role_plan = session.plan(files, lock)?;
    let tools = tools(store, write_lock, &role_plan, &Steps::default())?;
    let path = file.unwrap_or_else(|| session.out.join(format!("{}.seed.img", node.name)));
    let (digest, size) = seed::write(&node_plan, &session.site, node, epoch, &tools, &store.scratch(), &path)
        .map_err(|error: Error| error.doing(format!("writing the seed of {}", node.name)))?;
    Ok((path, digest, size))
}
