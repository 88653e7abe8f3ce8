//! The root of a sandbox as mounts: the directory or the overlay, devices, empty `/run` and `/tmp`, what is shown of the build machine.

use super::super::user_namespace;
use super::{Bind, Overlay, Sandbox};
use crate::base::error::{Context, Error, Result};
use rustix::fs::{FileType, Mode};
use rustix::mount::{MountFlags, mount, mount_bind};
use std::ffi::CString;
use std::os::unix::fs::symlink;
use std::path::Path;

/// Where a root has the files in whose place others are shown.
const REPLACED: &str = "run/ostack/replaced";

impl Sandbox {
    /// Mounts the root and what belongs into it, in this process's mount namespace.
    ///
    /// # Errors
    /// A mount is refused.
    pub(super) fn mount_root(&self) -> Result<()> {
        let root = &self.root;
        match &self.overlay {
            Some(Overlay { lower, upper, work }) => {
                // In the options `:` and `,` separate, and a store's path may have either: so the folders are named
                // from within the one that holds them all.
                let folder = lower.last().and_then(|lowest| lowest.parent()).unwrap_or(Path::new("/"));
                rustix::process::chdir(folder).doing(|| format!("entering {}", folder.display()))?;
                let name = |path: &Path| path.strip_prefix(folder).unwrap_or(path).display().to_string();
                // redirect_dir, index and metacopy would leave traces in the upper layer that only this mount understands.
                // `userxattr` takes no other word for "no redirects".
                let notes = if user_namespace::is_own()? { "userxattr,redirect_dir=nofollow" } else { "redirect_dir=off" };
                let options = format!(
                    "lowerdir={},upperdir={},workdir={},{notes},index=off,metacopy=off,xino=off",
                    lower.iter().map(|one| name(one)).collect::<Vec<_>>().join(":"),
                    name(upper),
                    name(work)
                );
                let options = CString::new(options).map_err(|_| Error::new("a path holds a NUL byte"))?;
                mount("overlay", root, "overlay", MountFlags::empty(), Some(options.as_c_str()))
                    .doing(|| format!("mounting an overlay at {}", root.display()))?;
            }
            None => mount_bind(root, root).doing(|| format!("mounting {}", root.display()))?,
        }
        self.mount_dev(&root.join("dev"))?;
        for scratch in ["run", "tmp"] {
            tmpfs(&root.join(scratch), if scratch == "tmp" { c"mode=1777" } else { c"mode=0755" })?;
        }
        if root.join("run/lock").parent().is_some_and(Path::exists) {
            let _ = std::fs::create_dir(root.join("run/lock"));
        }
        for Bind { outside, inside, writable } in &self.binds {
            let target = root.join(inside.strip_prefix("/").unwrap_or(inside));
            let what = || format!("showing {} at {}", outside.display(), inside.display());
            std::fs::create_dir_all(&target).doing(what)?;
            mount_bind(outside, &target).doing(what)?;
            if !writable {
                make_read_only(&target).doing(what)?;
            }
        }
        for (outside, inside) in &self.replaced {
            let target = root.join(inside);
            // A link would lead the mount to where it points to, which may be outside.
            if std::fs::symlink_metadata(&target).is_ok_and(|meta| meta.is_file()) {
                let what = || format!("showing {} in the place of /{}", outside.display(), inside.display());
                let original = root.join(REPLACED).join(inside);
                std::fs::create_dir_all(original.parent().unwrap_or(root)).doing(what)?;
                std::fs::File::create(&original).doing(what)?;
                mount_bind(&target, &original).doing(what)?;
                mount_bind(outside, &target).doing(what)?;
                make_read_only(&target).doing(what)?;
            }
        }
        Ok(())
    }

    fn mount_dev(&self, dev: &Path) -> Result<()> {
        tmpfs(dev, c"mode=0755")?;
        // In a user namespace no device can be made; those of the machine are the same.
        let own = user_namespace::is_own()?;
        // Numbers: Linux's Documentation/admin-guide/devices.txt.
        for (name, minor) in [("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)] {
            let path = dev.join(name);
            let what = || format!("making the device {}", path.display());
            if own {
                std::fs::File::create(&path).doing(what)?;
                mount_bind(Path::new("/dev").join(name), &path).doing(what)?;
                continue;
            }
            let mode = Mode::from_raw_mode(0o666);
            let device = rustix::fs::makedev(1, minor);
            rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::CharacterDevice, mode, device).doing(what)?;
            rustix::fs::chmod(&path, mode).doing(what)?;
        }
        for (name, target) in
            [("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"), ("stderr", "/proc/self/fd/2")]
        {
            symlink(target, dev.join(name)).doing(|| format!("linking /dev/{name}"))?;
        }
        for name in ["shm", "pts"] {
            std::fs::create_dir(dev.join(name)).doing(|| format!("making /dev/{name}"))?;
        }
        tmpfs(&dev.join("shm"), c"mode=1777")
    }
}

/// Makes a bind mount read-only. What its own mount forbids already stays forbidden: a user namespace must not take that back.
fn make_read_only(target: &Path) -> rustix::io::Result<()> {
    use rustix::fs::StatVfsMountFlags as Has;
    let has = rustix::fs::statvfs(target)?.f_flag;
    let kept = [
        (Has::NOSUID, MountFlags::NOSUID),
        (Has::NODEV, MountFlags::NODEV),
        (Has::NOEXEC, MountFlags::NOEXEC),
        (Has::NOATIME, MountFlags::NOATIME),
        (Has::NODIRATIME, MountFlags::NODIRATIME),
        (Has::RELATIME, MountFlags::RELATIME),
    ];
    let kept = kept.iter().filter(|(flag, _)| has.contains(*flag)).fold(MountFlags::empty(), |all, (_, flag)| all | *flag);
    rustix::mount::mount_remount(target, MountFlags::BIND | MountFlags::RDONLY | kept, c"")
}

fn tmpfs(target: &Path, options: &std::ffi::CStr) -> Result<()> {
    let what = || format!("mounting a tmpfs at {}", target.display());
    std::fs::create_dir_all(target).doing(what)?;
    mount("tmpfs", target, "tmpfs", MountFlags::empty(), Some(options)).doing(what)
}
