//! An image's root as one archive: what its layers are together, as a gzipped tar stream.
//!
//! Times, owners and attributes are the layers', so the same image gives the same archive.

use super::disk;
use crate::base::digest::{Digest, Hasher};
use crate::base::error::{Context, Error, Result};
use crate::layer::gzip::Gzip;
use crate::layer::merge::merged;
use crate::layer::mounted::Mounted;
use crate::layer::tar;
use crate::layer::times::Times;
use crate::layer::tree::Tree;
use crate::store::Store;
use std::fs::File;
use std::path::Path;

/// Writes the archive of these layers, the lowest first, to `file`.
///
/// # Errors
/// This kernel cannot mount a layer, one cannot be read, or the file cannot be written.
pub(super) fn write(store: &Store, layers: &[disk::Layer], file: &Path) -> Result<Digest> {
    // What is unpacked has lost its file capabilities.
    let unpack = || {
        Err(Error::new("this kernel cannot mount a layer that is a file")
            .next("make archives as root, on Linux 6.12 or newer with erofs"))
    };
    let mut mounted = Mounted::new(&store.scratch().join("archive"))?;
    let mut trees = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        let folder = mounted.layer(&number.to_string(), &layer.path, &unpack)?;
        // Their times are settled already.
        trees.push(Tree::settle(&folder, None, &Times::KEPT)?);
    }
    let what = || format!("writing {}", file.display());
    let mut gzip = Gzip::new(Hasher::new(File::create(file).doing(what)?));
    tar::write(&merged(trees), &mut gzip)?;
    let (digest, _) = gzip.finish().doing(what)?.finish();
    Ok(digest)
}
