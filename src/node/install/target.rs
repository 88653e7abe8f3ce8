//! The disk that is written: what of it is kept, and an order of writes that no loss of power can turn into half a system.
//!
//! ```text
//!          MBR's code          GPT                          what happens when the machine starts
//! -------  ------------------  ---------------------------  ------------------------------------------------
//! before   the old system's    the old system's             the old system, whole
//! close 1  "not this disk"     the old system's             UEFI: the old system; BIOS: the next device
//! close 2  "not this disk"     ostack-unfinished, state     the next device: the network, the installer again
//! …        "not this disk"     ostack-unfinished, state     the same
//! open 1   "not this disk"     the new system's, state      UEFI: the new system, whole; BIOS: the next device
//! open 2   the new system's    the new system's, state      the new system, whole
//! ```
//!
//! Each line is one step that is on the disk before the next begins: a sector, or a table of which there are two copies.

use crate::base::bundle::{BootIndex, INDEX_SIZE, STATE_PARTITION, SYSTEM_PARTITION};
use crate::base::error::{Context, Error, Result};
use crate::base::gpt::{ALIGNMENT, BACK, Guid, Partition, SECTOR, Table};
use crate::model::install::{Description, SEED_PARTITION, UNFINISHED_PARTITION};
use crate::node::disks::{Filesystem, probe};
use crate::node::state::MIN_SIZE;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The MBR's code of a disk that is none to start from: `int 18h`, by which a BIOS goes on to the next device, and if that comes
/// back, `hlt` for ever.
const NOT_THIS_DISK: [u8; 5] = [0xcd, 0x18, 0xf4, 0xeb, 0xfd];
/// The sector that keeps the claim, between table and first partition.
const CLAIM_SECTOR: u64 = 64;
const CLAIM_MAGIC: &[u8] = b"OSTACK CLAIM ";
/// The first bytes of a disk that Ceph's `ceph-volume raw` has given to an OSD.
const OSD: &[u8] = b"bluestore block device";

/// A disk that is open for writing.
pub struct Target {
    file: File,
    sectors: u64,
    name: String,
}

/// The tables of a disk before and after its system is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tables {
    closed: Table,
    open: Table,
    /// Whether there is a state partition that stays.
    pub keeps_state: bool,
}

impl Target {
    /// Opens a disk of `bytes`.
    ///
    /// # Errors
    /// It cannot be opened, or something of it is in use.
    pub fn open(path: &Path, bytes: u64) -> Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path).doing(|| format!("opening {}", path.display()))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { file, sectors: bytes / SECTOR, name })
    }

    /// The disk itself.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// What the tables are to be.
    ///
    /// # Errors
    /// The image does not fit on the disk or in front of the state, or the disk is an OSD's. Nothing is written.
    pub fn tables(&self, description: &Description, wipe_state: bool) -> Result<Tables> {
        let mut head = vec![0; OSD.len()];
        self.file.read_exact_at(&mut head, 0).doing(|| format!("reading {}", self.name))?;
        if head == OSD {
            return Err(Error::new(format!("{} holds data of Ceph (an OSD)", self.name))
                .next("name the system's disk in site.toml; or, if this is it and the data may go: wipefs --all on the disk"));
        }
        tables(Table::read(&self.file, self.sectors)?.as_ref(), description, self.sectors, wipe_state)
            .map_err(|error| error.doing(format!("looking at {}", self.name)))
    }

    /// Whether the disk has the image, whole.
    pub fn has(&self, description: &Description) -> bool {
        let index = || -> Result<Option<BootIndex>> {
            let Some(table) = Table::read(&self.file, self.sectors)? else { return Ok(None) };
            let Some((_, system)) = table.named(SYSTEM_PARTITION) else { return Ok(None) };
            let mut bytes = vec![0; INDEX_SIZE as usize];
            self.file.read_exact_at(&mut bytes, system.first * SECTOR).doing(|| "reading the index")?;
            BootIndex::decode(&bytes).map(Some)
        };
        matches!(index(), Ok(Some(index)) if index.image == description.image)
    }

    /// The claim that an installation of this disk began with and that was not the end of it.
    pub fn claim(&self) -> Option<String> {
        let mut sector = [0; SECTOR as usize];
        self.file.read_exact_at(&mut sector, CLAIM_SECTOR * SECTOR).ok()?;
        let rest = sector.strip_prefix(CLAIM_MAGIC)?;
        let text = std::str::from_utf8(rest.split(|byte| *byte == b'\n').next()?).ok()?;
        (text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| text.to_string())
    }

    /// Makes the disk one that no machine starts from, and keeps `claim` on it.
    ///
    /// # Errors
    /// The disk cannot be written.
    pub fn close(&self, tables: &Tables, claim: &str) -> Result<()> {
        let mut code = [0; 440];
        code[..NOT_THIS_DISK.len()].copy_from_slice(&NOT_THIS_DISK);
        self.sector(0, &tables.closed.front(&code)[..SECTOR as usize])?;
        tables.closed.write(&self.file)?;
        let mut sector = [CLAIM_MAGIC, claim.as_bytes(), b"\n"].concat();
        sector.resize(SECTOR as usize, 0);
        self.sector(CLAIM_SECTOR, &sector)
    }

    /// Puts the seed into its partition, and zeros behind it: what was there may have been a secret.
    ///
    /// # Errors
    /// It is no seed, or too large for its place; the disk cannot be written.
    pub fn seed(&self, description: &Description, seed: &[u8]) -> Result<()> {
        if probe(seed) != Filesystem::Erofs(crate::base::bundle::SEED_VOLUME.into()) {
            return Err(Error::new("what came as the seed is none").next("make it again: ostack-image seed"));
        }
        let place = description.partitions.iter().find(|partition| partition.name == SEED_PARTITION);
        let place = place.ok_or_else(|| Error::new("the image has no place for a seed").next("make the tree again"))?;
        let room = place.sectors() * SECTOR;
        let length = seed.len() as u64;
        if length > room {
            return Err(Error::new(format!("the seed has {} MiB, and there is room for {}", length >> 20, room >> 20)));
        }
        self.file.write_all_at(seed, place.first * SECTOR).doing(|| "writing the seed")?;
        super::write::zeros(&self.file, place.first * SECTOR + length, room - length)
    }

    /// Makes the disk one to start the new system from, which must be on it.
    ///
    /// # Errors
    /// The disk cannot be written, or the description's code is damaged.
    pub fn finish(&self, description: &Description, tables: &Tables) -> Result<()> {
        self.file.sync_all().doing(|| format!("writing {}", self.name))?;
        let code = STANDARD.decode(&description.boot_code).map_err(Error::new).doing(|| "reading the boot code")?;
        let code: [u8; 440] =
            code.try_into().map_err(|_| Error::new("the boot code has not 440 bytes").next("make the tree again"))?;
        tables.open.write(&self.file)?;
        self.sector(0, &tables.open.front(&code)[..SECTOR as usize])
    }

    /// Forgets the claim.
    ///
    /// # Errors
    /// The disk cannot be written.
    pub fn forget_claim(&self) -> Result<()> {
        self.sector(CLAIM_SECTOR, &[0; SECTOR as usize])
    }

    fn sector(&self, number: u64, bytes: &[u8]) -> Result<()> {
        let written = self.file.write_all_at(bytes, number * SECTOR).and_then(|()| self.file.sync_all());
        written.doing(|| format!("writing sector {number} of {}", self.name))
    }
}

fn tables(old: Option<&Table>, description: &Description, sectors: u64, wipe_state: bool) -> Result<Tables> {
    let state = old.filter(|_| !wipe_state).and_then(|table| table.named(STATE_PARTITION)).map(|(_, state)| state.clone());
    // The first sector behind the system.
    let end = description.end() / SECTOR;
    let mib = |sectors: u64| (sectors * SECTOR) >> 20;
    let least = end + MIN_SIZE / SECTOR + ALIGNMENT + BACK;
    match &state {
        None if sectors < least => {
            return Err(Error::new(format!("the disk has {} MiB; image and state need {}", mib(sectors), mib(least) + 1))
                .next("use a larger disk, or name another one in site.toml"));
        }
        Some(state) if state.first < end => {
            return Err(Error::new(format!(
                "the image needs {} MiB, and the node's state begins at {}",
                mib(end),
                mib(state.first)
            ))
            .next("give up the state (ostack-image arm NODE --wipe-state), or build a smaller image"));
        }
        _ => {}
    }
    let table = |partitions: BTreeMap<u32, Partition>| -> Result<Table> {
        let mut table = Table { disk: description.disk, sectors, partitions };
        if let Some(state) = &state {
            table.add(state.clone())?;
        }
        Ok(table)
    };
    let unfinished = Partition {
        kind: Guid::LINUX,
        id: Guid::derived(&description.image, UNFINISHED_PARTITION),
        first: ALIGNMENT,
        last: end - 1,
        attributes: 0,
        name: UNFINISHED_PARTITION.into(),
    };
    Ok(Tables {
        closed: table(BTreeMap::from([(1, unfinished)]))?,
        open: table((1..).zip(description.partitions.iter().cloned()).collect())?,
        keeps_state: state.is_some(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::digest::{Blob, Digest};
    use crate::base::tool::Tool;
    use crate::model::install::FORMAT;

    const MIB: u64 = 1 << 20;

    fn partition(name: &str, first_mib: u64, last_mib: u64) -> Partition {
        let sectors = MIB / SECTOR;
        Partition {
            kind: Guid::LINUX,
            id: Guid::derived(&Digest::of("x"), name),
            first: first_mib * sectors,
            last: (last_mib + 1) * sectors - 1,
            attributes: 0,
            name: name.into(),
        }
    }

    fn description() -> Description {
        let blob = Blob { digest: Digest::of("x"), size: 1 };
        Description {
            format: FORMAT,
            image: Digest::of("image"),
            role: "controller".into(),
            boot_code: STANDARD.encode([7; 440]),
            disk: Guid::derived(&Digest::of("image"), "disk"),
            partitions: vec![partition(SYSTEM_PARTITION, 1, 15), partition(SEED_PARTITION, 16, 31)],
            pieces: Vec::new(),
            kernel: blob,
            initrd: blob,
            command_line: String::new(),
        }
    }

    /// A disk of so many MiB, in memory but for what is written.
    fn disk(mib: u64) -> (tempfile::NamedTempFile, Target) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(mib * MIB).unwrap();
        let target = Target::open(file.path(), mib * MIB).unwrap();
        (file, target)
    }

    /// One that has been a node: a system of 40 MiB, a state behind it.
    fn node(state_from: u64) -> (tempfile::NamedTempFile, Target) {
        let (file, target) = disk(1024);
        let mut old = Table { disk: Guid::LINUX, sectors: target.sectors, partitions: BTreeMap::new() };
        old.add(partition(SYSTEM_PARTITION, 1, state_from - 1)).unwrap();
        old.add(partition(STATE_PARTITION, state_from, 900)).unwrap();
        target.file.write_all_at(&old.front(&[1; 440]), 0).unwrap();
        old.write(&target.file).unwrap();
        (file, target)
    }

    fn names(target: &Target) -> Vec<String> {
        let table = Table::read(&target.file, target.sectors).unwrap().unwrap();
        let line = |(number, one): (&u32, &Partition)| format!("{number} {} {}-{}", one.name, one.first / 2048, one.last / 2048);
        table.partitions.iter().map(line).collect()
    }

    fn code(target: &Target) -> [u8; 5] {
        let mut code = [0; 5];
        target.file.read_exact_at(&mut code, 0).unwrap();
        code
    }

    #[test]
    fn a_disk_is_closed_while_it_is_written_and_opened_when_it_is_whole() {
        let (file, target) = node(40);
        let tables = target.tables(&description(), false).unwrap();
        assert!(tables.keeps_state);
        let claim = "0123456789abcdef0123456789abcdef";
        assert_eq!(target.claim(), None);
        target.close(&tables, claim).unwrap();
        assert_eq!(names(&target), ["1 ostack-unfinished 1-31", "2 ostack-state 40-900"]);
        assert_eq!((code(&target), target.claim().as_deref()), (NOT_THIS_DISK, Some(claim)));
        // A machine that lost its power comes back to a disk like this.
        assert_eq!(target.tables(&description(), false).unwrap(), tables);
        target.finish(&description(), &tables).unwrap();
        assert_eq!(names(&target), ["1 ostack-system 1-15", "2 ostack-seed 16-31", "3 ostack-state 40-900"]);
        assert_eq!(code(&target), [7; 5]);
        target.forget_claim().unwrap();
        assert_eq!(target.claim(), None);
        let verdict = Tool::new("sgdisk").package("gdisk").arg("-v").arg(file.path()).run().unwrap().text();
        assert!(verdict.contains("No problems found"), "{verdict}");
    }

    #[test]
    fn a_blank_disk_gets_tables_that_are_sound_for_sgdisk() {
        let (file, target) = disk(1024);
        let tables = target.tables(&description(), false).unwrap();
        assert!(!tables.keeps_state);
        for step in [target.close(&tables, &"0".repeat(32)), target.finish(&description(), &tables)] {
            step.unwrap();
            let verdict = Tool::new("sgdisk").package("gdisk").arg("-v").arg(file.path()).run().unwrap().text();
            assert!(verdict.contains("No problems found"), "{verdict}");
        }
    }

    #[test]
    fn the_state_goes_only_when_somebody_said_so() {
        let (_file, target) = node(40);
        let tables = target.tables(&description(), true).unwrap();
        target.close(&tables, &"0".repeat(32)).unwrap();
        target.finish(&description(), &tables).unwrap();
        assert_eq!(names(&target), ["1 ostack-system 1-15", "2 ostack-seed 16-31"]);
    }

    #[test]
    fn an_image_that_reaches_into_the_state_is_refused_with_the_way_out() {
        let (_file, target) = node(20);
        let error = target.tables(&description(), false).unwrap_err().to_string();
        assert!(
            error.ends_with(
                ": the image needs 32 MiB, and the node's state begins at 20\n  \
                 next: give up the state (ostack-image arm NODE --wipe-state), or build a smaller image"
            ),
            "{error}"
        );
        assert_eq!(names(&target), ["1 ostack-system 1-19", "2 ostack-state 20-900"]);
    }

    #[test]
    fn a_disk_without_room_for_the_state_is_refused() {
        let (_file, target) = disk(500);
        let error = target.tables(&description(), false).unwrap_err().to_string();
        assert!(
            error.ends_with(
                ": the disk has 500 MiB; image and state need 546\n  next: use a larger disk, or name another one in site.toml"
            ),
            "{error}"
        );
    }

    #[test]
    fn a_disk_of_ceph_is_no_system_disk() {
        let (_file, target) = disk(1024);
        target.file.write_all_at(b"bluestore block device\n1234", 0).unwrap();
        let error = target.tables(&description(), false).unwrap_err().to_string();
        assert!(error.contains(" holds data of Ceph (an OSD)\n  next: name the system's disk in site.toml;"), "{error}");
    }

    #[test]
    fn behind_a_seed_nothing_of_the_one_before_is_left() {
        let (_file, target) = disk(64);
        target.file.write_all_at(&vec![0xee; 48 << 20], 0).unwrap();
        let mut seed = vec![0; 4096];
        seed[1024..1028].copy_from_slice(&0xe0f5_e1e2_u32.to_le_bytes());
        seed[1088..1099].copy_from_slice(b"OSTACK-SEED");
        target.seed(&description(), &seed).unwrap();
        let mut found = vec![1; 16 << 20];
        target.file.read_exact_at(&mut found, 16 << 20).unwrap();
        assert!(found[..4096] == seed && found[4096..].iter().all(|byte| *byte == 0));
        assert_eq!(
            target.seed(&description(), &[0; 4096]).unwrap_err().to_string(),
            "what came as the seed is none\n  next: make it again: ostack-image seed"
        );
    }

    #[test]
    fn a_disk_has_an_image_when_its_index_says_so() {
        let (_file, target) = node(40);
        assert!(!target.has(&description()));
        let index = BootIndex {
            image: description().image,
            role: "controller".into(),
            release: "r".into(),
            layers: Vec::new(),
            state: Vec::new(),
        };
        target.file.write_all_at(&index.encode().unwrap(), MIB).unwrap();
        assert!(target.has(&description()));
        // Closed, it is no system any more.
        let tables = target.tables(&description(), false).unwrap();
        target.close(&tables, &"0".repeat(32)).unwrap();
        assert!(!target.has(&description()));
    }
}
