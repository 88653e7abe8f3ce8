//! `images/iso.toml`: how a medium starts.

use super::Source;
use crate::base::error::Result;
use serde::Deserialize;
use std::collections::BTreeMap;

/// How a medium starts.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IsoSpec {
    /// GRUB for BIOS.
    pub bios: Target,
    /// GRUB for UEFI.
    pub uefi: Target,
    /// The templates' texts by name; from the folder beside the file.
    #[serde(skip)]
    pub texts: BTreeMap<String, String>,
}

/// An image of GRUB.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// `grub-mkimage --format`.
    pub format: String,
    /// Its modules.
    pub modules: Vec<String>,
}

/// Reads the file.
///
/// # Errors
/// With file and line.
pub fn parse(source: &Source<'_>) -> Result<IsoSpec> {
    source.toml()
}
