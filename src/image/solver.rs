//! The root in which `lock` has the distribution's solver run: locked packages, fetched into the store, unpacked, entered by
//! namespace without network.
//!
//! In: packages that the archive's signature vouches for. Out: what their programs say. Whatever solver the machine has
//! installed is not used. (A machine's own dnf, for rpm releases without a solver, is `lock::rpm`'s.)

use super::step::Watch;
use super::tools::unpacked;
use crate::base::error::Result;
use crate::layer::sandbox::Sandbox;
use crate::lock::LockedPackage;
use crate::lock::solver::{Root, Roots};
use crate::plan::{Package, unpacked_key};
use crate::store::{Store, WriteLock};
use std::path::{Path, PathBuf};

/// Where programs of the root see the folder that they work on.
const FOLDER: &str = "/run/ostack/folder";

/// Makes roots from packages in a store.
pub struct Solvers<'a> {
    /// Where packages and unpacked roots are.
    pub store: &'a Store,
    /// Lets the store be written, and fills it.
    pub keeper: &'a dyn Keeper,
    /// Who hears of it.
    pub watch: &'a dyn Watch,
}

/// Lets a store be written, once everything that can be refused without it was not, and fills it.
pub trait Keeper {
    /// Proof that nobody else writes.
    ///
    /// # Errors
    /// The store cannot be written.
    fn lock(&self) -> Result<&WriteLock>;

    /// Fetches those of the packages that are missing.
    ///
    /// # Errors
    /// One cannot be got, or is not the one that it should be.
    fn fetch(&self, packages: &[LockedPackage]) -> Result<()>;
}

impl Roots for Solvers<'_> {
    fn root(&self, packages: &[LockedPackage]) -> Result<Box<dyn Root>> {
        let list: Vec<Package> = packages.iter().map(Package::from).collect();
        let key = unpacked_key("solver", &list);
        let lock = self.keeper.lock()?;
        if !self.store.tools(&key.digest()).exists() {
            self.keeper.fetch(packages)?;
        }
        Ok(Box::new(Unpacked(unpacked(self.store, lock, &key, &list, self.watch)?)))
    }
}

/// A root of unpacked packages.
struct Unpacked(PathBuf);

impl Root for Unpacked {
    fn sees(&self, _folder: &Path) -> PathBuf {
        PathBuf::from(FOLDER)
    }

    fn run(&self, folder: &Path, command: &[&str], env: &[(&str, &str)]) -> Result<(bool, String)> {
        let sandbox = Sandbox::new(&self.0).bind_writable(folder, FOLDER);
        let sandbox = env.iter().fold(sandbox, |sandbox, (name, value)| sandbox.env(name, value));
        let ended = sandbox.run_to_any_end(command)?;
        Ok((ended.code == Some(0), String::from_utf8_lossy(&ended.output).into_owned()))
    }
}
