//! Layers: from packages and rendered files to read-only filesystems with a name.
//!
//! `tree` a root as a value · `tar` its canonical stream, whose sha256 is the layer's identity ·
//! `deb` reading packages · `order` and `root` laying them down and configuring them · `accounts` their users' numbers ·
//! `configure` work of maintainer scripts that is done once · `sandbox` where foreign programs run ·
//! `scratch` where roots are built · `erofs` the stored form.
//! What must hold: equal inputs give equal streams; nothing of the build machine (clock, users, names,
//! order of directories) reaches a tree; nothing outside the root is written.

pub mod accounts;
pub mod configure;
pub mod deb;
pub mod erofs;
pub mod order;
pub mod root;
pub mod sandbox;
pub mod scratch;
pub mod tar;
pub mod tree;
