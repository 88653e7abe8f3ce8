//! The seed: what makes a role's image one node.
//!
//! ```text
//! erofs, volume name OSTACK-SEED
//! ├── seed.json     {"format": 1, "node": "controller01", "role": "controller", "site": "guide"}
//! ├── secrets.json  {"nova-db": {"value": "…"}}, 0600; absent where no file asks for any
//! └── layer/        the node's files, as a tree that lies over the image's layers
//! ```

use crate::base::bundle::{CONFIG_DRIVE, CONFIG_DRIVE_SEED, SEED_SECRETS};
use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use crate::node::copy;
use crate::node::disks::{Device, Filesystem};
use crate::node::loops;
use crate::node::stack::{RUN, mount_at};
use rustix::mount::{MountFlags, UnmountFlags, unmount};
use serde::Deserialize;
use std::fs::File;
use std::path::Path;

/// What `seed.json` says. Keys that this program does not know belong to later ones.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Seed {
    /// The node's name.
    pub node: String,
    /// Its role, which must be the image's.
    pub role: String,
    /// The site it belongs to.
    pub site: String,
}

impl Seed {
    /// Reads `seed.json`.
    ///
    /// # Errors
    /// It is no JSON or lacks a key.
    pub fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(|error| Error::new(error).at("seed.json", None).next("make the seed again"))
    }

    /// Refuses a seed for another role.
    ///
    /// # Errors
    /// The roles differ.
    pub fn must_be_for(&self, role: &str) -> Result<()> {
        if self.role == role {
            return Ok(());
        }
        Err(Error::new(format!("the seed of {} is for the role {}, but this image is a {role}", self.node, self.role))
            .next(format!("attach the seed of a {role}, or write the image of a {} to this machine", self.role)))
    }
}

/// Says whose seed is on `device`. The device is free afterwards.
///
/// # Errors
/// It cannot be read.
pub fn look(device: &Device) -> Result<Seed> {
    mounted(device, |at| Seed::parse(&fs::read_text(&at.join("seed.json"))?))
}

/// Reads the seed on `device` and copies its tree to `node`, if it is for `role`. The device is free afterwards.
///
/// # Errors
/// It cannot be read or is for another role.
pub fn take(device: &Device, role: &str, node: &Path) -> Result<Seed> {
    mounted(device, |at| {
        let seed = Seed::parse(&fs::read_text(&at.join("seed.json"))?)?;
        seed.must_be_for(role)?;
        let layer = at.join("layer");
        if layer.is_dir() {
            copy::contents(&layer, node)?;
        }
        // With its mode, onto the tmpfs that becomes the node's /run.
        let secrets = at.join(SEED_SECRETS);
        if secrets.exists() {
            copy::tree(&secrets, &Path::new(RUN).join(SEED_SECRETS))?;
        }
        Ok(seed)
    })
}

/// A seed on a config drive, and what holds it: dropped once the seed is taken.
pub struct OnDrive {
    /// The seed's device.
    pub device: Device,
    _loop: File,
}

/// Finds a seed on a config drive: a file there, as a device of its own.
///
/// # Errors
/// A config drive with a seed cannot be read.
pub fn on_drive(devices: &[Device]) -> Result<Option<OnDrive>> {
    let is_drive = |device: &&Device| device.filesystem().is_ok_and(|fs| fs == Filesystem::Iso(CONFIG_DRIVE.into()));
    let at = Path::new(RUN).join("config-drive");
    for drive in devices.iter().filter(is_drive) {
        mount_at(&drive.path(), &at, "iso9660", MountFlags::RDONLY, "")?;
        let seed = at.join(CONFIG_DRIVE_SEED);
        let size = seed.metadata().map_or(0, |meta| meta.len());
        if size > 0 {
            // It stays mounted below the device.
            let (path, held) = loops::attach(&seed, 0, size)?;
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            return Ok(Some(OnDrive { device: Device { name, sectors: size / 512, partition: None }, _loop: held }));
        }
        unmount(&at, UnmountFlags::empty()).doing(|| "releasing the config drive")?;
    }
    Ok(None)
}

/// Does something with the seed's tree.
fn mounted<T>(device: &Device, read: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let at = Path::new(RUN).join("seed");
    mount_at(&device.path(), &at, "erofs", MountFlags::RDONLY, "")?;
    let result = read(&at).map_err(|error| error.doing(format!("reading the seed on {}", device.name)));
    unmount(&at, UnmountFlags::empty()).doing(|| "releasing the seed")?;
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_may_say_more_than_this_program_knows_but_not_less() {
        let seed = Seed::parse(r#"{"node": "controller01", "role": "controller", "site": "guide", "later": [1]}"#).unwrap();
        assert_eq!(seed, Seed { node: "controller01".into(), role: "controller".into(), site: "guide".into() });
        assert!(Seed::parse(r#"{"node": "controller01"}"#).is_err());
    }

    #[test]
    fn a_seed_of_another_role_is_refused_with_both_ways_out() {
        let seed = Seed { node: "compute01".into(), role: "compute".into(), site: "guide".into() };
        assert_eq!(
            seed.must_be_for("controller").err().unwrap().to_string(),
            "the seed of compute01 is for the role compute, but this image is a controller\n  \
             next: attach the seed of a controller, or write the image of a compute to this machine"
        );
    }
}
