//! What the store remembers of a finished step.

use crate::base::digest::Blob;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

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
