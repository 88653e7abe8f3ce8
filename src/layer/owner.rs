//! Whose files are, also where the kernel lets them be root's only.
//!
//! In a user namespace with one id every file is root's. An owner is then an attribute of the file, `user.ostack.owner`, with both
//! numbers. It goes where the file goes, into an overlay's upper directory too, and it is in no layer: a tree takes it for the owner.
//! Access control lists have numbers of owners in them, and are noted the same way, with `user.ostack.` before their attribute's name.

use super::user_namespace;
use rustix::fs::{AtFlags, CWD, Gid, Uid, XattrFlags, chownat, lgetxattr, lremovexattr, lsetxattr};
use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const PREFIX: &str = "user.ostack.";
const NOTE: &str = "user.ostack.owner";
const ACLS: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];
/// Tags of an access control list's entries, by the names that Linux's posix_acl.h has for them.
mod tag {
    pub const USER_OBJ: u16 = 0x01;
    pub const USER: u16 = 0x02;
    pub const GROUP_OBJ: u16 = 0x04;
    pub const GROUP: u16 = 0x08;
    pub const MASK: u16 = 0x10;
    pub const OTHER: u16 = 0x20;
}

/// Gives a path an owner; a symbolic link itself.
///
/// # Errors
/// The kernel's.
pub fn give(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
    if user_namespace::has_one_id() {
        return note_path(path, uid, gid);
    }
    Ok(chownat(CWD, path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// The owner of a path, whose metadata these are.
pub fn of(path: &Path, meta: &Metadata) -> (u32, u32) {
    let noted = if user_namespace::has_one_id() { noted_path(path) } else { None };
    noted.unwrap_or((meta.uid(), meta.gid()))
}

/// The owner that is noted among the attributes of a file of that mode, taken out of them; lists that are noted get their own names.
pub(super) fn take(xattrs: &mut BTreeMap<String, Vec<u8>>, mode: u32) -> Option<(u32, u32)> {
    for name in ACLS {
        if let Some(list) = xattrs.remove(&format!("{PREFIX}{name}")) {
            xattrs.insert(name.to_string(), as_of(name, list, mode));
        }
    }
    xattrs.remove(NOTE).and_then(|text| parse(&text))
}

/// Gives a path an attribute; a symbolic link itself.
///
/// # Errors
/// The kernel's.
pub(super) fn set_attribute(path: &Path, name: &str, value: &[u8]) -> io::Result<()> {
    if user_namespace::has_one_id() && is_acl(name) {
        return Ok(lsetxattr(path, format!("{PREFIX}{name}"), value, XattrFlags::empty())?);
    }
    Ok(lsetxattr(path, name, value, XattrFlags::empty())?)
}

/// Whether an attribute is an access control list.
pub(super) fn is_acl(name: &str) -> bool {
    ACLS.contains(&name)
}

/// Notes an access control list of an open file or place that names somebody, and sets the permissions that it stands for, as the
/// kernel does. False where it names nobody: then the kernel can have it, and there is no older note any more.
///
/// # Errors
/// It can have no note.
pub(super) fn note_acl(file: &File, name: &str, list: &[u8]) -> io::Result<bool> {
    let path = through(file);
    if !names_somebody(list) {
        forget_acl(file, name)?;
        return Ok(false);
    }
    absent(rustix::fs::removexattr(&path, name))?;
    rustix::fs::setxattr(&path, format!("{PREFIX}{name}"), list, XattrFlags::empty())?;
    if name == ACLS[0]
        && let Some(bits) = permissions(list)
    {
        let mode = file.metadata()?.mode() & 0o7000 | bits;
        rustix::fs::chmod(&path, rustix::fs::Mode::from_raw_mode(mode))?;
    }
    Ok(true)
}

/// The access control list that is noted of an open file or place.
pub(super) fn noted_acl(file: &File, name: &str) -> Option<Vec<u8>> {
    let (path, note) = (through(file), format!("{PREFIX}{name}"));
    let mut list = vec![0; rustix::fs::getxattr_query(&path, &note).ok()?];
    let length = rustix::fs::getxattr(&path, &note, &mut list).ok()?;
    list.truncate(length);
    Some(as_of(name, list, file.metadata().ok()?.mode()))
}

/// Takes the note of an access control list away. Whether there was one.
///
/// # Errors
/// The kernel's.
pub(super) fn forget_acl(file: &File, name: &str) -> io::Result<bool> {
    let removed = rustix::fs::removexattr(through(file), format!("{PREFIX}{name}"));
    let noted = removed.is_ok();
    absent(removed)?;
    Ok(noted)
}

/// The names of an open file's or place's attributes, each with a zero behind it, where any is a note: as they would be without notes.
pub(super) fn attributes(file: &File) -> Option<Vec<u8>> {
    let path = through(file);
    let mut names = vec![0; rustix::fs::listxattr_query(&path).ok()?];
    let length = rustix::fs::listxattr(&path, &mut names).ok()?;
    names.truncate(length);
    let all: Vec<&[u8]> = names.split_inclusive(|byte| *byte == 0).collect();
    let without = |name: &[u8]| name.strip_prefix(PREFIX.as_bytes()).map(<[u8]>::to_vec);
    all.iter().any(|name| without(name).is_some()).then(|| {
        let shown = all.iter().filter(|name| !name.starts_with(NOTE.as_bytes()));
        shown.flat_map(|name| without(name).unwrap_or_else(|| name.to_vec())).collect()
    })
}

/// Whether a list has entries of users or groups with numbers.
fn names_somebody(list: &[u8]) -> bool {
    entries(list).any(|(tag, _)| [tag::USER, tag::GROUP].contains(&tag))
}

/// Tag and permissions of a list's entries. The form is that of Linux's posix_acl_xattr.h: 4 bytes of version, then entries of 8, tag
/// and permissions first.
fn entries(list: &[u8]) -> impl Iterator<Item = (u16, u32)> {
    let entries = list.get(4..).unwrap_or_default().chunks_exact(8);
    entries.map(|entry| (u16::from_le_bytes([entry[0], entry[1]]), u32::from(entry[2] & 7)))
}

/// A list that names somebody, of a file whose mode was perhaps changed since: the kernel writes the mode into the list.
fn as_of(name: &str, mut list: Vec<u8>, mode: u32) -> Vec<u8> {
    if name == ACLS[0] {
        for entry in list.get_mut(4..).unwrap_or_default().chunks_exact_mut(8) {
            let shift = match u16::from_le_bytes([entry[0], entry[1]]) {
                tag::USER_OBJ => 6,
                tag::MASK => 3,
                tag::OTHER => 0,
                _ => continue,
            };
            entry[2] = (mode >> shift & 7) as u8;
        }
    }
    list
}

/// The permissions that a list stands for: its owner's, its mask's or else its group's, and those of others.
fn permissions(list: &[u8]) -> Option<u32> {
    let entries: BTreeMap<u16, u32> = entries(list).collect();
    let (user, group, other) = (entries.get(&tag::USER_OBJ)?, entries.get(&tag::GROUP_OBJ)?, entries.get(&tag::OTHER)?);
    let mask = entries.get(&tag::MASK);
    Some(user << 6 | mask.unwrap_or(group) << 3 | other)
}

/// The owner that is noted of an open file or place.
pub(super) fn noted(file: &File) -> Option<(u32, u32)> {
    let mut text = [0; 32];
    let length = rustix::fs::getxattr(through(file), NOTE, &mut text).ok()?;
    parse(&text[..length])
}

/// Notes an owner of an open file or place.
///
/// # Errors
/// It can have no note.
pub(super) fn note(file: &File, uid: u32, gid: u32) -> io::Result<()> {
    let path = through(file);
    // As the real call, this takes set-user-id bits and capabilities away, and copies a file up from a lower layer.
    rustix::fs::chown(&path, Some(Uid::ROOT), Some(Gid::ROOT))?;
    if (uid, gid) == (0, 0) {
        return absent(rustix::fs::removexattr(&path, NOTE));
    }
    Ok(rustix::fs::setxattr(&path, NOTE, text(uid, gid).as_bytes(), XattrFlags::empty())?)
}

/// The way to a place that is open for nothing: the kernel follows this link to the place itself, whatever it is.
fn through(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn note_path(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
    chownat(CWD, path, Some(Uid::ROOT), Some(Gid::ROOT), AtFlags::SYMLINK_NOFOLLOW)?;
    if (uid, gid) == (0, 0) {
        return absent(lremovexattr(path, NOTE));
    }
    Ok(lsetxattr(path, NOTE, text(uid, gid).as_bytes(), XattrFlags::empty())?)
}

fn noted_path(path: &Path) -> Option<(u32, u32)> {
    let mut text = [0; 32];
    let length = lgetxattr(path, NOTE, &mut text).ok()?;
    parse(&text[..length])
}

/// To remove a note that is not there is no error; neither is it where there can be none.
fn absent(removed: rustix::io::Result<()>) -> io::Result<()> {
    use rustix::io::Errno;
    match removed {
        Err(Errno::NODATA | Errno::NOTSUP | Errno::PERM) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn text(uid: u32, gid: u32) -> String {
    format!("{uid}:{gid}")
}

fn parse(text: &[u8]) -> Option<(u32, u32)> {
    let (uid, gid) = std::str::from_utf8(text).ok()?.split_once(':')?;
    Some((uid.parse().ok()?, gid.parse().ok()?))
}
