//! From a plan to an image, and from an image to a disk that boots.
//!
//! `build` carries a role's plan out; `unpacked` keeps packages without compression; `lint` looks for what no layer may hold, `check` has the services judge their files, `verdict` takes their words; `manifest` is the image's name and content in the store.
//! `disk` lays a disk out as extents, without writing anything. `esp` and `grub` make two of its parts, `initrd`
//! makes the initrd that goes into the ESP, `installer` what a machine that is to be installed gets besides. `extent` writes extents to a file and hashes it on the way, `copy` as fast as filesystem and disk can; `qcow2` turns a
//! disk's extents into those of a qcow2 file. `solver` is where packages are resolved. `archive` writes the root that layers are together. But for that one's, which end
//! with it, nothing here mounts; nothing asks the clock: every byte comes from the caller's values and files.
//!
//! Another disk format is one more function from extents to extents, beside `qcow2`.

mod archive;
pub mod artifact;
pub mod build;
pub mod check;
pub mod copy;
pub mod disk;
pub mod esp;
pub mod extent;
pub mod grub;
pub mod initrd;
pub mod installer;
pub mod lint;
pub mod manifest;
pub mod qcow2;
pub mod solver;
pub mod step;
pub mod tools;
mod unpacked;
pub mod verdict;
