//! Reads Debian packages (deb(5)): an `ar` archive of `debian-binary`, `control.tar.*` and `data.tar.*`.

use super::{owner, user_namespace};
use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The fields of a package's control file, names in lower case.
pub type Control = BTreeMap<String, String>;

const AR_MAGIC: &[u8; 8] = b"!<arch>\n";
const AR_HEADER_BYTES: usize = 60;

/// Reads the control file of a package.
///
/// # Errors
/// The file is truncated or is no Debian package.
pub fn control(path: &Path) -> Result<Control> {
    let doing = || format!("reading the package {}", path.display());
    let mut archive = tar::Archive::new(member(path, "control.tar").map_err(|error| error.doing(doing()))?);
    for entry in archive.entries().doing(doing)? {
        let mut entry = entry.doing(doing)?;
        if entry.path().is_ok_and(|name| name == Path::new("./control") || name == Path::new("control")) {
            let mut text = String::new();
            entry.read_to_string(&mut text).doing(doing)?;
            return Ok(parse_control(&text));
        }
    }
    Err(Error::new("it has no control file").doing(doing()))
}

/// The stream of a package's files, decompressed: a tar archive.
///
/// # Errors
/// The file is truncated or is no Debian package.
pub fn data(path: &Path) -> Result<Box<dyn Read + Send>> {
    member(path, "data.tar").map_err(|error| error.doing(format!("reading the package {}", path.display())))
}

/// Lays a package's files down below `root`, with owners and modes, without running any script.
///
/// # Errors
/// The package is broken or the root cannot be written.
pub fn extract(path: &Path, root: &Path) -> Result<()> {
    let doing = || format!("unpacking {}", path.display());
    let mut archive = tar::Archive::new(data(path)?);
    archive.set_preserve_ownerships(!user_namespace::has_one_id());
    archive.set_preserve_permissions(true);
    archive.set_preserve_mtime(true);
    archive.set_overwrite(true);
    for entry in archive.entries().doing(doing)? {
        let mut entry = entry.doing(doing)?;
        let target = root.join(entry.path().doing(doing)?.strip_prefix("./").unwrap_or(Path::new("")));
        // A directory in one package may be a link to a directory in another: /lib -> usr/lib stays a link.
        if entry.header().entry_type().is_dir() && target.is_dir() {
            continue;
        }
        entry.unpack_in(root).doing(doing)?;
        if user_namespace::has_one_id() {
            note_owner(entry.header(), &target).doing(doing)?;
        }
    }
    Ok(())
}

/// Notes the owner of a file or directory that was made without, if it is not root's.
fn note_owner(header: &tar::Header, target: &Path) -> std::io::Result<()> {
    let owner = |id: u64| u32::try_from(id).map_err(std::io::Error::other);
    let (uid, gid) = (owner(header.uid()?)?, owner(header.gid()?)?);
    let kind = header.entry_type();
    if (uid, gid) != (0, 0) && (kind.is_file() || kind.is_dir()) {
        owner::give(target, uid, gid)?;
        // Which took set-user-id bits away.
        std::fs::set_permissions(target, std::fs::Permissions::from_mode(header.mode()?))?;
    }
    Ok(())
}

/// Writes a package again with its members uncompressed, which dpkg reads as well: so that decompressing, most of the
/// work of reading a package, need not wait for dpkg, which takes one after the other.
///
/// # Errors
/// The package is broken or `target` cannot be written.
pub fn decompress(path: &Path, target: &Path) -> Result<()> {
    let doing = || format!("decompressing {}", path.display());
    let mut out = std::io::BufWriter::with_capacity(1 << 18, std::fs::File::create(target).doing(doing)?);
    out.write_all(AR_MAGIC).doing(doing)?;
    for prefix in ["debian-binary", "control.tar", "data.tar"] {
        let mut body = member(path, prefix).map_err(|error| error.doing(doing()))?;
        let header = out.stream_position().doing(doing)?;
        out.write_all(&ar_header(prefix, 0)).doing(doing)?;
        let size = std::io::copy(&mut body, &mut out).doing(doing)?;
        if size % 2 == 1 {
            out.write_all(b"\n").doing(doing)?;
        }
        let end = out.stream_position().doing(doing)?;
        out.seek(SeekFrom::Start(header)).doing(doing)?;
        out.write_all(&ar_header(prefix, size)).doing(doing)?;
        out.seek(SeekFrom::Start(end)).doing(doing)?;
    }
    out.flush().doing(doing)
}

/// Where a member lies in a package that [`decompress`] has written.
///
/// # Errors
/// The package is truncated, no Debian package, or the member is compressed.
pub fn plain_member(package: &[u8], name: &str) -> Result<std::ops::Range<usize>> {
    let Some(mut rest) = package.strip_prefix(AR_MAGIC.as_slice()) else { return Err(Error::new("it is no ar archive")) };
    while let Some((header, body)) = rest.split_at_checked(AR_HEADER_BYTES) {
        let text = |range: std::ops::Range<usize>| String::from_utf8_lossy(&header[range]).trim().to_string();
        let size: usize = text(48..58).parse().map_err(|_| Error::new("it is no ar archive: a member has no size"))?;
        if size > body.len() {
            break;
        }
        if text(0..16) == name {
            let start = package.len() - body.len();
            return Ok(start..start + size);
        }
        // Members begin at even offsets.
        rest = body.get(size + size % 2..).unwrap_or_default();
    }
    Err(Error::new(format!("it is truncated or compressed: no {name}")))
}

fn ar_header(name: &str, size: u64) -> Vec<u8> {
    format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`\n", 0, 0, 0, 100_644).into_bytes()
}

fn member(path: &Path, prefix: &str) -> Result<Box<dyn Read + Send>> {
    let mut file = fs::open(path)?;
    let mut magic = [0; 8];
    file.read_exact(&mut magic).doing(|| "reading its first bytes")?;
    if &magic != AR_MAGIC {
        return Err(Error::new("it is no ar archive").next("remove it from the store; the next build fetches it again"));
    }
    loop {
        let mut header = [0; AR_HEADER_BYTES];
        file.read_exact(&mut header).map_err(|_| Error::new(format!("it is truncated: no {prefix}")))?;
        let text = |range: std::ops::Range<usize>| String::from_utf8_lossy(&header[range]).trim().to_string();
        let name = text(0..16).trim_end_matches('/').to_string();
        let size: u64 = text(48..58).parse().map_err(|_| Error::new("it is no ar archive: a member has no size"))?;
        if let Some(suffix) = name.strip_prefix(prefix) {
            let body = file.take(size);
            return Ok(match suffix {
                "" => Box::new(body),
                ".gz" => Box::new(flate2::read::GzDecoder::new(body)),
                ".xz" => Box::new(liblzma::read::XzDecoder::new(body)),
                ".zst" => Box::new(zstd::Decoder::new(body).doing(|| "starting zstd")?),
                other => {
                    return Err(Error::new(format!("its {prefix} is compressed as `{other}`, which dpkg does not know either")));
                }
            });
        }
        // Members begin at even offsets.
        let skip = i64::try_from(size + size % 2).map_err(|_| Error::new("it is no ar archive: a member is too large"))?;
        file.seek(SeekFrom::Current(skip)).doing(|| "skipping a member")?;
    }
}

/// The fields of a control file.
pub fn parse_control(text: &str) -> Control {
    let mut fields = Control::new();
    let mut last = String::new();
    for line in text.lines() {
        if line.starts_with([' ', '\t']) {
            let field: &mut String = fields.entry(last.clone()).or_default();
            field.push('\n');
            field.push_str(line.trim());
        } else if let Some((name, value)) = line.split_once(':') {
            last = name.to_ascii_lowercase();
            fields.insert(last.clone(), value.trim().to_string());
        }
    }
    fields
}

/// The package names of a relationship field, one list of alternatives per comma; versions and architectures dropped.
pub fn relations(field: &str) -> Vec<Vec<String>> {
    field
        .split(',')
        .map(|group| {
            group
                .split('|')
                .filter_map(|one| one.split([' ', '(', '[', '\n', ':']).find(|word| !word.is_empty()).map(str::to_string))
                .collect::<Vec<_>>()
        })
        .filter(|group| !group.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relations_keep_only_names_and_alternatives() {
        assert_eq!(
            relations("libc6 (>= 2.38), python3:any, default-mta | mail-transport-agent [linux-any]"),
            [vec!["libc6"], vec!["python3"], vec!["default-mta", "mail-transport-agent"]]
        );
    }

    #[test]
    fn a_decompressed_package_has_the_same_members() {
        let folder = tempfile::tempdir().unwrap();
        let [packed, plain] = ["packed", "plain"].map(|name| folder.path().join(name));
        let mut control = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        control.write_all(b"odd length, so a byte follows.\n").unwrap();
        let mut bytes = AR_MAGIC.to_vec();
        for (name, body) in
            [("debian-binary", b"2.0\n".to_vec()), ("control.tar.gz", control.finish().unwrap()), ("data.tar", vec![7; 9])]
        {
            bytes.extend(ar_header(name, body.len() as u64));
            bytes.extend(&body);
            bytes.resize(bytes.len().next_multiple_of(2), b'\n');
        }
        std::fs::write(&packed, bytes).unwrap();
        decompress(&packed, &plain).unwrap();
        for (name, body) in
            [("debian-binary", &b"2.0\n"[..]), ("control.tar", b"odd length, so a byte follows.\n"), ("data.tar", &[7; 9])]
        {
            let mut read = Vec::new();
            member(&plain, name).unwrap().read_to_end(&mut read).unwrap();
            assert_eq!(read, body, "{name}");
        }
        assert_eq!(std::fs::metadata(&plain).unwrap().len() % 2, 0);
    }

    #[test]
    fn a_control_field_may_go_on_over_several_lines() {
        let control = parse_control("Package: a\nPre-Depends: b,\n c\nDescription: x\n");
        assert_eq!(control["pre-depends"], "b,\nc");
    }
}
