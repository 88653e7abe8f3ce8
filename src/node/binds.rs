//! Declared paths of the root, kept on the state partition.
//!
//! ```text
//! /run/ostack/state/
//! ├── .new/                 copies in the making; emptied at each boot
//! └── CLASS/PATH            bound over PATH in the root
//! ```
//!
//! What is missing is made once: a copy of what the image has at that path, or an empty folder.

use crate::base::bundle::BootState;
use crate::base::error::{Context, Error, Result};
use crate::base::fs::{create_dir_all, remove_tree};
use crate::base::path::RelPath;
use crate::node::copy;
use rustix::fs::{Gid, Uid};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Classes in which a newer image's folders are added to older state: a service that the image gained wants its log and
/// cache folder. In the other classes what a folder's absence means is the service's to say.
const GROWING: [&str; 2] = ["log", "cache"];

/// Makes what is missing below `state` and binds every path into `root`. Gives the paths that were made.
///
/// # Errors
/// A path leads through a symbolic link, or copying or mounting fails.
pub fn all(entries: &[BootState], state: &Path, root: &Path) -> Result<Vec<RelPath>> {
    let made = prepare(entries, state, root)?;
    for entry in sorted(entries) {
        let (source, target) = (entry.path.under(&state.join(&entry.class)), entry.path.under(root));
        if source.is_dir() {
            create_dir_all(&target)?;
        } else if !target.exists() {
            create_dir_all(target.parent().unwrap_or(root))?;
            std::fs::write(&target, "").doing(|| format!("making {}", target.display()))?;
        }
        rustix::mount::mount_bind(&source, &target).doing(|| format!("binding the state of {}", entry.path))?;
    }
    Ok(made)
}

/// Everything but the mounts.
fn prepare(entries: &[BootState], state: &Path, root: &Path) -> Result<Vec<RelPath>> {
    let new = state.join(".new");
    remove_tree(&new)?;
    let mut made: Vec<(PathBuf, PathBuf, RelPath)> = Vec::new();
    for entry in sorted(entries) {
        must_be_plain(&entry.path, root)?;
        let kept = entry.path.under(&state.join(&entry.class));
        // One inside another of its class is made with that one, unless the image lacks it.
        let inside = made.iter().find_map(|(copy, target, _)| kept.strip_prefix(target).ok().map(|rest| copy.join(rest)));
        let place = inside.clone().unwrap_or_else(|| new.join(made.len().to_string()));
        if kept.exists() {
            if GROWING.contains(&entry.class.as_str()) {
                let image = entry.path.under(root);
                copy::missing_folders(&image, &kept)
                    .map_err(|error| error.doing(format!("completing the state of {}", entry.path)))?;
            }
            continue;
        }
        if place.exists() {
            continue;
        }
        create_dir_all(place.parent().unwrap_or(&new))?;
        make(entry, root, &place).map_err(|error| error.doing(format!("making the state of {}", entry.path)))?;
        if inside.is_none() {
            made.push((place, kept, entry.path.clone()));
        }
    }
    if made.is_empty() {
        return Ok(Vec::new());
    }
    // Content first, names after: a copy that is there is whole.
    let sync = || std::fs::File::open(state).and_then(|folder| rustix::fs::syncfs(&folder).map_err(Into::into));
    sync().doing(|| "syncing the state partition")?;
    for (place, kept, path) in &made {
        create_dir_all(kept.parent().unwrap_or(state))?;
        std::fs::rename(place, kept).doing(|| format!("making the state of {path}"))?;
    }
    remove_tree(&new)?;
    sync().doing(|| "syncing the state partition")?;
    Ok(made.into_iter().map(|(_, _, path)| path).collect())
}

fn make(entry: &BootState, root: &Path, place: &Path) -> Result<()> {
    let image = entry.path.under(root);
    if image.exists() {
        return copy::tree(&image, place);
    }
    let what = || format!("making {}", place.display());
    std::fs::create_dir(place).doing(what)?;
    rustix::fs::chown(place, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid))).doing(what)?;
    std::fs::set_permissions(place, std::fs::Permissions::from_mode(entry.mode)).doing(what)
}

/// Outer paths before inner ones.
fn sorted(entries: &[BootState]) -> Vec<&BootState> {
    let mut sorted: Vec<&BootState> = entries.iter().collect();
    sorted.sort_by(|one, two| one.path.cmp(&two.path));
    sorted
}

/// Refuses links: from here they would lead into the initrd, not into the root.
fn must_be_plain(path: &RelPath, root: &Path) -> Result<()> {
    let mut part = Some(path.clone());
    while let Some(at) = part {
        if std::fs::symlink_metadata(at.under(root)).is_ok_and(|meta| meta.is_symlink()) {
            return Err(Error::new(format!("the state path {path} leads through the symbolic link {at}"))
                .next("declare the path that the link leads to"));
        }
        part = at.parent().filter(|parent| !parent.is_root());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::tool::Tool;

    fn entry(path: &str, class: &str) -> BootState {
        BootState { path: path.parse().unwrap(), class: class.into(), uid: 0, gid: 0, mode: 0o700 }
    }

    fn trees(script: &str) -> (tempfile::TempDir, PathBuf, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let (state, root) = (folder.path().join("state"), folder.path().join("root"));
        std::fs::create_dir(&state).unwrap();
        std::fs::create_dir(&root).unwrap();
        Tool::new("sh").args(["-ec", script]).arg(&root).arg(&state).run().unwrap();
        (folder, state, root)
    }

    fn listed(tree: &Path) -> Vec<String> {
        let find = Tool::new("find").arg(tree).args(["-mindepth", "1", "-printf", "%P %m\\n"]).run().unwrap().text();
        let mut lines: Vec<String> = find.lines().map(str::to_string).collect();
        lines.sort();
        lines
    }

    #[test]
    fn missing_state_is_the_images_content_or_an_empty_folder_and_is_made_once() {
        let script = "mkdir -p $0/var/lib/db/sub; echo 1 >$0/var/lib/db/f; chmod 640 $0/var/lib/db/f; chmod 750 $0/var/lib/db; \
                      mkdir -p $1/.new/0; echo half >$1/.new/0/f";
        let (_folder, state, root) = trees(script);
        let entries = [entry("/var/lib/db/sub", "data"), entry("/var/lib/db", "data"), entry("/var/none", "log")];
        let made = prepare(&entries, &state, &root).unwrap();
        assert_eq!(format!("{made:?}"), "[/var/lib/db, /var/none]");
        let expected = [
            "data 755",
            "data/var 755",
            "data/var/lib 755",
            "data/var/lib/db 750",
            "data/var/lib/db/f 640",
            "data/var/lib/db/sub 755",
            "log 755",
            "log/var 755",
            "log/var/none 700",
        ];
        assert_eq!(listed(&state), expected);
        std::fs::write(state.join("data/var/lib/db/f"), "2").unwrap();
        assert_eq!(prepare(&entries, &state, &root).unwrap(), []);
        assert_eq!(std::fs::read_to_string(state.join("data/var/lib/db/f")).unwrap(), "2");
    }

    #[test]
    fn folders_that_a_newer_image_has_are_added_to_old_logs_and_caches_only() {
        let script = "mkdir -p $0/var/log/new/sub $0/var/db/new; chmod 750 $0/var/log/new; echo 1 >$0/var/log/new/file; \
                      mkdir -p $1/log/var/log $1/data/var/db; echo old >$1/log/var/log/file";
        let (_folder, state, root) = trees(script);
        let made = prepare(&[entry("/var/log", "log"), entry("/var/db", "data")], &state, &root).unwrap();
        assert_eq!(made, []);
        let expected = [
            "data 755",
            "data/var 755",
            "data/var/db 755",
            "log 755",
            "log/var 755",
            "log/var/log 755",
            "log/var/log/file 644",
            "log/var/log/new 750",
            "log/var/log/new/sub 755",
        ];
        assert_eq!(listed(&state), expected);
    }

    #[test]
    fn a_path_through_a_link_is_refused() {
        let (_folder, state, root) = trees("mkdir -p $0/srv/db $0/var; ln -s /srv $0/var/lib");
        let error = prepare(&[entry("/var/lib/db", "data")], &state, &root).err().unwrap();
        assert_eq!(error.cause(), "the state path /var/lib/db leads through the symbolic link /var/lib");
    }
}
