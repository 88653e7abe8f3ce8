//! The plan: site + recipe + overlays + release + lock -> steps, each with an input digest.
//!
//! Pure: no files, no clock, no network. A step's key holds everything that can change its output, the version of the
//! algorithm included, and nothing else. Keys form a chain, so a change shows up in the step that it
//! touches and in those that build on it:
//!
//! ```text
//! tools ──────────────┬──────────────┬──────────────┐
//! base ── packages    overlay 1 … n  boot (kernel,   disk
//!   └────────────────────────────────initrd)
//! ```
//!
//! To add an input to a step: one line in its `Key`. To change what a step makes of its inputs: raise its version.

pub mod checks;
pub mod context;
pub mod files;
mod names;
mod origin;
mod planner;
mod ports;
pub mod render;
mod requested;
mod role;
pub mod secrets;
mod steps;

pub use planner::{NodePlanner, Planner};
pub use requested::requested;
pub use role::{Inputs, OverlayStep, PlannedState, RolePlan, unpacked_key};

use crate::base::digest::Digest;
use crate::base::name::PackageName;
use serde::Serialize;
use std::collections::BTreeMap;

/// Versions of what the steps do with their inputs. Raise one when equal inputs would give other bytes.
pub mod version {
    /// Unpacking the tools.
    pub const TOOLS: u32 = 1;
    /// Unpacking, configuring and cleaning packages; the form of their layers.
    pub const PACKAGES: u32 = 6;
    /// The form of an overlay's layer.
    pub const OVERLAY: u32 = 2;
    /// The kernel and the initrd.
    pub const BOOT: u32 = 2;
    /// What an installer has besides the initrd.
    pub const INSTALLER: u32 = 2;
    /// How a check's root is made and its words are taken.
    pub const CHECK: u32 = 1;
    /// What the lint reads of layers.
    pub const LINT: u32 = 1;
    /// The disk's layout and boot loader.
    pub const DISK: u32 = 1;
    /// The boot loader's images.
    pub const GRUB: u32 = 1;
}

/// Everything that a step's output depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Key {
    /// The step's kind.
    pub step: String,
    /// The version of its algorithm.
    pub version: u32,
    /// Its inputs by name: digests or short values.
    pub inputs: BTreeMap<String, String>,
}

impl Key {
    /// A key without inputs.
    pub fn new(step: &str, version: u32) -> Self {
        Self { step: step.to_string(), version, inputs: BTreeMap::new() }
    }

    /// Adds an input.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        self.inputs.insert(name.into(), value.to_string());
        self
    }

    /// The input digest: sha256 of the key as JSON with sorted names.
    pub fn digest(&self) -> Digest {
        Digest::of(serde_json::to_vec(self).unwrap_or_else(|_| unreachable!("strings and numbers always serialise")))
    }

    /// All inputs, the version included, for showing what changed.
    pub fn shown(&self) -> BTreeMap<String, String> {
        let mut shown = self.inputs.clone();
        shown.insert("algorithm version".to_string(), self.version.to_string());
        shown
    }
}

/// A package at the exact version that the lock names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: PackageName,
    /// Its version.
    pub version: String,
    /// sha256 of its file.
    pub digest: Digest,
    /// Its file's size in bytes.
    pub size: u64,
}

/// The locked packages that a role needs.
#[derive(Debug, Clone, Default)]
pub struct Locked {
    /// The build's time, seconds since 1970.
    pub epoch: i64,
    /// The minimal system.
    pub base: Vec<Package>,
    /// What the role needs on top.
    pub role: Vec<Package>,
    /// What writes the image.
    pub tools: Vec<Package>,
    /// What blank machines start by.
    pub loaders: Vec<Package>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_changes_with_every_input_and_with_the_version() {
        let key = Key::new("base", 1).with("a", "1");
        assert_eq!(key.digest(), Key::new("base", 1).with("a", 1).digest());
        for other in [
            Key::new("base", 2).with("a", 1),
            Key::new("base", 1).with("a", 2),
            Key::new("base", 1).with("b", 1),
            Key::new("boot", 1).with("a", 1),
        ] {
            assert_ne!(key.digest(), other.digest());
        }
    }
}
