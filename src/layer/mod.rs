//! Layers: from packages and rendered files to read-only filesystems with a name.
//!
//! `tree` a root as a value · `content` what is in its files · `times` of its files · `owner` numbers, also where the kernel has but one · `owners` which package's they are · `marks` overlayfs's notes in one · `tar` its canonical stream, whose sha256 is the layer's identity ·
//! `deb` reading packages · `unpack` laying most of them down on every core · `order` and `root` laying them down and configuring them · `rpm` the same for that backend ·
//! `configure` what runs beside maintainer scripts · `kept` what it keeps between builds · `accounts` their users' numbers · `sandbox` where foreign programs run ·
//! `user_namespace` root for those who are not · `scratch` where roots are built · `mounted` stored layers to read from ·
//! `merge` layers to the one root that they are · `gzip` on every core · `erofs` the stored form.
//! What must hold: equal inputs give equal streams; nothing of the build machine (clock, users, names,
//! order of directories) reaches a tree; nothing outside the root is written.

pub mod accounts;
pub mod configure;
pub mod content;
pub mod deb;
pub mod erofs;
pub mod gzip;
mod kept;
mod marks;
pub mod merge;
pub mod mounted;
pub mod order;
pub mod owner;
pub mod owners;
pub mod root;
pub mod rpm;
pub mod sandbox;
pub mod scratch;
pub mod tar;
pub mod times;
pub mod tree;
pub mod unpack;
pub mod user_namespace;
