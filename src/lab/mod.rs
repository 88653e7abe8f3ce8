//! A site on this machine, from the very artifacts.
//!
//! `qemu` one node as a virtual machine · `agent` commands inside it, by QEMU's guest agent.

pub mod agent;
pub mod qemu;
