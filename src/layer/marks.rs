//! What overlayfs notes in its upper directory, as attributes: `trusted.overlay.*`, or `user.overlay.*` where a user namespace mounted
//! it (Linux's Documentation/filesystems/overlayfs.rst).
//!
//! The mark `opaque` hides all that lower directories have at its place. A user namespace can neither set nor read the one that a boot
//! understands, so layers say the same by whiteouts.

use super::times::Times;
use super::tree::set_mtime;
use crate::base::error::{Context, Result};
use rustix::fs::{CWD, FileType, Mode, lremovexattr, mknodat};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const PREFIXES: [&str; 2] = ["trusted.overlay.", "user.overlay."];

/// Whether an attribute is a note of overlayfs's.
pub(super) fn is_note(name: &str) -> bool {
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Takes the mark `opaque` out of a directory's attributes; whether it was there.
pub(super) fn take_opaque(xattrs: &mut BTreeMap<String, Vec<u8>>) -> bool {
    // Both, of which one is there at most.
    PREFIXES.iter().filter(|prefix| xattrs.remove(&format!("{prefix}opaque")).is_some()).count() > 0
}

/// Gives each directory of `upper` that hides what `lower` has in its place a whiteout for each name there that it has not itself, in
/// the mark's place. Times of directories are those of `times`.
///
/// # Errors
/// A directory cannot be read or written.
pub(super) fn spell_out(lower: &Path, upper: &Path, times: &Times) -> Result<()> {
    walk(Some(lower), upper, false, times)
}

/// One directory and those in it. `lower` is what is in its place, if that is a directory; `hides` says whether one above it hides all.
fn walk(lower: Option<&Path>, upper: &Path, hides: bool, times: &Times) -> Result<()> {
    let what = || format!("writing what {} hides", upper.display());
    let hides = remove_opaque(upper).doing(what)? || hides;
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(upper).doing(what)? {
        let entry = entry.doing(what)?;
        names.insert(entry.file_name());
        if entry.file_type().doing(what)?.is_dir() {
            let below = lower.map(|lower| lower.join(entry.file_name()));
            // What is no directory, or a link to one, is not merged with.
            let below = below.filter(|below| std::fs::symlink_metadata(below).is_ok_and(|meta| meta.is_dir()));
            walk(below.as_deref(), &entry.path(), hides, times)?;
        }
    }
    let Some(lower) = lower.filter(|_| hides) else { return Ok(()) };
    let time = times.of(&std::fs::symlink_metadata(upper).doing(what)?);
    for entry in std::fs::read_dir(lower).doing(what)? {
        let name = entry.doing(what)?.file_name();
        if !names.contains(&name) {
            let whiteout = upper.join(name);
            mknodat(CWD, &whiteout, FileType::CharacterDevice, Mode::empty(), 0).doing(what)?;
            set_mtime(&whiteout, times.epoch()).doing(what)?;
        }
    }
    set_mtime(upper, time).doing(what)
}

/// Takes the mark `opaque` from a directory; whether it was there.
fn remove_opaque(folder: &Path) -> rustix::io::Result<bool> {
    for prefix in PREFIXES {
        match lremovexattr(folder, format!("{prefix}opaque")) {
            Ok(()) => return Ok(true),
            // A user namespace may not touch the first one, and has none.
            Err(rustix::io::Errno::NODATA | rustix::io::Errno::NOTSUP | rustix::io::Errno::PERM) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use crate::base::path::RelPath;
    use crate::layer::times::Times;
    use crate::layer::tree::{Entry, Kind, Tree};

    /// A directory with these files; those whose names end with a slash are directories.
    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(if file.ends_with('/') { &path } else { path.parent().unwrap() }).unwrap();
            if !file.ends_with('/') {
                std::fs::write(path, "").unwrap();
            }
        }
        folder
    }

    /// What a layer says that has these files over others, of which some directories are opaque.
    fn settled(lower: &[&str], upper: &[&str], opaque: &[&str]) -> String {
        let (lower, upper) = (folder(lower), folder(upper));
        for path in opaque {
            let name = if path.len() % 2 == 0 { "trusted.overlay.opaque" } else { "user.overlay.opaque" };
            rustix::fs::setxattr(upper.path().join(path), name, b"y", rustix::fs::XattrFlags::empty()).unwrap();
        }
        let tree = Tree::settle(upper.path(), Some(lower.path()), &Times::until(1000)).unwrap();
        // What is on the disk is the same.
        assert_eq!(tree, Tree::settle(upper.path(), None, &Times::until(1000)).unwrap());
        let line = |(path, entry): (&RelPath, &Entry)| {
            assert_eq!((entry.mtime, entry.xattrs.len()), (1000, 0), "{path}");
            match entry.kind {
                Kind::Directory { opaque: false } => format!("{path}/"),
                Kind::File(_) => path.to_string(),
                Kind::Whiteout => format!("{path} hides"),
                ref other => format!("{path} {other:?}"),
            }
        };
        tree.iter().map(line).skip(1).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_new_directory_hides_nothing() {
        assert_eq!(settled(&["etc/old"], &["etc/new/a"], &["etc/new"]), "/etc/ /etc/new/ /etc/new/a");
    }

    #[test]
    fn a_directory_that_was_made_again_hides_each_name_that_it_has_not() {
        let lower = ["etc/wants/a", "etc/wants/b/c", "etc/wants/d"];
        let expected = "/etc/ /etc/wants/ /etc/wants/a hides /etc/wants/b hides /etc/wants/d /etc/wants/e";
        assert_eq!(settled(&lower, &["etc/wants/d", "etc/wants/e"], &["etc/wants"]), expected);
    }

    #[test]
    fn what_lies_deeper_in_such_a_directory_hides_as_well_and_what_lies_beside_it_does_not() {
        let lower = ["a/b/c/x", "a/b/y", "z/x"];
        assert_eq!(settled(&lower, &["a/b/c/", "z/"], &["a"]), "/a/ /a/b/ /a/b/c/ /a/b/c/x hides /a/b/y hides /z/");
    }

    #[test]
    fn a_directory_in_the_place_of_a_link_is_not_merged_with_what_the_link_led_to() {
        let lower = folder(&["there/a", "there/deep/b"]);
        std::os::unix::fs::symlink("there", lower.path().join("here")).unwrap();
        let upper = folder(&["here/deep/"]);
        rustix::fs::setxattr(upper.path().join("here"), "user.overlay.opaque", b"y", rustix::fs::XattrFlags::empty()).unwrap();
        let tree = Tree::settle(upper.path(), Some(lower.path()), &Times::until(1000)).unwrap();
        let paths: Vec<String> = tree.iter().map(|(path, _)| path.to_string()).collect();
        assert_eq!(paths, ["/", "/here", "/here/deep"]);
    }
}
