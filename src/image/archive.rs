//! An image's root as one archive: what its layers are together, as a gzipped tar stream.
//!
//! Times, owners and attributes are the layers', so the same image gives the same archive.

use super::disk;
use crate::base::digest::{Digest, Hasher};
use crate::base::error::{Context, Result};
use crate::layer::erofs;
use crate::layer::gzip::Gzip;
use crate::layer::merge::merged;
use crate::layer::tar;
use std::fs::File;
use std::path::Path;

/// Writes the archive of these layers, the lowest first, to `file`.
///
/// # Errors
/// A layer cannot be read, or the file cannot be written.
pub(super) fn write(layers: &[disk::Layer], file: &Path) -> Result<Digest> {
    let trees = layers.iter().map(|layer| erofs::tree(&layer.path)).collect::<Result<Vec<_>>>()?;
    let what = || format!("writing {}", file.display());
    let mut gzip = Gzip::new(Hasher::new(File::create(file).doing(what)?));
    tar::write(&merged(trees), &mut gzip)?;
    let (digest, _) = gzip.finish().doing(what)?.finish();
    Ok(digest)
}
