//! The metadata of an rpm repository: downloaded, and verified in this process.
//!
//! ```text
//! keys ── signature, where there is one ──> repomd.xml ── size, sha256 ──> primary, filelists ──> packages
//! ```
//!
//! In: a repository's URL, the archive's keys. Out: its lists in a folder that dnf takes as a repository of this machine.

use crate::base::digest::Digest;
use crate::base::error::{Error, Result};
use crate::base::fs;
use crate::lock::date::Moment;
use crate::lock::fetch::Getter;
use crate::lock::openpgp::Keyring;
use regex::Regex;
use std::path::Path;

/// The lists that solving needs: packages, and the files that packages may depend on.
const LISTS: [&str; 2] = ["primary", "filelists"];

const CHECK: &str = "check its URL below [mirror] and its keys below [trust] in site.toml";

/// What a repository says of itself.
pub(super) struct Metadata {
    /// Digest of its `repomd.xml`.
    pub sha256: Digest,
    /// When its newest part was made.
    pub date: Moment,
    /// Whether one of the archive's keys has signed it.
    pub signed: bool,
}

/// Downloads and verifies a repository into `folder`.
///
/// # Errors
/// It is not there, not signed by one of the keys though it is signed, or its lists are not those that it names.
pub(super) fn read(getter: &Getter, url: &str, keyring: &Keyring, folder: &Path, now: Moment) -> Result<Metadata> {
    let get = |path: &str| getter.get(&format!("{url}/{path}")).map_err(|error| error.next(CHECK));
    let missing = |path: &str| Error::new(format!("there is no {url}/{path}")).next(CHECK);
    let index = "repodata/repomd.xml";
    let bytes = get(index)?.ok_or_else(|| missing(index))?;
    // Who takes the signature away gains nothing: each package must be signed then.
    let signature = get(&format!("{index}.asc"))?;
    if let Some(signature) = &signature {
        keyring.detached(&bytes, signature, now).map_err(|error| {
            Error::new(format!("{url}/{index} did not verify against the archive's keys: {error}")).next(CHECK)
        })?;
    }
    let text = String::from_utf8_lossy(&bytes);
    fs::create_dir_all(&folder.join("repodata"))?;
    let mut kept = String::new();
    for (kind, element) in parts(&text)? {
        if !LISTS.contains(&kind) {
            continue;
        }
        let (path, digest, size) = list(element).ok_or_else(|| {
            Error::new(format!("{url}/{index} gives no place, size or sha256 of the list {kind}"))
                .next("use a repository whose metadata has sha256 digests (createrepo_c makes them)")
        })?;
        let list = get(path)?.ok_or_else(|| missing(path))?;
        let (found, length) = (Digest::of(&list), list.len() as u64);
        if (found, length) != (digest, size) {
            return Err(Error::new(format!("{url}/{path} has {length} bytes with {found}, repomd.xml says {size} bytes with {digest}"))
                .next("if the mirror is just being updated, try again in some minutes; otherwise name another one below [mirror] in site.toml"));
        }
        let name = path.rsplit('/').next().unwrap_or(path);
        fs::write_atomic(&folder.join("repodata").join(name), &list)?;
        kept.push_str(&element.replace(path, &format!("repodata/{name}")));
    }
    // Only what was got: dnf must find all that the index names.
    let own = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<repomd xmlns=\"http://linux.duke.edu/metadata/repo\">\n{kept}</repomd>\n"
    );
    fs::write_atomic(&folder.join(index), own.as_bytes())?;
    let times = expression(r"<timestamp>\s*(\d+)")?;
    let newest = times.captures_iter(&text).filter_map(|found| found[1].parse().ok()).max().unwrap_or_default();
    Ok(Metadata { sha256: Digest::of(&bytes), date: Moment::at(newest), signed: signature.is_some() })
}

/// The parts that a `repomd.xml` names: kind and element.
fn parts(text: &str) -> Result<Vec<(&str, &str)>> {
    let found = expression(r#"(?s)<data\s+type=["']([^"']+)["'].*?</data>\s*"#)?;
    Ok(found.captures_iter(text).filter_map(|part| Some((part.get(1)?.as_str(), part.get(0)?.as_str()))).collect())
}

/// Path, digest and size of a list.
fn list(element: &str) -> Option<(&str, Digest, u64)> {
    let value = |pattern: &str| Some(expression(pattern).ok()?.captures(element)?.get(1)?.as_str());
    let path = value(r#"<location\s[^>]*?href=["']([^"']+)["']"#)?;
    let digest = value(r#"<checksum\s+type=["']sha256["']>\s*([0-9a-f]{64})\s*<"#)?;
    let size = value(r"<size>\s*(\d+)\s*<")?;
    Some((path, Digest::from_hex(digest).ok()?, size.parse().ok()?))
}

fn expression(pattern: &str) -> Result<Regex> {
    Regex::new(pattern).map_err(Error::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lists_own_digest_size_and_place_are_read_and_not_those_of_its_unpacked_form() {
        let digest = "ab".repeat(32);
        let text = format!(
            "<repomd xmlns=\"x\">\n <revision>7</revision>\n <data type='primary_db'><location href=\"other\"/></data>\n \
             <data type=\"primary\">\n  <open-checksum type=\"sha256\">{}</open-checksum>\n  <checksum type=\"sha256\">{digest}</checksum>\n  \
             <location xml:base=\"y\" href=\"repodata/p.xml.gz\"/>\n  <timestamp>12</timestamp><open-size>99</open-size>\n  \
             <size>5</size>\n </data>\n</repomd>\n",
            "cd".repeat(32)
        );
        let found = parts(&text).unwrap();
        assert_eq!(found.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), ["primary_db", "primary"]);
        assert_eq!(list(found[1].1), Some(("repodata/p.xml.gz", Digest::from_hex(&digest).unwrap(), 5)));
        assert_eq!(list(found[0].1), None);
        assert_eq!(list(&found[1].1.replace("sha256\">ab", "sha\">ab")), None);
    }
}
