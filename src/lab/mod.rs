//! A site on this machine, from the very artifacts.
//!
//! A virtual machine is `qemu`, with `agent` for commands inside it. A whole site, as containers or virtual machines:
//!
//! ```text
//! ostack-image lab up          (any number of runs, one after the other; none of them has to stay)
//!     │ starts once                        │ enters
//!     v                                    v
//! holder: pid 1 of a PID namespace, in mount and network namespaces of its own; bridges, layers, no way out
//!     ├─ systemd-nspawn controller01 ── systemd ── …      network namespace of its own, veths on the bridges
//!     └─ qemu-system-x86_64 compute01                     taps on the bridges; kernel and disk of its own
//! ```
//!
//! What must hold: everything that a lab starts or mounts lives in the holder's namespaces, so the end of that one process
//! is the end of all of it, however it comes. Outside are only a folder, for what outlives a node's power cut, and control
//! groups, which `down` removes. `machine` says what a node is, `holder` makes the namespaces, `inside` is what happens in
//! them, `vm` nodes as virtual machines there, `net` the cables, `disks` what nodes keep elsewhere than on the system's disk,
//! `group` control groups, `outside` looks at them from the command line.

pub mod agent;
pub mod disks;
pub mod group;
pub mod holder;
pub mod inside;
pub mod machine;
pub mod net;
pub mod outside;
pub mod qemu;
pub mod vm;
