//! The seed: a small erofs volume labelled `OSTACK-SEED` that makes a role image one node.
//!
//! ```text
//! /seed.json      {"format":1,"node":"controller01","role":"controller","site":"guide"}
//! /secrets.json   {"nova-db":{"value":"…"}}, 0600: what the role's files and the node's own have placeholders for, and no more
//! /layer/…        the node's own files, as they will lie in its root
//! ```

use crate::base::bundle::{SEED_SECRETS, SEED_VOLUME};
use crate::base::digest::Digest;
use crate::base::error::{Context, Error, Result};
use crate::base::fs::Batch;
use crate::base::path::RelPath;
use crate::layer::erofs;
use crate::layer::tree::{Content, Entry, Kind, Tree};
use crate::model::placeholder::{self, Reference, Values};
use crate::model::release::Compression;
use crate::model::site::{Node, Site};
use crate::plan::files::{FileKind, FileSet};
use crate::plan::{Locked, NodePlanner, Planner};
use crate::secrets::{Held, INIT};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;

/// A seed is a multiple of this many bytes, because virtual disks have whole sectors and some clouds want whole MiB.
const ROUND: u64 = 1 << 20;

/// What a role's nodes need to know.
pub struct Needed<'a> {
    /// The site's secrets; none where nothing was drawn.
    pub held: Option<&'a Held>,
    /// What the files of the role's image ask for.
    pub role: BTreeSet<Reference>,
}

impl<'a> Needed<'a> {
    /// Reads a role's files for what they ask for.
    ///
    /// # Errors
    /// A template, with file and line.
    pub fn of(planner: &mut Planner<'_>, held: Option<&'a Held>) -> Result<Self> {
        let role = planner.role(Locked::default())?;
        Ok(Self { held, role: role.overlays.iter().flat_map(|step| asked(&step.files)).collect() })
    }

    /// The values for a node with these files of its own.
    ///
    /// # Errors
    /// Something was never drawn.
    pub fn values(&self, node: &Node, own: &FileSet) -> Result<Values> {
        let mut references = self.role.clone();
        references.extend(asked(own));
        if references.is_empty() {
            return Ok(Values::default());
        }
        let held =
            self.held.ok_or_else(|| Error::new("its files ask for secrets, and none are drawn").next(format!("run: {INIT}")))?;
        held.needed(node.name.as_str(), &references)
    }
}

/// What files ask for.
pub fn asked(files: &FileSet) -> BTreeSet<Reference> {
    let bytes = files.values().filter_map(|file| if let FileKind::Regular(bytes) = &file.kind { Some(bytes) } else { None });
    bytes.flat_map(|bytes| placeholder::references(bytes)).collect()
}

/// Plans and writes the seeds of nodes of one role, on every core; each node comes with its file's name in `batch`. Gives
/// their sizes in bytes, in the same order. Time is that of everything in a seed, in seconds since 1970.
///
/// # Errors
/// Names the first node whose files cannot be rendered or written.
pub fn write(
    planner: &Planner<'_>,
    needed: &Needed<'_>,
    site: &Site,
    time: i64,
    nodes: &[(&Node, String)],
    batch: &Batch,
) -> Result<Vec<u64>> {
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
            let result = tree(&mut planner, needed, site, time, node).and_then(|tree| write_one(&tree, time, node, name, batch));
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

/// One node's seed, in memory: secrets, which the caller gives to nobody else.
///
/// # Errors
/// The node's files cannot be rendered.
pub fn one(planner: &Planner<'_>, needed: &Needed<'_>, site: &Site, time: i64, node: &Node) -> Result<Vec<u8>> {
    let made = tree(&mut planner.nodes(), needed, site, time, node).and_then(|tree| volume(&tree, time, node));
    made.map_err(|error| error.doing(format!("making the seed of {}", node.name)))
}

/// A node's secrets alone, as the seed has them; the caller gives them to nobody else.
///
/// # Errors
/// As [`one`]'s.
pub fn secrets(planner: &Planner<'_>, needed: &Needed<'_>, node: &Node) -> Result<Vec<u8>> {
    let made = planner.nodes().plan(node).and_then(|files| needed.values(node, &files));
    let values = made.map_err(|error| error.doing(format!("making the secrets of {}", node.name)))?;
    serde_json::to_vec(&values).doing(|| "writing secrets.json")
}

fn volume(tree: &Tree, time: i64, node: &Node) -> Result<Vec<u8>> {
    let id = &Digest::of(format!("ostack seed {}", node.name));
    erofs::image(tree, &erofs::Spec { id, epoch: time, label: SEED_VOLUME, compression: Compression::None })
}

fn write_one(tree: &Tree, time: i64, node: &Node, name: &str, batch: &Batch) -> Result<u64> {
    let volume = volume(tree, time, node)?;
    let size = (volume.len() as u64).next_multiple_of(ROUND);
    // A seed carries secrets: it is the owner's alone from the start.
    batch.write(name, &volume, size, 0o600)?;
    Ok(size)
}

/// What is in a seed.
fn tree(planner: &mut NodePlanner<'_, '_>, needed: &Needed<'_>, site: &Site, time: i64, node: &Node) -> Result<Tree> {
    let files = planner.plan(node)?;
    let values = needed.values(node, &files)?;
    let layer: RelPath = "layer".parse()?;
    let mut tree = Tree::of_files(&files, time).below(&layer, time)?;
    let mut add = |name: &str, text: String, mode: u32| -> Result<()> {
        let file = Kind::File(Content::Bytes((text + "\n").into_bytes()));
        tree.insert(name.parse()?, Entry::new(file, mode, time));
        Ok(())
    };
    add("seed.json", json!({ "format": 1, "node": node.name, "role": node.role, "site": site.name }).to_string(), 0o644)?;
    if !values.is_empty() {
        add(SEED_SECRETS, serde_json::to_string(&values).doing(|| "writing secrets.json")?, 0o600)?;
    }
    Ok(tree)
}
