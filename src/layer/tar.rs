//! The canonical tar stream of a tree: what a layer's identity (OCI's diffID) is the sha256 of.
//!
//! POSIX pax format. Entries in the tree's order, directories with a trailing slash, names without a leading one.
//! Headers carry numbers only (no user names), whole seconds, and a pax record only where ustar has no room:
//! long names and links, large numbers, extended attributes (`SCHILY.xattr.NAME`, as GNU tar and OCI tools read them).
//! Whiteouts are written as OCI has them: an empty file `.wh.NAME`, and `.wh..wh..opq` in an opaque directory.

use super::tree::{Content, Entry, Kind, Tree};
use crate::base::digest::{Digest, Hasher};
use crate::base::error::{Context, Result};
use crate::base::path::RelPath;
use std::io::{self, Write};
use tar::{EntryType, Header};

const BLOCK: u64 = 512;
/// The largest number in an 11-digit octal field.
const OCTAL_MAX: u64 = 0o77_777_777_777;
/// The largest number in a 7-digit octal field.
const OCTAL_ID_MAX: u32 = 0o7_777_777;

/// Writes a tree and gives the stream's digest and length.
///
/// # Errors
/// A file of the tree cannot be read any more or has another size, or `out` fails.
pub fn write(tree: &Tree, out: impl Write) -> Result<(Digest, u64)> {
    let mut out = Hasher::new(io::BufWriter::with_capacity(1 << 20, out));
    for (path, entry) in tree.iter() {
        write_entry(&mut out, path, entry).map_err(|error| error.doing(format!("writing {path} into the layer's tar stream")))?;
    }
    // Two zero blocks end an archive.
    out.write_all(&[0; 2 * BLOCK as usize]).doing(|| "ending the tar stream")?;
    out.flush().doing(|| "ending the tar stream")?;
    Ok(out.finish())
}

/// The digest of a tree's stream, which is not kept.
///
/// # Errors
/// As [`write`].
pub fn digest(tree: &Tree) -> Result<Digest> {
    Ok(write(tree, io::sink())?.0)
}

fn write_entry(out: &mut impl Write, path: &RelPath, entry: &Entry) -> Result<()> {
    let mut name = path.as_str().to_string();
    let mut link = String::new();
    let mut size = 0;
    let kind = match &entry.kind {
        Kind::Directory { .. } => {
            name = if path.is_root() { "./".to_string() } else { format!("{name}/") };
            EntryType::Directory
        }
        Kind::File(content) => {
            size = content.size();
            EntryType::Regular
        }
        Kind::HardLink(first) => {
            link = first.as_str().to_string();
            EntryType::Link
        }
        Kind::Symlink(target) => {
            link.clone_from(target);
            EntryType::Symlink
        }
        Kind::Device { character: true, .. } => EntryType::Char,
        Kind::Device { character: false, .. } => EntryType::Block,
        Kind::Fifo => EntryType::Fifo,
        Kind::Whiteout => {
            return marker(out, &path.parent().unwrap_or_default().join(&format!(".wh.{}", path.name()))?, entry.mtime);
        }
    };
    header(out, &name, &link, kind, size, entry).doing(|| "writing its header")?;
    if let Kind::File(content) = &entry.kind {
        copy(out, content, size)?;
    }
    if matches!(entry.kind, Kind::Directory { opaque: true }) {
        marker(out, &path.join(".wh..wh..opq")?, entry.mtime)?;
    }
    Ok(())
}

fn marker(out: &mut impl Write, path: &RelPath, mtime: i64) -> Result<()> {
    let entry = Entry::new(Kind::File(Content::Bytes(Vec::new())), 0, mtime);
    header(out, path.as_str(), "", EntryType::Regular, 0, &entry).doing(|| "writing a whiteout")
}

fn copy(out: &mut impl Write, content: &Content, size: u64) -> Result<()> {
    content.copy_to(out)?;
    let padding = (BLOCK - size % BLOCK) % BLOCK;
    out.write_all(&[0; BLOCK as usize][..padding as usize]).doing(|| "padding")
}

fn header(out: &mut impl Write, name: &str, link: &str, kind: EntryType, size: u64, entry: &Entry) -> io::Result<()> {
    let mut pax = Vec::new();
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    if header.set_path(name).is_err() || name == "./" {
        if name != "./" {
            record(&mut pax, "path", name.as_bytes());
        }
        // What a reader without pax sees; the record has the whole name.
        let bytes = name.as_bytes();
        header.as_old_mut().name[..bytes.len().min(100)].copy_from_slice(&bytes[..bytes.len().min(100)]);
    }
    if !link.is_empty() {
        let bytes = link.as_bytes();
        if bytes.len() > 100 {
            record(&mut pax, "linkpath", bytes);
        }
        header.as_old_mut().linkname[..bytes.len().min(100)].copy_from_slice(&bytes[..bytes.len().min(100)]);
    }
    if size > OCTAL_MAX {
        record(&mut pax, "size", size.to_string().as_bytes());
    }
    for (key, id) in [("uid", entry.uid), ("gid", entry.gid)] {
        if id > OCTAL_ID_MAX {
            record(&mut pax, key, id.to_string().as_bytes());
        }
    }
    for (key, value) in &entry.xattrs {
        record(&mut pax, &format!("SCHILY.xattr.{key}"), value);
    }
    header.set_size(size.min(OCTAL_MAX));
    header.set_mode(entry.mode);
    header.set_uid(u64::from(entry.uid.min(OCTAL_ID_MAX)));
    header.set_gid(u64::from(entry.gid.min(OCTAL_ID_MAX)));
    // Times before 1970 have no octal form and no meaning for an image.
    header.set_mtime(u64::try_from(entry.mtime).unwrap_or(0));
    if let Kind::Device { major, minor, .. } = entry.kind {
        header.set_device_major(major)?;
        header.set_device_minor(minor)?;
    }
    header.set_cksum();
    if !pax.is_empty() {
        let mut extended = Header::new_ustar();
        extended.set_entry_type(EntryType::XHeader);
        extended.set_path("./PaxHeader")?;
        extended.set_size(pax.len() as u64);
        extended.set_mode(0o644);
        extended.set_mtime(0);
        extended.set_cksum();
        out.write_all(extended.as_bytes())?;
        out.write_all(&pax)?;
        let padding = (BLOCK - pax.len() as u64 % BLOCK) % BLOCK;
        out.write_all(&[0; BLOCK as usize][..padding as usize])?;
    }
    out.write_all(header.as_bytes())
}

/// A pax record: its own length in decimal, a space, key=value, a newline.
fn record(pax: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    pax.extend_from_slice(format!("{length} {key}=").as_bytes());
    pax.extend_from_slice(value);
    pax.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::tool::Tool;

    fn file(text: &str) -> Kind {
        Kind::File(Content::Bytes(text.as_bytes().to_vec()))
    }

    fn listing(tree: &Tree) -> String {
        let mut bytes = Vec::new();
        write(tree, &mut bytes).unwrap();
        let out = Tool::new("tar").args(["--numeric-owner", "--xattrs", "-tvv", "--utc", "-f", "-"]).stdin(bytes).run().unwrap();
        // How wide tar makes its columns differs between its versions.
        out.text().lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n").collect()
    }

    #[test]
    fn gnu_tar_reads_every_kind_of_entry() {
        let mut tree = Tree::new(0);
        let mut add = |path: &str, entry: Entry| tree.insert(path.parse().unwrap(), entry);
        add("/etc/a", Entry::new(file("abc"), 0o640, 60).owned_by(5, 3_000_000));
        add("/etc/b", Entry::new(Kind::HardLink("/etc/a".parse().unwrap()), 0o640, 60));
        add("/etc/c", Entry::new(Kind::Symlink("a".into()), 0o777, 60));
        add("/etc/gone", Entry::new(Kind::Whiteout, 0, 0));
        add("/opaque", Entry::new(Kind::Directory { opaque: true }, 0o700, 0));
        add("/null", Entry::new(Kind::Device { character: true, major: 1, minor: 3 }, 0o666, 0));
        let expected = "\
drwxr-xr-x 0/0 0 1970-01-01 00:00 ./
drwxr-xr-x 0/0 0 1970-01-01 00:01 etc/
-rw-r----- 5/3000000 3 1970-01-01 00:01 etc/a
hrw-r----- 0/0 0 1970-01-01 00:01 etc/b link to etc/a
lrwxrwxrwx 0/0 0 1970-01-01 00:01 etc/c -> a
---------- 0/0 0 1970-01-01 00:00 etc/.wh.gone
crw-rw-rw- 0/0 1,3 1970-01-01 00:00 null
drwx------ 0/0 0 1970-01-01 00:00 opaque/
---------- 0/0 0 1970-01-01 00:00 opaque/.wh..wh..opq
";
        assert_eq!(listing(&tree), expected);
    }

    #[test]
    fn a_name_of_any_length_survives() {
        let long = format!("/{}/{}", "d".repeat(200), "f".repeat(200));
        let mut tree = Tree::new(0);
        tree.insert(long.parse().unwrap(), Entry::new(file(""), 0o644, 0));
        assert!(listing(&tree).ends_with(&format!(" {}\n", &long[1..])));
    }

    #[test]
    fn the_digest_of_a_tree_is_pinned() {
        let mut tree = Tree::new(1_700_000_000);
        let mut entry = Entry::new(file("hello\n"), 0o644, 1_700_000_000);
        entry.xattrs.insert("user.a".into(), b"b".to_vec());
        tree.insert("/etc/motd".parse().unwrap(), entry);
        // A change here changes the identity of every layer: raise the layer's algorithm version with it.
        assert_eq!(digest(&tree).unwrap().to_string(), "sha256:cbcd44470a2cdba1e20b2fac918efd3be0a8f216a160f34a727959aa8e393c4c");
    }
}
