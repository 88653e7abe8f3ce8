//! Files of packages that differ between two images of the same packages: what a build let in that is not of its inputs.

use super::super::inspect::layer_tree;
use super::change;
use crate::base::error::Result;
use crate::base::path::RelPath;
use crate::image::manifest::Image;
use crate::layer::owners::Owners;
use crate::layer::tree::{Entry, Kind, Tree};
use crate::store::Store;
use serde::Serialize;
use std::collections::BTreeSet;

/// How many lines of a text's change are shown.
const LINES: usize = 10;

/// A file that differs.
#[derive(Serialize)]
pub(super) struct File {
    layer: String,
    pub path: String,
    /// Whose it is, in words.
    pub origin: String,
    /// How it differs, in words; several lines.
    pub change: String,
}

/// The files that differ in layers of packages that both images have.
pub(super) fn of_packages(store: &Store, a: &Image, b: &Image) -> Result<Vec<File>> {
    let mut files = Vec::new();
    for layer in a.layers.iter().filter(|layer| ["base", "packages"].contains(&layer.kind.as_str())) {
        let other = b.layers.iter().find(|other| (&other.kind, &other.name) == (&layer.kind, &layer.name));
        if other.is_none_or(|other| other.diff_id == layer.diff_id) {
            continue;
        }
        files.extend(between(&layer.name, &layer_tree(store, a, &layer.name)?, &layer_tree(store, b, &layer.name)?)?);
    }
    Ok(files)
}

fn between(layer: &str, before: &Tree, after: &Tree) -> Result<Vec<File>> {
    let owners = Owners::of(&[after])?;
    let paths: BTreeSet<&RelPath> = before.iter().chain(after.iter()).map(|(path, _)| path).collect();
    let mut files = Vec::new();
    for path in paths {
        if let Some(change) = difference(before.get(path), after.get(path))? {
            files.push(File { layer: layer.to_string(), path: path.to_string(), origin: owners.origin(path), change });
        }
    }
    Ok(files)
}

/// Everything that a layer's digest depends on.
fn difference(before: Option<&Entry>, after: Option<&Entry>) -> Result<Option<String>> {
    let mut lines: Vec<String> = change(before, after)?.into_iter().collect();
    if let (Some(before), Some(after)) = (before, after) {
        // Nearly all files are equal, and need no second look.
        if !lines.is_empty()
            && let (Kind::File(old), Kind::File(new)) = (&before.kind, &after.kind)
            && let Some(at) = first_difference(&old.bytes()?, &new.bytes()?)
        {
            if lines.concat().lines().count() > LINES {
                lines.clear();
            }
            lines.push(format!("they differ from byte {at} on"));
        }
        if before.mtime != after.mtime {
            lines.push(format!("time {} -> {}", before.mtime, after.mtime));
        }
        if before.xattrs != after.xattrs {
            let names = |entry: &Entry| entry.xattrs.keys().cloned().collect::<Vec<_>>().join(" ");
            lines.push(format!("attributes differ: {} -> {}", names(before), names(after)));
        }
    } else if lines.is_empty() && before.is_some() != after.is_some() {
        lines.push(if before.is_some() { "removed" } else { "added" }.to_string());
    }
    Ok((!lines.is_empty()).then(|| lines.join("\n")))
}

/// The offset of the first byte that two texts have not in common; none where they are equal.
fn first_difference(old: &[u8], new: &[u8]) -> Option<usize> {
    let same = old.iter().zip(new).take_while(|(old, new)| old == new).count();
    (same < old.len().max(new.len())).then_some(same)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::tree::Content;

    fn tree(files: &[(&str, &[u8], i64)]) -> Tree {
        let mut tree = Tree::new(0);
        for (path, bytes, time) in files {
            tree.insert(path.parse().unwrap(), Entry::new(Kind::File(Content::Bytes(bytes.to_vec())), 0o644, *time));
        }
        tree
    }

    #[test]
    fn a_file_that_differs_is_named_with_its_package_and_its_bytes() {
        let lists: &[(&str, &[u8], i64)] = &[
            ("/var/lib/dpkg/info/pacemaker.list", b"/.\n/etc/pacemaker\n/lib/pacemaker/ids\n", 5),
            ("/var/lib/dpkg/info/libc6:amd64.list", b"/usr/lib/x.so\n", 5),
        ];
        let before = tree(
            &[
                lists,
                &[
                    ("/etc/pacemaker/authkey", b"ab\xff\x01", 5),
                    ("/usr/lib/x.so", b"x", 5),
                    ("/usr/lib/pacemaker/ids", b"a\n", 5),
                ],
            ]
            .concat(),
        );
        let after = tree(
            &[
                lists,
                &[
                    ("/etc/pacemaker/authkey", b"ab\xfe\x01", 5),
                    ("/usr/lib/pacemaker/ids", b"b\n", 5),
                    ("/opt/new", b"", 5),
                    ("/usr/lib/x.so", b"x", 6),
                ],
            ]
            .concat(),
        );
        let said: Vec<String> = between("packages", &before, &after)
            .unwrap()
            .iter()
            .map(|file| format!("{} ({}): {}", file.path, file.origin, file.change.replace('\n', "; ")))
            .collect();
        let expected = [
            "/etc/pacemaker/authkey (made by a script; /etc/pacemaker is of pacemaker): 4 -> 4 bytes; they differ from byte 2 on",
            "/opt (made by a script): added",
            "/opt/new (made by a script): added",
            "/usr/lib/pacemaker/ids (pacemaker): - a; + b; they differ from byte 0 on",
            "/usr/lib/x.so (libc6): time 5 -> 6",
        ];
        assert_eq!(said, expected);
    }

    #[test]
    fn equal_layers_have_no_files_that_differ() {
        let one = tree(&[("/etc/motd", b"a", 5)]);
        assert!(between("packages", &one, &one).unwrap().is_empty());
    }
}
