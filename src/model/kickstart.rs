//! `images/kickstart.toml`: what Anaconda is told besides what site and recipes say.

use super::Source;
use crate::base::error::Result;
use crate::base::path::RelPath;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Settings of kickstart files.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct KickstartSpec {
    /// The root filesystem's size in MiB where there is no state to keep.
    pub root_mib: u64,
    /// Where the state partition is mounted.
    pub state: String,
    /// The kernel's arguments.
    pub append: String,
    /// Files of the overlays that are not unpacked: the installer writes its own.
    #[serde(default)]
    pub leave: Vec<RelPath>,
    /// The templates' texts by name; from the folder beside the file.
    #[serde(skip)]
    pub texts: BTreeMap<String, String>,
}

/// Reads the file.
///
/// # Errors
/// With file and line.
pub fn parse(source: &Source<'_>) -> Result<KickstartSpec> {
    source.toml()
}
