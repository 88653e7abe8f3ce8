//! From layers to a root: filesystems on loop devices, one overlay over all.
//!
//! ```text
//! /sysroot            overlay
//!   upper, work       /run/ostack/top    tmpfs: what changes until the next boot
//!   lower, topmost    /run/ostack/node   tmpfs: the node's own files, from the seed
//!   lower             /run/ostack/l/N … /run/ostack/l/0: the image's layers, read-only
//! ```

use crate::base::bundle::BootIndex;
use crate::base::error::{Context, Error, Result};
use crate::base::fs::{create_dir_all, sorted_dir};
use crate::node::disks::{Device, Filesystem, probe};
use crate::node::loops;
use rustix::mount::{MountFlags, mount, mount_remount};
use std::ffi::CString;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Where everything of this program is mounted; it moves with `/run` into the booted system.
pub const RUN: &str = "/run/ostack";

/// Mounts a filesystem, making the mount point.
///
/// # Errors
/// The kernel refuses; the message says what was to be mounted where.
pub fn mount_at(source: &Path, target: &Path, kind: &str, flags: MountFlags, options: &str) -> Result<()> {
    create_dir_all(target)?;
    let data = CString::new(options).map_err(Error::new)?;
    mount(source, target, kind, flags, data.as_c_str())
        .doing(|| format!("mounting {} ({kind}) on {}", source.display(), target.display()))
}

/// Mounts every layer of `index`, which lie on `system`, and gives the mount points, the bottom one first.
///
/// # Errors
/// A layer cannot be mounted, with its name.
pub fn layers(system: &Device, index: &BootIndex) -> Result<Vec<PathBuf>> {
    let mount = |number: usize| {
        let layer = &index.layers[number];
        let (device, file) = loops::attach(&system.path(), layer.offset, layer.size)?;
        let mut head = vec![0; 2048];
        file.read_exact_at(&mut head, 0).doing(|| format!("reading {}", device.display()))?;
        let kind = match probe(&head) {
            Filesystem::Erofs(_) => "erofs",
            Filesystem::Squashfs => "squashfs",
            _ => return Err(Error::new("it holds no filesystem of a layer").next("write the image to this disk again")),
        };
        let target = Path::new(RUN).join("l").join(number.to_string());
        mount_at(&device, &target, kind, MountFlags::RDONLY, "")?;
        Ok(target)
    };
    let one = |number: usize| mount(number).map_err(|error| error.doing(format!("the layer {}", index.layers[number].name)));
    (0..index.layers.len()).map(one).collect()
}

/// Makes an empty tmpfs for the node's files and gives its path.
///
/// # Errors
/// The kernel refuses.
pub fn node_files() -> Result<PathBuf> {
    let path = Path::new(RUN).join("node");
    mount_at(Path::new("ostack-node"), &path, "tmpfs", MountFlags::empty(), "mode=0755")?;
    Ok(path)
}

/// What the root is stacked of, the topmost one first: the node's files, then the image's layers.
pub fn lower(layers: &[PathBuf], node: &Path) -> Vec<PathBuf> {
    std::iter::once(node).chain(layers.iter().rev().map(PathBuf::as_path)).map(Path::to_path_buf).collect()
}

/// The same on a running node, where everything is still mounted.
///
/// # Errors
/// This is no node of an image.
pub fn mounted() -> Result<Vec<PathBuf>> {
    let numbers = sorted_dir(&Path::new(RUN).join("l"))?.len();
    if numbers == 0 {
        return Err(
            Error::new(format!("there are no layers in {RUN}/l")).next("run this on a node that was started from an image")
        );
    }
    let layers: Vec<PathBuf> = (0..numbers).map(|number| Path::new(RUN).join("l").join(number.to_string())).collect();
    Ok(lower(&layers, &Path::new(RUN).join("node")))
}

/// Stacks `layers`, the bottom one first, `node` and a tmpfs to a root at `root`.
///
/// # Errors
/// The kernel refuses, or the layers' paths exceed a mount option's page.
pub fn overlay(layers: &[PathBuf], node: &Path, root: &Path) -> Result<()> {
    overlay_with(layers, node, &Path::new(RUN).join("top"), root)
}

/// The same with the tmpfs at `top`.
///
/// # Errors
/// As [`overlay`]'s.
pub fn overlay_with(layers: &[PathBuf], node: &Path, top: &Path, root: &Path) -> Result<()> {
    mount_remount(node, MountFlags::RDONLY, c"").doing(|| "making the node's files read-only")?;
    mount_at(Path::new("ostack-top"), top, "tmpfs", MountFlags::empty(), "mode=0755")?;
    for folder in ["upper", "work"] {
        create_dir_all(&top.join(folder))?;
    }
    mount_at(Path::new("ostack"), root, "overlay", MountFlags::empty(), &options(layers, node, top)?)
}

/// The classic option string, which kernels before 6.5 understand too.
fn options(layers: &[PathBuf], node: &Path, top: &Path) -> Result<String> {
    let lower: Vec<String> = lower(layers, node).iter().map(|path| path.display().to_string()).collect();
    let (lower, top) = (lower.join(":"), top.display());
    let options = format!("lowerdir={lower},upperdir={top}/upper,workdir={top}/work");
    // mount(2) takes one page, with the final zero.
    if options.len() > 4095 {
        return Err(Error::new(format!("{} layers are too many for one overlay", layers.len())).next("merge layers of the image"));
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_files_lie_over_the_layers_and_the_last_layer_over_the_first() {
        let layers = ["/l/0", "/l/1"].map(PathBuf::from);
        assert_eq!(
            options(&layers, Path::new("/node"), Path::new("/top")).unwrap(),
            "lowerdir=/node:/l/1:/l/0,upperdir=/top/upper,workdir=/top/work"
        );
        assert!(options(&vec![PathBuf::from("/run/ostack/l/00"); 300], Path::new("/node"), Path::new("/top")).is_err());
    }
}
