//! The seed: a small erofs volume labelled `OSTACK-SEED` that makes a role image one node.
//!
//! ```text
//! /seed.json   {"format":1,"node":"controller01","role":"controller","site":"guide"}
//! /layer/…     the node's own files, as they will lie in its root
//! ```

use crate::base::digest::Digest;
use crate::base::error::{Context, Result};
use crate::base::fs;
use crate::base::path::RelPath;
use crate::layer::erofs::Tools;
use crate::layer::tree::{Content, Entry, Kind, Tree};
use crate::model::site::{Node, Site};
use crate::plan::NodePlan;
use serde_json::json;
use std::path::Path;

/// The volume label that the initrd looks for.
pub const LABEL: &str = "OSTACK-SEED";
/// A seed is a multiple of this many bytes, because virtual disks have whole sectors and some clouds want whole MiB.
const ROUND: u64 = 1 << 20;

/// Writes a node's seed to `out`, whole or not at all; gives its digest and size.
///
/// # Errors
/// The tools fail, or `out` cannot be written.
pub fn write(
    plan: &NodePlan,
    site: &Site,
    node: &Node,
    epoch: i64,
    tools: &Path,
    scratch: &Path,
    out: &Path,
) -> Result<(Digest, u64)> {
    let layer: RelPath = "layer".parse()?;
    let mut tree = Tree::of_files(&plan.files, epoch).below(&layer, epoch)?;
    let seed = json!({ "format": 1, "node": node.name, "role": node.role, "site": site.name });
    let file = Kind::File(Content::Bytes(format!("{seed}\n").into_bytes()));
    tree.insert("seed.json".parse()?, Entry::new(file, 0o644, epoch));
    let folder = tempfile::tempdir_in(scratch).doing(|| "creating a scratch folder")?;
    let image = folder.path().join("seed.erofs");
    Tools { root: tools }.make_erofs_of(
        &tree,
        folder.path(),
        &image,
        &Digest::of(format!("ostack seed {}", node.name)),
        epoch,
        LABEL,
    )?;
    let mut bytes = fs::read(&image)?;
    bytes.resize((bytes.len() as u64).next_multiple_of(ROUND) as usize, 0);
    let mut file = fs::temporary_beside(out)?;
    std::io::Write::write_all(&mut file, &bytes).doing(|| format!("writing {}", out.display()))?;
    // Later a seed carries secrets; it is the owner's alone from the start.
    fs::persist(file, out, 0o600)?;
    Ok((Digest::of(&bytes), bytes.len() as u64))
}
