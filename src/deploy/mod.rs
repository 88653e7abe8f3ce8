//! What makes a role image one node, and what makes blank machines nodes.
//!
//! `seed` the small volume with a node's own files, `config_drive` the same for OpenStack's bare metal service; `describe` what an installer writes; `netboot` the tree that machines start
//! from; `arming` which nodes are expected, and what happened; `serve` gives tree and seeds out; `kickstart` the bundle for Anaconda;
//! `iso` a medium that installs.

pub mod arming;
pub mod config_drive;
pub mod describe;
pub mod iso;
pub mod kickstart;
pub mod netboot;
pub mod seed;
pub mod serve;
