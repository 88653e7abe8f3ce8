//! `ostack-image`: one `site.toml` in, the bootable images of a whole OpenStack out.
//!
//! The modules are the stages of the pipeline; each may use only those listed below it.
//!
//! - `cli` — clap types and one file per verb; the only place that prints
//! - `lab` — a site on this machine: QEMU
//! - `deploy` — what makes a role image one node: seeds
//! - `image` — manifest, initrd, boot loader, disk
//! - `layer` — trees, canonical tar, unpacking and configuring packages, erofs
//! - `lock`, `store` — exact packages and where they come from; content-addressed blobs and step results
//! - `secrets` — drawing what overlays declare, one encrypted file
//! - `plan` — the pure function from inputs to steps and digests; rendering
//! - `node` — what runs on a node: the initrd's init, the boot report, the engine of steps
//! - `model` — site, recipe, overlay, release as checked values
//! - `base` — errors, digests, names, paths, files, processes

pub mod base;
pub mod cli;
pub mod deploy;
pub mod image;
pub mod lab;
pub mod layer;
pub mod lock;
pub mod model;
pub mod node;
pub mod plan;
pub mod secrets;
pub mod store;
