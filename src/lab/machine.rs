//! What a lab knows of a node: written when it is started, read inside the lab's namespaces.
//!
//! ```text
//! FOLDER/
//! ├── holder.json          the process whose end is the lab's
//! ├── holder.log
//! ├── images/              disks of roles, for virtual machines
//! └── nodes/NAME/
//!     ├── machine.json     a Machine
//!     ├── seed.img         the node's seed
//!     ├── console.log      what its console shows, since its last start
//!     ├── disks/           its disks beside the system's, as files
//!     ├── state/           what outlives a container's power cut: the state partition of a real node
//!     └── system.raw       a virtual machine's disk, with a state partition, and beside it QEMU's own files
//! ```

use crate::base::bundle::BootState;
use crate::base::digest::Digest;
use crate::base::error::{Context, Result};
use crate::base::fs;
use crate::base::name::NodeName;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A node of a lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Its name.
    pub node: NodeName,
    /// Its role.
    pub role: String,
    /// The digest of its image's manifest.
    pub image: Digest,
    /// The release that the image was built from.
    pub release: String,
    /// The image's layers, as files that hold erofs filesystems; the bottom one first.
    pub layers: Vec<PathBuf>,
    /// What outlives a reboot.
    pub state: Vec<BootState>,
    /// Its place among the nodes of the site, from 0: names its ends of cables.
    pub place: usize,
    /// Its network interfaces.
    pub interfaces: Vec<Interface>,
    /// Its disks beside the system's.
    #[serde(default)]
    pub disks: Vec<Disk>,
    /// What it is as a virtual machine; none: a container.
    #[serde(default)]
    pub vm: Option<Vm>,
}

/// A virtual machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vm {
    /// Memory in MiB.
    pub memory: u32,
    /// Processors.
    pub cpus: u32,
    /// The image's kernel, to try KVM with.
    pub kernel: PathBuf,
}

/// A disk of a node, blank at first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// The name that the site has for it on the node, below `/dev`.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
}

/// A network interface of a node, and the bridge at the cable's other end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// The name that a real node's udev would give it.
    pub name: String,
    /// Its MAC address; the kernel draws one where there is none.
    pub mac: Option<String>,
    /// The bridge.
    pub bridge: String,
}

/// The folder of a lab.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

impl Folder {
    /// A lab's folder, absolute, whether it is there or not.
    ///
    /// # Errors
    /// The current folder is gone.
    pub fn new(path: &Path) -> Result<Self> {
        Ok(Self(std::path::absolute(path).doing(|| format!("finding {}", path.display()))?))
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The file that names the holder.
    pub fn holder(&self) -> PathBuf {
        self.0.join("holder.json")
    }

    /// What belongs to a node.
    pub fn node(&self, node: &str) -> PathBuf {
        self.0.join("nodes").join(node)
    }

    /// What outlives a node's power cut.
    pub fn state(&self, node: &str) -> PathBuf {
        self.node(node).join("state")
    }

    /// The disk of a virtual machine.
    pub fn system(&self, node: &str) -> PathBuf {
        self.node(node).join("system.raw")
    }

    /// The folder of the images that disks are copies of.
    pub fn images(&self) -> PathBuf {
        self.0.join("images")
    }

    /// A node's seed.
    pub fn seed(&self, node: &str) -> PathBuf {
        self.node(node).join("seed.img")
    }

    /// A node's console.
    pub fn console(&self, node: &str) -> PathBuf {
        self.node(node).join("console.log")
    }

    /// The folder of a node's disks, each a file of its number.
    pub fn disks(&self, node: &str) -> PathBuf {
        self.node(node).join("disks")
    }

    /// The names of the nodes that were ever started here.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn nodes(&self) -> Result<Vec<String>> {
        let names = fs::sorted_dir(&self.0.join("nodes"))?.into_iter();
        let whole = names.filter(|path| path.join("machine.json").exists());
        Ok(whole.filter_map(|path| Some(path.file_name()?.to_str()?.to_string())).collect())
    }

    /// Remembers a node.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn write(&self, machine: &Machine) -> Result<()> {
        let text = serde_json::to_vec_pretty(machine).doing(|| "describing the node")?;
        fs::write_atomic(&self.node(machine.node.as_str()).join("machine.json"), &text)
    }

    /// What is known of a node.
    ///
    /// # Errors
    /// It was never started here.
    pub fn read(&self, node: &str) -> Result<Machine> {
        let file = self.node(node).join("machine.json");
        fs::must_exist(&file, "the lab's node", &format!("start it with: ostack-image lab up {node}"))?;
        serde_json::from_slice(&fs::read(&file)?).doing(|| format!("reading {}", file.display()))
    }
}
