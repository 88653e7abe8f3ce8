//! The seed: a small erofs volume labelled `OSTACK-SEED` that makes a role image one node.
//!
//! ```text
//! /seed.json   {"format":1,"node":"controller01","role":"controller","site":"guide"}
//! /layer/…     the node's own files, as they will lie in its root
//! ```

use crate::base::bundle::SEED_VOLUME;
use crate::base::digest::Digest;
use crate::base::error::Result;
use crate::base::fs::Batch;
use crate::base::path::RelPath;
use crate::layer::erofs_writer;
use crate::layer::tree::{Content, Entry, Kind, Tree};
use crate::model::site::{Node, Site};
use crate::plan::files::FileSet;
use crate::plan::{NodePlanner, Planner};
use serde_json::json;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;

/// A seed is a multiple of this many bytes, because virtual disks have whole sectors and some clouds want whole MiB.
const ROUND: u64 = 1 << 20;

/// Plans and writes the seeds of nodes of one role, on every core; each node comes with its file's name in `batch`. Gives
/// their sizes in bytes, in the same order. Time is that of everything in a seed, in seconds since 1970.
///
/// # Errors
/// Names the first node whose files cannot be rendered or written.
pub fn write(planner: &Planner<'_>, site: &Site, time: i64, nodes: &[(&Node, String)], batch: &Batch) -> Result<Vec<u64>> {
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    // Nodes are taken in order, and one that is begun is finished: so every node before a bad one is done, and the first bad
    // one is the same in every run.
    let work = || {
        let mut planner = planner.nodes();
        let mut done = Vec::new();
        while !failed.load(Relaxed) {
            let index = next.fetch_add(1, Relaxed);
            let Some((node, name)) = nodes.get(index) else { break };
            let result = write_one(&mut planner, site, time, node, name, batch);
            failed.fetch_or(result.is_err(), Relaxed);
            done.push((index, result.map_err(|error| error.doing(format!("writing the seed of {}", node.name)))));
        }
        done
    };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(nodes.len());
    let mut done: Vec<(usize, Result<u64>)> = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let joined = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        joined.flatten().collect()
    });
    done.sort_unstable_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

fn write_one(planner: &mut NodePlanner<'_, '_>, site: &Site, time: i64, node: &Node, name: &str, batch: &Batch) -> Result<u64> {
    let tree = tree(&planner.plan(node)?, site, time, node)?;
    let volume = erofs_writer::image(&tree, &Digest::of(format!("ostack seed {}", node.name)), time, SEED_VOLUME)?;
    let size = (volume.len() as u64).next_multiple_of(ROUND);
    // A seed carries secrets: it is the owner's alone from the start.
    batch.write(name, &volume, size, 0o600)?;
    Ok(size)
}

/// What is in a seed.
fn tree(files: &FileSet, site: &Site, time: i64, node: &Node) -> Result<Tree> {
    let layer: RelPath = "layer".parse()?;
    let mut tree = Tree::of_files(files, time).below(&layer, time)?;
    let seed = json!({ "format": 1, "node": node.name, "role": node.role, "site": site.name });
    let file = Kind::File(Content::Bytes(format!("{seed}\n").into_bytes()));
    tree.insert("seed.json".parse()?, Entry::new(file, 0o644, time));
    Ok(tree)
}
