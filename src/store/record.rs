//! What the store remembers of a finished step.

use crate::base::digest::Digest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A blob of the store: digest and size in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// sha256 of the bytes.
    pub digest: Digest,
    /// How many there are.
    pub size: u64,
}

/// A finished step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The step's name.
    pub step: String,
    /// Its inputs by name, each as a digest or a short value.
    pub inputs: BTreeMap<String, String>,
    /// Its outputs by name.
    pub outputs: BTreeMap<String, Blob>,
    /// Further facts about the outputs: a layer's diffID, for example.
    pub facts: BTreeMap<String, String>,
}
