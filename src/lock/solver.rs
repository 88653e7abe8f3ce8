//! Where the distribution's solver runs: in a root of verified packages, without network, so that what the machine has
//! installed does not matter.
//!
//! In: the packages of a solver, a folder that it works on. Out: what it said. `lock` stands below what fetches into the
//! store and enters roots, so whoever locks brings that along ([`Roots`]).

use super::LockedPackage;
use crate::base::error::Result;
use std::path::{Path, PathBuf};

/// Makes roots.
pub trait Roots {
    /// Gets these packages and unpacks them.
    ///
    /// # Errors
    /// One cannot be got or unpacked.
    fn root(&self, packages: &[LockedPackage]) -> Result<Box<dyn Root>>;
}

/// Unpacked packages, to run programs of.
pub trait Root {
    /// Where programs of the root see the folder that they are run on.
    fn sees(&self, folder: &Path) -> PathBuf;

    /// Runs a program on a folder, which alone it can write, with nothing in its environment but `env`. Gives whether its exit
    /// code was 0, and all that it said, both outputs in one.
    ///
    /// # Errors
    /// The root cannot be entered or has no such program.
    fn run(&self, folder: &Path, command: &[&str], env: &[(&str, &str)]) -> Result<(bool, String)>;
}
