//! `images/netboot.toml`: the tree that blank machines start from.

use super::Source;
use crate::base::error::Result;
use crate::base::path::RelPath;
use serde::Deserialize;
use std::collections::BTreeMap;

/// What the tree is made of, besides blobs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetbootSpec {
    /// The secret whose certificate an installer trusts, and whose key signs that of `ostack-image serve`.
    pub authority: String,
    /// Files that are rendered.
    #[serde(rename = "template", default)]
    pub templates: Vec<Template>,
    /// Files of the release's loaders.
    #[serde(rename = "loader", default)]
    pub loaders: Vec<Loader>,
    /// Images of GRUB.
    #[serde(rename = "grub", default)]
    pub grubs: Vec<Grub>,
    /// The templates' texts by name; from the folder beside the file.
    #[serde(skip)]
    pub texts: BTreeMap<String, String>,
}

/// A file that is rendered.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// The template in `images/netboot`.
    pub source: String,
    /// Where it lies in the tree, from its root on: a template itself.
    pub path: String,
    /// For what it is rendered.
    #[serde(default)]
    pub each: Each,
    /// The template of what `ostack-image serve` gives out instead while it does not expect the node: it starts its disk.
    pub disk: Option<String>,
}

/// For what a template is rendered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Each {
    /// Once.
    #[default]
    Site,
    /// For each node with a MAC address, `mac`.
    Mac,
    /// For each node with a serial number or UUID, `serial`.
    Serial,
}

/// A file of the loaders.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Loader {
    /// Where it is in the loaders' root.
    pub source: RelPath,
    /// Where it lies in the tree.
    pub path: RelPath,
}

/// An image of GRUB.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grub {
    /// Where it lies in the tree.
    pub path: RelPath,
    /// `grub-mkimage --format`.
    pub format: String,
    /// Its configuration: a template.
    pub config: String,
    /// Its modules.
    pub modules: Vec<String>,
}

/// Reads the file.
///
/// # Errors
/// With file and line.
pub fn parse(source: &Source<'_>) -> Result<NetbootSpec> {
    source.toml()
}
