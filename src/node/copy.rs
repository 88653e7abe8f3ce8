//! Copying trees with everything that a service could notice: owner, mode, times, links, devices, attributes.
//!
//! Hard links become separate files: the trees are a service's first data and a node's settings, which have none.

use crate::base::error::{Context, Result};
use rustix::fs::{self, AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

/// Copies `from` to `to`, which must not exist, whatever it is.
///
/// # Errors
/// Names the path that could not be copied.
pub fn tree(from: &Path, to: &Path) -> Result<()> {
    let what = || format!("copying {}", from.display());
    let meta = std::fs::symlink_metadata(from).doing(what)?;
    let kind = meta.file_type();
    if kind.is_dir() {
        std::fs::create_dir(to).doing(what)?;
        contents(from, to)?;
    } else if kind.is_symlink() {
        std::os::unix::fs::symlink(std::fs::read_link(from).doing(what)?, to).doing(what)?;
    } else if kind.is_file() {
        std::fs::copy(from, to).doing(what)?;
    } else if !kind.is_socket() {
        let node = FileType::from_raw_mode(meta.mode());
        fs::mknodat(CWD, to, node, Mode::from_raw_mode(meta.mode() & 0o7777), meta.rdev()).doing(what)?;
    } else {
        // A socket means nothing without the program that listened.
        return Ok(());
    }
    attributes(from, to, &meta).doing(what)
}

/// Copies what is in the folder `from` into the folder `to`, and the folder's own owner, mode and times.
///
/// # Errors
/// Names the path that could not be copied.
pub fn contents(from: &Path, to: &Path) -> Result<()> {
    for entry in crate::base::fs::sorted_dir(from)? {
        if let Some(name) = entry.file_name() {
            tree(&entry, &to.join(name))?;
        }
    }
    let what = || format!("copying {}", from.display());
    let meta = std::fs::symlink_metadata(from).doing(what)?;
    attributes(from, to, &meta).doing(what)
}

/// Makes the folders of `from` that `to` lacks, with their owners and modes; files are left alone.
///
/// # Errors
/// Names the folder that could not be made.
pub fn missing_folders(from: &Path, to: &Path) -> Result<()> {
    for entry in crate::base::fs::sorted_dir(from)? {
        let meta = std::fs::symlink_metadata(&entry).doing(|| format!("reading {}", entry.display()))?;
        let Some(name) = entry.file_name().filter(|_| meta.is_dir()) else { continue };
        let place = to.join(name);
        match std::fs::symlink_metadata(&place) {
            Ok(there) if there.is_dir() => {}
            // The node has put something else there, which it may.
            Ok(_) => continue,
            Err(_) => {
                std::fs::create_dir(&place).doing(|| format!("making {}", place.display()))?;
                attributes(&entry, &place, &meta).doing(|| format!("making {}", place.display()))?;
            }
        }
        missing_folders(&entry, &place)?;
    }
    Ok(())
}

fn attributes(from: &Path, to: &Path, meta: &Metadata) -> Result<()> {
    let owner = (Uid::from_raw(meta.uid()), Gid::from_raw(meta.gid()));
    fs::chownat(CWD, to, Some(owner.0), Some(owner.1), AtFlags::SYMLINK_NOFOLLOW).doing(|| "setting the owner")?;
    let mut names = vec![0; 64 << 10];
    // A filesystem without attributes has none to copy.
    let length = fs::llistxattr(from, &mut names).unwrap_or(0);
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 64 << 10];
        let length = fs::lgetxattr(from, name, &mut value).doing(|| "reading an attribute")?;
        fs::lsetxattr(to, name, &value[..length], XattrFlags::empty()).doing(|| "setting an attribute")?;
    }
    if !meta.file_type().is_symlink() {
        // After the owner, whose change clears the set-user bit.
        std::fs::set_permissions(to, std::fs::Permissions::from_mode(meta.mode() & 0o7777)).doing(|| "setting the mode")?;
    }
    let times = Timestamps {
        last_access: Timespec { tv_sec: meta.atime(), tv_nsec: meta.atime_nsec() },
        last_modification: Timespec { tv_sec: meta.mtime(), tv_nsec: meta.mtime_nsec() },
    };
    fs::utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW).doing(|| "setting the times")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::tool::Tool;

    /// Every path with mode, owner, time, size and link, as find(1) sees it.
    fn listed(tree: &Path) -> String {
        let find = Tool::new("find").arg(tree).args(["-printf", "%P %M %U:%G %T@ %s %l\\n"]);
        let mut lines: Vec<String> =
            find.run().unwrap().text().lines().map(|line| line.to_string()).filter(|line| !line.contains(" s")).collect();
        lines.sort();
        lines.join("\n")
    }

    #[test]
    fn a_copy_cannot_be_told_from_the_original() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        let script = "mkdir -p $0/a/b; echo x >$0/a/f; chmod 4755 $0/a/f; ln -s nowhere $0/l; mkfifo -m 620 $0/a/p; \
                      chmod 2750 $0/a/b; touch -hd @86400.5 $0/a/f $0/l $0/a/b; touch -d @172800 $0/a $0";
        Tool::new("sh").args(["-c", script]).arg(&from).run().unwrap();
        tree(&from, &to).unwrap();
        assert_eq!(listed(&to), listed(&from));
        assert!(listed(&to).contains("a/f -rwsr-xr-x"), "{}", listed(&to));
    }
}
