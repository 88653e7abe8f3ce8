//! What makes a role image one node.
//!
//! `seed` the small volume with a node's own files.

pub mod seed;
