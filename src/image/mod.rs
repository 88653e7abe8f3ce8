//! From layers, kernel and initrd to a disk that boots.
//!
//! `disk` lays a disk out as extents, without writing anything. `esp` and `grub` make two of its parts, `initrd`
//! makes the initrd that goes into the ESP. `extent` writes extents to a file and hashes it on the way; `qcow2` turns a
//! disk's extents into those of a qcow2 file. Nothing here mounts, attaches or asks the clock: every byte comes from the
//! caller's values and files.
//!
//! Another disk format is one more function from extents to extents, beside `qcow2`.

pub mod disk;
pub mod esp;
pub mod extent;
pub mod grub;
pub mod initrd;
pub mod qcow2;
