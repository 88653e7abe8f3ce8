//! Packages without compression: kept in the store, so that a package is decompressed once, whatever it is built into later.
//!
//! Decompressing is half of the work of unpacking. What is kept is the package with plain members, which is laid down at the speed of
//! memory; a tree of its files would take as long to copy and be ten times as many files to make.
//!
//! ```text
//! <store>/ostack/unpacked/<sha256 of the package>-<sha256 of this file>
//! ```
//!
//! Nothing is synced: a file whose bytes have another digest than its name says is made again.

use crate::base::digest::Digest;
use crate::base::error::{Context, Result};
use crate::base::fs;
use crate::base::parallel;
use crate::layer::deb;
use crate::layer::root::PackageFile;
use crate::plan::Package;
use crate::store::{Store, WriteLock};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The packages in the order given, decompressed by so many threads. Each is checked against its digest before.
///
/// # Errors
/// A package is damaged or not in the store, or the store cannot be written.
pub(super) fn unpacked(store: &Store, lock: &WriteLock, packages: &[Package], threads: usize) -> Result<Vec<PackageFile>> {
    let folder = store.unpacked();
    fs::create_dir_all(&folder)?;
    let mut known: BTreeMap<String, PathBuf> = BTreeMap::new();
    for path in fs::sorted_dir(&folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some((package, _)) = name.split_once('-') {
            known.insert(package.to_string(), path);
        }
    }
    let mut order: Vec<(usize, &Package)> = packages.iter().enumerate().collect();
    order.sort_by_key(|(_, package)| std::cmp::Reverse(package.size));
    let mut found = parallel::each(&order, threads, "decompressing packages", |(position, package)| {
        let path = match known.get(&package.digest.hex()).filter(|path| is_whole(path)) {
            Some(path) => path.clone(),
            None => decompress(store, lock, package).doing(|| format!("unpacking the package {}", package.name))?,
        };
        Ok((*position, PackageFile { name: package.name.to_string(), path }))
    })?;
    found.sort_by_key(|(position, _)| *position);
    Ok(found.into_iter().map(|(_, file)| file).collect())
}

fn is_whole(path: &std::path::Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let named = name.split_once('-').and_then(|(_, own)| Digest::from_hex(own).ok());
    let found = Digest::of_file(path).ok().map(|(digest, _)| digest);
    named.is_some() && named == found
}

fn decompress(store: &Store, lock: &WriteLock, package: &Package) -> Result<PathBuf> {
    // Roles that are built side by side have many packages in common.
    let _turn = store.turn(&package.digest.hex());
    if let Some(path) = lock.unpacked(&package.digest) {
        return Ok(path);
    }
    store.verify(&package.digest)?;
    let folder = store.unpacked();
    let new = tempfile::Builder::new().prefix(".new").tempfile_in(&folder).doing(|| "creating a file for it")?;
    deb::decompress(&store.path(&package.digest), new.path())?;
    let (digest, _) = Digest::of_file(new.path())?;
    let path = folder.join(format!("{}-{}", package.digest.hex(), digest.hex()));
    new.persist(&path).map_err(|error| error.error).doing(|| format!("writing {}", path.display()))?;
    lock.has_unpacked(package.digest, path.clone());
    Ok(path)
}
