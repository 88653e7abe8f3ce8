//! A node of a lab as a virtual machine: QEMU in the lab's namespaces, its cards on the lab's bridges.
//!
//! Its disk is a file that holds what a real node's disk holds. A new image is put under its state: everything before the state
//! partition is the image's, the state stays where it is.

use super::machine::{Folder, Interface, Machine, Vm};
use super::qemu::{self, Card, Disk, Firmware, Spec};
use super::{disks, group, net};
use crate::base::bundle::STATE_PARTITION;
use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use crate::base::gpt::{Partition, SECTOR, Table};
use crate::image::copy;
use rustix::fs::SeekFrom;
use std::fs::File;
use std::path::{Path, PathBuf};

/// The size of a machine's disk in bytes; nearly all of it a hole at first.
const SIZE: u64 = 20 << 30;
/// What to do when the state cannot be kept.
const FROM_NOTHING: &str = "start it from nothing: ostack-image lab reimage NODE --wipe-state";
/// What QEMU itself says.
pub const LOG: &str = "qemu.log";
/// The guest agent's socket in the node's folder.
const AGENT: &str = "agent.sock";

/// The word of QEMU's command line by which a node's process is known.
pub fn word(node: &str) -> String {
    format!("guest={node}")
}

/// Where the guest agent of a node listens.
pub fn agent(folder: &Folder, node: &str) -> PathBuf {
    folder.node(node).join(AGENT)
}

/// Whether QEMU can give a node all that it must have.
///
/// # Errors
/// A card has no address, or a disk no serial number.
pub fn possible(machine: &Machine) -> Result<()> {
    cards(machine)?;
    machine.disks.iter().try_for_each(|disk| serial(disk).map(|_| ()))
}

fn cards(machine: &Machine) -> Result<Vec<Card>> {
    let card = |(number, interface): (usize, &Interface)| {
        let mac = interface.mac.clone().ok_or_else(|| {
            Error::new(format!("the interface {} of {} has no MAC address", interface.name, machine.node))
                .next("give it one in site.toml: a virtual machine's cards are told apart by it")
        })?;
        Ok(Card { mac, netdev: format!("tap,ifname={},script=no,downscript=no", net::end(machine, number)) })
    };
    machine.interfaces.iter().enumerate().map(card).collect()
}

fn serial(disk: &super::machine::Disk) -> Result<&str> {
    disks::serial(disk).ok_or_else(|| {
        Error::new(format!("a virtual machine cannot have a disk at {}", disk.path.display()))
            .next("name it by its serial number, in the site too: /dev/disk/by-id/virtio-SERIAL")
    })
}

/// Starts the machine; comes back at once.
///
/// # Errors
/// QEMU is missing, too old, or refuses; a card has no address.
pub fn start(folder: &Folder, machine: &Machine, vm: &Vm) -> Result<()> {
    let name = machine.node.as_str();
    let own = folder.node(name);
    let mut spec = Spec {
        disk: Disk::Own(folder.system(name)),
        seed: Some(folder.seed(name)),
        disks: Vec::new(),
        firmware: Firmware::Bios,
        start: qemu::Start::default(),
        memory: vm.memory,
        cpus: vm.cpus,
        cards: cards(machine)?,
        kernel: Some(vm.kernel.clone()),
    };
    for (number, disk) in machine.disks.iter().enumerate() {
        spec.disks.push((serial(disk)?.to_string(), disks::file(folder, name, number, disk)?));
    }
    // Of this start alone: what is waited for is what the machine says now.
    std::fs::write(folder.console(name), "").doing(|| format!("emptying {}", folder.console(name).display()))?;
    net::plug(machine)?;
    group::join(&group::of(folder.path(), Some(name))?)?;
    let tool = qemu::tool(&spec, &own)?.arg("-name").arg(word(name));
    tool.launch(&own.join(LOG)).doing(|| format!("starting {name}"))
}

/// Puts an image's disk under a machine: `image` is a raw file that nobody else writes. A state partition that the machine has is
/// kept. The old disk is there until the new one is whole.
///
/// # Errors
/// The image reaches into the state, the old disk has no table that can be read, or the folder cannot be written.
pub fn put(image: &Path, disk: &Path) -> Result<()> {
    let what = || format!("writing {}", disk.display());
    let source = fs::open(image)?;
    let length = source.metadata().doing(what)?.len();
    let old = disk.exists().then(|| fs::open(disk)).transpose()?;
    let before = old.as_ref().map(|old| old.metadata().map(|meta| meta.len())).transpose().doing(what)?.unwrap_or(0);
    let size = SIZE.max(length).max(before);
    let state = old.as_ref().map(|old| state_of(old, before)).transpose().map_err(|error| error.doing(what()))?.flatten();
    let new = fs::temporary_beside(disk)?;
    let file = new.as_file();
    file.set_len(size).doing(what)?;
    // What the image has behind, its second table, would be in the state.
    let end = state.as_ref().map_or(length, |state| length.min(state.first * SECTOR));
    copy(&source, file, 0, end).doing(what)?;
    if let (Some(old), Some(state)) = (&old, state) {
        keep(old, state, file, size).map_err(|error| error.doing(what()))?;
    }
    fs::persist(new, disk, 0o600)
}

/// The state partition of a disk; one that is new by name holds nothing yet.
fn state_of(disk: &File, length: u64) -> Result<Option<Partition>> {
    let table = Table::read(disk, length / SECTOR)?
        .ok_or_else(|| Error::new("the old disk has no partition table that can be read").next(FROM_NOTHING))?;
    Ok(table.named(STATE_PARTITION).map(|(_, state)| state.clone()))
}

/// Copies the state partition to its place on the new disk, and names it in the table there.
fn keep(old: &File, state: Partition, new: &File, size: u64) -> Result<()> {
    let mut table = Table::read(new, size / SECTOR)?.ok_or_else(|| Error::new("the image has no partition table"))?;
    table.add(state.clone()).map_err(|error| error.next(FROM_NOTHING))?;
    copy(old, new, state.first * SECTOR, (state.last + 1) * SECTOR).doing(|| "copying the state")?;
    table.write(new)
}

/// Copies what a sparse file holds between two offsets to the same place of another one, holes left out.
fn copy(source: &File, target: &File, from: u64, end: u64) -> Result<()> {
    let mut at = from;
    while at < end {
        let begin = match rustix::fs::seek(source, SeekFrom::Data(at)) {
            Ok(begin) if begin < end => begin,
            // Nothing but a hole is left.
            Ok(_) | Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(Error::new(error)),
        };
        at = rustix::fs::seek(source, SeekFrom::Hole(begin)).doing(|| "finding a hole")?.min(end);
        copy::copy_range(source, begin, target, begin, at - begin)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::digest::Digest;
    use crate::base::gpt::Guid;
    use std::os::unix::fs::FileExt;

    /// A disk with one partition, `name`, that holds `text`.
    fn disk(path: &Path, sectors: u64, (name, first, last): (&str, u64, u64), text: &str) {
        let file = File::create_new(path).unwrap();
        file.set_len(sectors * SECTOR).unwrap();
        let id = Guid::derived(&Digest::of(text), name);
        let partition = Partition { kind: Guid::LINUX, id, first, last, attributes: 0, name: name.to_string() };
        let mut table = Table { disk: id, sectors, partitions: Default::default() };
        table.add(partition).unwrap();
        file.write_all_at(&table.front(&[7; 440]), 0).unwrap();
        table.write(&file).unwrap();
        file.write_all_at(text.as_bytes(), first * SECTOR).unwrap();
    }

    /// Where an image and a machine's disk are to be.
    fn files() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let (image, own) = (folder.path().join("image.raw"), folder.path().join("system.raw"));
        (folder, image, own)
    }

    /// The same, and the machine has a state.
    fn with_state() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let (folder, image, own) = files();
        disk(&own, SIZE / SECTOR, (STATE_PARTITION, 40960, 81919), "the state");
        (folder, image, own)
    }

    fn at(path: &Path, sector: u64, length: usize) -> String {
        let mut bytes = vec![0; length];
        File::open(path).unwrap().read_exact_at(&mut bytes, sector * SECTOR).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn names(path: &Path) -> Vec<String> {
        let table = Table::read(&File::open(path).unwrap(), SIZE / SECTOR).unwrap().unwrap();
        table.partitions.values().map(|one| format!("{} {} {}", one.name, one.first, one.last)).collect()
    }

    #[test]
    fn a_new_image_leaves_the_state_where_and_what_it_was() {
        let (_folder, image, own) = with_state();
        disk(&image, 65536, ("system", 2048, 40959), "the new image");
        put(&image, &own).unwrap();
        assert_eq!(names(&own), ["system 2048 40959", "ostack-state 40960 81919"]);
        assert_eq!((at(&own, 2048, 13), at(&own, 40960, 9)), ("the new image".to_string(), "the state".to_string()));
        // The code that BIOS starts is the image's.
        assert_eq!(at(&own, 0, 2), "\u{7}\u{7}");
    }

    #[test]
    fn what_an_image_has_where_the_state_is_does_not_get_into_its_holes() {
        let (_folder, image, own) = with_state();
        // Its second table is in its last 33 sectors.
        disk(&image, 65536, ("system", 2048, 40959), "the new image");
        assert_eq!(at(&image, 65535, 8), "EFI PART");
        put(&image, &own).unwrap();
        assert_eq!(at(&own, 65535, 8), "\0".repeat(8));
    }

    #[test]
    fn a_disk_whose_table_cannot_be_read_is_not_written_over() {
        let (_folder, image, own) = files();
        disk(&image, 65536, ("system", 2048, 40959), "the new image");
        std::fs::write(&own, vec![1; 1 << 20]).unwrap();
        assert_eq!(
            put(&image, &own).unwrap_err().to_string(),
            format!("writing {}: the old disk has no partition table that can be read\n  next: {FROM_NOTHING}", own.display())
        );
        assert_eq!(std::fs::read(&own).unwrap(), vec![1; 1 << 20]);
    }

    #[test]
    fn an_image_that_reaches_into_the_state_is_refused_and_the_disk_is_as_before() {
        let (_folder, image, own) = with_state();
        disk(&image, 65536, ("system", 2048, 51199), "the new image");
        let error = put(&image, &own).unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "writing {}: the partition ostack-state would overlap system\n  next: start it from nothing: ostack-image lab reimage NODE --wipe-state",
                own.display()
            )
        );
        assert_eq!(names(&own), ["ostack-state 40960 81919"]);
    }
}
