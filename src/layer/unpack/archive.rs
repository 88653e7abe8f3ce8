//! A package whose members are not compressed ([`deb::decompress`]), mapped into memory: what is in it, and where.

use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use crate::base::path::RelPath;
use crate::layer::deb::{self, Control};
use memmap2::Mmap;
use std::io::{Cursor, Read};
use std::ops::Range;
use std::path::Path;

/// A package, ready to be laid down.
pub struct Archive {
    map: Mmap,
    data: Range<usize>,
    /// Its control file as it is written.
    pub control_text: String,
    /// The control file's fields.
    pub control: Control,
    /// The other files of its control archive.
    pub members: Vec<Member>,
}

/// A file of a package's control archive.
pub struct Member {
    /// Its name: `postinst`, `md5sums`.
    pub name: String,
    /// Whether it may be executed.
    pub executable: bool,
    /// Modification time, seconds since 1970.
    pub mtime: i64,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// A path that a package brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where.
    pub path: RelPath,
    /// What.
    pub kind: Kind,
    /// Permission bits, with set-uid, set-gid and sticky.
    pub mode: u32,
    /// Modification time, seconds since 1970.
    pub mtime: i64,
    /// The owner's name, empty when the archive has none, and number.
    pub user: (String, u32),
    /// The group's.
    pub group: (String, u32),
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A file; where its bytes are in the package's data.
    File(Range<usize>),
    /// A directory.
    Directory,
    /// A symbolic link and its target.
    Symlink(String),
    /// Another name of a file of the same package.
    HardLink(RelPath),
    /// Anything else.
    Other,
}

impl Archive {
    /// Maps a package and reads its control archive.
    ///
    /// # Errors
    /// It cannot be read, is truncated or no Debian package, or is compressed.
    pub fn open(path: &Path) -> Result<Self> {
        let doing = || format!("reading the package {}", path.display());
        let file = fs::open(path)?;
        // SAFETY: files of the store are never written again once they have their names.
        let map = unsafe { Mmap::map(&file) }.doing(doing)?;
        let find = |name| deb::plain_member(&map, name).map_err(|error| error.doing(doing()));
        let (control, data) = (find("control.tar")?, find("data.tar")?);
        let mut archive = Self { data, control_text: String::new(), control: Control::new(), members: Vec::new(), map };
        let members = archive.read_members(control).doing(doing)?;
        for member in members {
            if member.name == "control" {
                archive.control_text =
                    String::from_utf8(member.bytes).map_err(|_| Error::new("its control file is no text").doing(doing()))?;
                archive.control = deb::parse_control(&archive.control_text);
            } else {
                archive.members.push(member);
            }
        }
        if archive.control.is_empty() {
            return Err(Error::new("it has no control file").doing(doing()));
        }
        archive.release();
        Ok(archive)
    }

    /// Gives the memory back in which the file is seen, until it is looked at again: there are many hundred packages.
    pub fn release(&self) {
        // SAFETY: the mapping is of a file and read-only, so its bytes come back as they were.
        let _ = unsafe { self.map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
    }

    fn read_members(&self, range: Range<usize>) -> std::io::Result<Vec<Member>> {
        let mut members = Vec::new();
        for entry in tar::Archive::new(&self.map[range]).entries()? {
            let mut entry = entry?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let name = entry.path()?.to_string_lossy().trim_start_matches("./").to_string();
            let executable = entry.header().mode()? & 0o100 != 0;
            let mtime = i64::try_from(entry.header().mtime()?).unwrap_or(0);
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            members.push(Member { name, executable, mtime, bytes });
        }
        Ok(members)
    }

    /// A field of the control file, empty where it has none.
    pub fn field(&self, name: &str) -> &str {
        self.control.get(name).map_or("", String::as_str)
    }

    /// The bytes of a file of the control archive.
    pub fn member(&self, name: &str) -> Option<&[u8]> {
        self.members.iter().find(|member| member.name == name).map(|member| member.bytes.as_slice())
    }

    /// Everything that the package brings, in its own order; the root itself included.
    ///
    /// # Errors
    /// The archive is damaged, or has a path that leaves the root.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let what = || format!("reading the files of {}", self.field("package"));
        let data = &self.map[self.data.clone()];
        let mut entries = Vec::new();
        for entry in tar::Archive::new(Cursor::new(data)).entries_with_seek().doing(what)? {
            let entry = entry.doing(what)?;
            entries.push(read_entry(&entry).doing(what)?);
        }
        Ok(entries)
    }

    /// The bytes of a file.
    pub fn content(&self, range: &Range<usize>) -> Result<&[u8]> {
        let data = &self.map[self.data.clone()];
        data.get(range.clone()).ok_or_else(|| Error::new(format!("the package {} is truncated", self.field("package"))))
    }
}

fn read_entry<R: Read>(entry: &tar::Entry<'_, R>) -> Result<Entry> {
    let header = entry.header();
    let path = rel_path(&entry.path_bytes())?;
    let what = || format!("reading the entry {path}");
    let kind = match header.entry_type() {
        tar::EntryType::Regular | tar::EntryType::Continuous => {
            let position = |value: u64| usize::try_from(value).map_err(|_| too_large(&path));
            let start = position(entry.raw_file_position())?;
            Kind::File(start..start.saturating_add(position(entry.size())?))
        }
        tar::EntryType::Directory => Kind::Directory,
        tar::EntryType::Symlink => Kind::Symlink(text(entry.link_name_bytes().as_deref().unwrap_or_default())?),
        tar::EntryType::Link => Kind::HardLink(rel_path(entry.link_name_bytes().as_deref().unwrap_or_default())?),
        _ => Kind::Other,
    };
    let name = |bytes: Option<&[u8]>| bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default();
    let number = |value: std::io::Result<u64>| u32::try_from(value.doing(what)?).map_err(|_| too_large(&path));
    Ok(Entry {
        kind,
        mode: header.mode().doing(what)? & 0o7777,
        mtime: i64::try_from(header.mtime().doing(what)?).map_err(|_| too_large(&path))?,
        user: (name(header.username_bytes()), number(header.uid())?),
        group: (name(header.groupname_bytes()), number(header.gid())?),
        path: path.clone(),
    })
}

fn too_large(path: &RelPath) -> Error {
    Error::new(format!("the entry {path} has a number that is too large"))
}

fn text(bytes: &[u8]) -> Result<String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Error::new(format!("{} is no text", String::from_utf8_lossy(bytes))))
}

/// `./usr/bin/` -> `usr/bin`, `./` -> the root.
fn rel_path(bytes: &[u8]) -> Result<RelPath> {
    let path = text(bytes)?;
    path.strip_prefix('.').filter(|rest| rest.is_empty() || rest.starts_with('/')).unwrap_or(&path).parse()
}
