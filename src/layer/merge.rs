//! Several trees that lie over each other as the one tree that overlayfs shows of them.

use super::tree::{Entry, Kind, Tree};
use crate::base::path::RelPath;
use std::collections::BTreeMap;

/// One tree of several, the lowest first. It has no whiteouts and no opaque directories.
///
/// A file's names are one file's within a layer. Where a higher layer takes the first of them away, the next one has the content.
pub fn merged(layers: impl IntoIterator<Item = Tree>) -> Tree {
    let mut all = BTreeMap::new();
    for layer in layers {
        lay(&mut all, layer.into_entries());
    }
    Tree::from_entries(all)
}

fn lay(lower: &mut BTreeMap<RelPath, Entry>, upper: BTreeMap<RelPath, Entry>) {
    // Every other name of a file, by its first one.
    let mut names: BTreeMap<RelPath, Vec<RelPath>> = BTreeMap::new();
    for (path, entry) in lower.iter() {
        if let Kind::HardLink(first) = &entry.kind {
            names.entry(first.clone()).or_default().push(path.clone());
        }
    }
    for (path, mut entry) in upper {
        let covers_directory = matches!(lower.get(&path), Some(Entry { kind: Kind::Directory { .. }, .. }));
        let joins = matches!(entry.kind, Kind::Directory { opaque: false }) && covers_directory;
        if !joins {
            remove(lower, &mut names, &path);
        }
        match &mut entry.kind {
            Kind::Whiteout => continue,
            Kind::Directory { opaque } => *opaque = false,
            _ => {}
        }
        lower.insert(path, entry);
    }
}

/// Takes a path away, and what lies below it.
fn remove(tree: &mut BTreeMap<RelPath, Entry>, names: &mut BTreeMap<RelPath, Vec<RelPath>>, path: &RelPath) {
    let below = tree.range(path.clone()..).map(|(found, _)| found).take_while(|found| *found == path || found.is_in(path));
    let gone: Vec<RelPath> = below.cloned().collect();
    for path in &gone {
        let Some(entry) = tree.remove(path) else { continue };
        // Names that go as well have no entry any more when their turn comes.
        let stays = |other: &RelPath| {
            !gone.contains(other) && matches!(tree.get(other), Some(Entry { kind: Kind::HardLink(first), .. }) if first == path)
        };
        let others: Vec<RelPath> = names.remove(path).unwrap_or_default().into_iter().filter(stays).collect();
        let Some((heir, rest)) = others.split_first() else { continue };
        for other in rest {
            if let Some(link) = tree.get_mut(other) {
                link.kind = Kind::HardLink(heir.clone());
            }
        }
        tree.insert(heir.clone(), entry);
        names.insert(heir.clone(), rest.to_vec());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::tree::Content;

    fn path(text: &str) -> RelPath {
        text.parse().unwrap()
    }

    fn tree(entries: &[(&str, Kind)]) -> Tree {
        let mut tree = Tree::new(1);
        for (name, kind) in entries {
            tree.insert(path(name), Entry::new(kind.clone(), 0o644, 1));
        }
        tree
    }

    fn file(text: &str) -> Kind {
        Kind::File(Content::Bytes(text.into()))
    }

    fn folder(opaque: bool) -> Kind {
        Kind::Directory { opaque }
    }

    /// A line per entry but for the root.
    fn shown(tree: &Tree) -> Vec<String> {
        let line = |(path, entry): (&RelPath, &Entry)| match &entry.kind {
            Kind::File(Content::Bytes(bytes)) => format!("{path} = {}", String::from_utf8_lossy(bytes)),
            Kind::HardLink(first) => format!("{path} is {first}"),
            Kind::Directory { opaque: false } => format!("{path}/"),
            other => format!("{path} {other:?}"),
        };
        tree.iter().filter(|(path, _)| !path.is_root()).map(line).collect()
    }

    #[test]
    fn the_higher_file_is_what_is_seen_and_a_whiteout_takes_all_below_it_away() {
        let lower = tree(&[("a", file("1")), ("b", file("1")), ("c/d/e", file("1")), ("c-f", file("1"))]);
        let upper = tree(&[("a", file("2")), ("c", Kind::Whiteout), ("g", Kind::Symlink("a".into()))]);
        assert_eq!(shown(&merged([lower, upper])), ["/a = 2", "/b = 1", "/c-f = 1", "/g Symlink(\"a\")"]);
    }

    #[test]
    fn directories_are_one_unless_the_higher_one_is_opaque_or_lies_on_something_else() {
        let lower = tree(&[("a/1", file("1")), ("b/1", file("1")), ("c", file("1"))]);
        let upper = tree(&[("a/2", file("2")), ("b", folder(true)), ("b/2", file("2")), ("c/2", file("2"))]);
        assert_eq!(shown(&merged([lower, upper])), ["/a/", "/a/1 = 1", "/a/2 = 2", "/b/", "/b/2 = 2", "/c/", "/c/2 = 2"]);
    }

    #[test]
    fn a_files_other_names_keep_its_content_when_the_first_one_goes() {
        let link = |to: &str| Kind::HardLink(path(to));
        let lower = tree(&[("a", file("1")), ("b/c", link("a")), ("d", link("a")), ("e", link("a"))]);
        let first = merged([lower.clone(), tree(&[("a", Kind::Whiteout)])]);
        assert_eq!(shown(&first), ["/b/", "/b/c = 1", "/d is /b/c", "/e is /b/c"]);
        // And again when the next one goes, and not when another one does.
        let second = merged([lower.clone(), tree(&[("a", file("2"))]), tree(&[("b", Kind::Whiteout)])]);
        assert_eq!(shown(&second), ["/a = 2", "/d = 1", "/e is /d"]);
        let other = merged([lower, tree(&[("d", file("2"))])]);
        assert_eq!(shown(&other), ["/a = 1", "/b/", "/b/c is /a", "/d = 2", "/e is /a"]);
    }
}
