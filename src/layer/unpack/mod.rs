//! Lays packages down as `dpkg --unpack` leaves them, on every core at once.
//!
//! dpkg unpacks one package after the other: it starts two programs for each, hands every byte through a pipe, makes each file
//! under another name first, and writes its notes again after each. Most packages need none of that, because they bring only paths
//! that nobody else has. They are laid down here; the rest is dpkg's, and so is everything from configuring on.
//!
//! ```text
//! archives ── survey ──┬─ simple: directories, then files side by side, then dpkg's notes
//!                      └─ left to dpkg: with a script that runs before, or a path that another has
//! ```
//!
//! What makes a package simple is in `survey`; how dpkg unpacks was read in its source, version 1.22.21 (`src/main/unpack.c`,
//! `src/main/archives.c`, `lib/dpkg/triglib.c`).

pub mod archive;
mod database;
mod ground;
mod survey;

use super::owner;
use super::tree::set_mtime;
use crate::base::error::{Context, Error, Result};
use crate::base::parallel;
use crate::base::path::RelPath;
use archive::{Archive, Entry, Kind};
pub use ground::Ground;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;
use survey::Survey;

/// How much of a package is kept in memory while it is written, in bytes, a file's more.
const SEEN: usize = 16 << 20;

/// Numbers of the root's accounts by name.
struct Owners {
    users: BTreeMap<String, u32>,
    groups: BTreeMap<String, u32>,
}

impl Owners {
    /// As dpkg does: by name where the root has it, by number otherwise.
    fn of(&self, entry: &Entry) -> (u32, u32) {
        let id = |known: &BTreeMap<String, u32>, (name, number): &(String, u32)| known.get(name).copied().unwrap_or(*number);
        (id(&self.users, &entry.user), id(&self.groups, &entry.group))
    }
}

/// Lays down those of the packages that are simple, and notes them as unpacked; gives the positions of the others, which dpkg must
/// unpack.
///
/// # Errors
/// A package is damaged, or the root cannot be read or written.
pub fn lay_down(archives: &[Archive], ground: &mut Ground) -> Result<Vec<usize>> {
    let files = parallel::each(archives, parallel::cores(), "reading packages", |archive| {
        let entries = archive.entries();
        archive.release();
        entries
    })?;
    let mut survey = Survey::new(ground)?;
    let (mut simple, mut left) = (Vec::new(), Vec::new());
    for (position, (archive, entries)) in archives.iter().zip(&files).enumerate() {
        if survey.takes(archive, entries)? {
            simple.push((archive, entries.as_slice()));
        } else {
            left.push(position);
        }
    }
    if simple.is_empty() {
        return Ok(left);
    }
    let owners = Owners { users: ground.accounts("etc/passwd")?, groups: ground.accounts("etc/group")? };
    let interests = database::interests(ground)?;
    let mut activated = database::Activated::new();
    for (archive, entries) in &simple {
        make_directories(ground, &owners, entries)?;
        database::activates(archive, entries, &interests, &mut activated)?;
    }
    ground.open(&"var/lib/dpkg/info".parse()?)?;
    let still: &Ground = ground;
    parallel::each(&simple, parallel::cores(), "unpacking packages", |(archive, entries)| {
        let what = || format!("unpacking {}", archive.field("package"));
        let conffiles = survey::conffiles(archive).unwrap_or_default();
        write_files(still, &owners, archive, entries, &conffiles).doing(what)?;
        archive.release();
        database::write_info(still, archive, entries).doing(what)
    })?;
    database::record(ground, &simple, &activated)?;
    Ok(left)
}

/// Once dpkg has configured the packages, takes away the file that handed their triggers over, if that only repeats the lower root's.
///
/// # Errors
/// It cannot be removed.
pub fn end(ground: &Ground) -> Result<()> {
    database::forget_handed_over(ground)
}

/// Makes the directories that a package is the first to bring.
fn make_directories(ground: &mut Ground, owners: &Owners, entries: &[Entry]) -> Result<()> {
    for entry in entries.iter().filter(|entry| !entry.path.is_root()) {
        let parent = entry.path.parent().unwrap_or_default();
        if entry.kind != Kind::Directory {
            ground.open(&parent)?;
        } else if ground.find(&entry.path)? == ground::Found::Nothing {
            ground.open(&parent)?;
            let place = ground.place(&entry.path);
            let what = || format!("making the directory {}", entry.path);
            std::fs::create_dir(&place).doing(what)?;
            settle(&place, owners.of(entry), entry).doing(what)?;
            ground.has_made(&entry.path);
        }
    }
    Ok(())
}

fn write_files(
    ground: &Ground,
    owners: &Owners,
    archive: &Archive,
    entries: &[Entry],
    conffiles: &BTreeSet<RelPath>,
) -> Result<()> {
    let mut seen = 0;
    for entry in entries {
        let what = || format!("writing {}", entry.path);
        let place =
            ground.place(&if conffiles.contains(&entry.path) { survey::beside(&entry.path)? } else { entry.path.clone() });
        match &entry.kind {
            Kind::Directory => {}
            Kind::File(range) => {
                // Nobody can read it before it has its owner and mode.
                let mut file = std::fs::File::options().write(true).create_new(true).mode(0o000).open(&place).doing(what)?;
                file.write_all(archive.content(range)?).doing(what)?;
                drop(file);
                settle(&place, owners.of(entry), entry).doing(what)?;
                seen += range.len();
                if seen > SEEN {
                    archive.release();
                    seen = 0;
                }
            }
            Kind::Symlink(target) => {
                symlink(target, &place).doing(what)?;
                let (uid, gid) = owners.of(entry);
                owner::give(&place, uid, gid).doing(what)?;
                set_mtime(&place, entry.mtime).doing(what)?;
            }
            Kind::HardLink(target) => std::fs::hard_link(ground.place(target), &place).doing(what)?,
            Kind::Other => return Err(Error::new("it is no file, directory or link").doing(what())),
        }
    }
    Ok(())
}

/// Owner, mode and time of a file or directory; in this order, because changing an owner takes set-uid bits away.
fn settle(place: &Path, (uid, gid): (u32, u32), entry: &Entry) -> std::io::Result<()> {
    owner::give(place, uid, gid)?;
    std::fs::set_permissions(place, std::fs::Permissions::from_mode(entry.mode))?;
    set_mtime(place, entry.mtime)
}

#[cfg(test)]
mod tests;
