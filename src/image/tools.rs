//! Roots of locked packages that are unpacked and never configured: the tools that write bytes, the loaders that blank machines start
//! by, the solver.

use super::step::{self, Watch};
use crate::base::error::{Context, Result};
use crate::base::fs;
use crate::layer::deb;
use crate::plan::{Key, Package, RolePlan};
use crate::store::{Store, WriteLock};
use std::path::PathBuf;

/// The root of the locked tools: unpacked, never configured, used by entering it.
///
/// # Errors
/// A tool package is damaged, or the store cannot be written.
pub fn tools(store: &Store, lock: &WriteLock, plan: &RolePlan, watch: &dyn Watch) -> Result<PathBuf> {
    unpacked(store, lock, &plan.tools, &plan.locked.tools, watch)
}

/// The root of what blank machines start by, in the same form.
///
/// # Errors
/// As [`tools`].
pub fn loaders(store: &Store, lock: &WriteLock, plan: &RolePlan, watch: &dyn Watch) -> Result<PathBuf> {
    unpacked(store, lock, &plan.loaders, &plan.locked.loaders, watch)
}

/// Packages unpacked beside images, once per list of them.
///
/// # Errors
/// As [`tools`].
pub(super) fn unpacked(store: &Store, _lock: &WriteLock, key: &Key, packages: &[Package], watch: &dyn Watch) -> Result<PathBuf> {
    let target = store.tools(&key.digest());
    let _turn = store.turn(&key.digest().hex());
    if target.exists() {
        return Ok(target);
    }
    step::timed(watch, &key.step, || {
        let new = tempfile::tempdir_in(store.scratch()).doing(|| "creating a scratch folder")?;
        let root = new.path().join("tools");
        // Packages of a merged-/usr distribution expect these links, which a package outside the set makes.
        for (link, folder) in [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")] {
            fs::create_dir_all(&root.join(folder))?;
            std::os::unix::fs::symlink(folder, root.join(link)).doing(|| format!("linking /{link}"))?;
        }
        for folder in ["dev", "proc", "run", "tmp", "root"] {
            fs::create_dir_all(&root.join(folder))?;
        }
        for package in packages {
            store.verify(&package.digest).doing(|| format!("checking the package {}", package.name))?;
            deb::extract(&store.path(&package.digest), &root).doing(|| format!("unpacking the package {}", package.name))?;
        }
        std::fs::rename(&root, &target).doing(|| "storing the tools")
    })?;
    Ok(target)
}
