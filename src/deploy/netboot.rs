//! The tree that blank machines start from: static files that any web server can give out.
//!
//! ```text
//! boot.ipxe, boot/…, pxelinux.cfg/…, *.efi, …   what images/netboot.toml says
//! boot/scripts.json                             which script is which node's
//! boot/orders.img                               the installer's orders, as an archive behind the initrd
//! blobs/sha256/…                                kernels, initrds, drivers, layers, descriptions
//! SHA256SUMS                                    every file
//! ```
//!
//! A tree is changed in place, while machines may be reading it: blobs come first, then what names them, then what nobody names
//! any more goes, but for what the tree before this one had: a machine that has begun with that one can end with it.

use super::describe::Described;
use crate::base::digest::{Blob, Digest};
use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use crate::image::artifact::mkimage;
use crate::image::copy::copy_range;
use crate::image::grub::MkImage;
use crate::image::initrd;
use crate::model::install::{FORMAT, INSTALL_ARGUMENT, Kind, Machine, ORDERS, Orders, Source};
use crate::model::load::NETBOOT_TEMPLATES;
use crate::model::netboot::{Each, NetbootSpec};
use crate::model::site::{Node, Site};
use crate::plan::context::Values;
use crate::plan::render::Templates;
use crate::store::Store;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Every file of the tree with its sha256, as `sha256sum` writes and checks it.
pub const SUMS: &str = "SHA256SUMS";
/// The orders' archive.
const ORDERS_ARCHIVE: &str = "boot/orders.img";
const BLOBS: &str = "blobs/sha256";
/// Which script is which node's: what `serve` may give out another one for.
pub const SCRIPTS: &str = "boot/scripts.json";
/// What a script's name is followed by for the one that starts the disk.
pub const DISK: &str = ".disk";

/// Where the tree will be given out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Its address in the provisioning network.
    pub address: std::net::Ipv4Addr,
    /// The port of HTTP.
    pub port: u16,
    /// The port of `ostack-image serve`'s door for secrets, and the authority that has signed for it, as PEM.
    pub secure: Option<(u16, String)>,
    /// Whether the network has a DHCP server already.
    pub proxy: bool,
}

impl Server {
    /// The tree's URL.
    pub fn url(&self) -> String {
        format!("http://{}:{}", self.address, self.port)
    }

    /// The URL of the door for secrets.
    pub fn door(&self) -> Option<String> {
        self.secure.as_ref().map(|(port, _)| format!("https://{}:{port}", self.address))
    }
}

/// A role's image, ready to be installed.
pub struct RoleImage {
    /// How it lies on a disk.
    pub described: Described,
    /// Drivers of network cards.
    pub drivers: Blob,
    /// The kernel's command line without the image's digest.
    pub command_line: String,
}

/// What a tree is made of.
pub struct Tree<'a> {
    /// The site.
    pub site: &'a Site,
    /// What it consists of besides blobs.
    pub spec: &'a NetbootSpec,
    /// Where it will be given out.
    pub server: &'a Server,
    /// The image of each role.
    pub roles: &'a [RoleImage],
    /// Has the blobs.
    pub store: &'a Store,
    /// The root of what blank machines start by.
    pub loaders: &'a Path,
    /// The root that has `grub-mkimage`.
    pub tools: &'a Path,
    /// The time in archives, in seconds since 1970.
    pub epoch: u64,
}

/// A file of the tree.
enum File {
    Bytes(Vec<u8>),
    /// A blob of the store.
    Blob(Blob),
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Written {
    /// The tree's folder.
    pub path: PathBuf,
    /// sha256 of its list of files.
    pub digest: Digest,
    /// Its files.
    pub files: usize,
    /// Their bytes, all together.
    pub size: u64,
}

impl Tree<'_> {
    /// Writes the tree to a folder.
    ///
    /// # Errors
    /// A template is wrong, a loader is missing, or the folder cannot be written; the tree that was there still works.
    pub fn write(&self, folder: &Path) -> Result<Written> {
        let files = self.files()?;
        // A path that leads out of the tree would be written there.
        if let Some(path) = files.keys().find(|path| path.split('/').any(|part| part.is_empty() || part == "..")) {
            return Err(Error::new(format!("`{path}` is no path in the tree")).next("correct images/netboot.toml"));
        }
        let old = listed(&folder.join(SUMS))?;
        let mut sums = String::new();
        let mut size = 0;
        // Names of blobs sort before those of scripts, but that is not what to rely on.
        let (blobs, others): (Vec<_>, Vec<_>) = files.iter().partition(|(path, _)| path.starts_with(BLOBS));
        for (path, file) in blobs.into_iter().chain(others) {
            size += self.put(&folder.join(path), file)?;
        }
        for (path, file) in &files {
            let digest = match file {
                File::Bytes(bytes) => Digest::of(bytes),
                File::Blob(blob) => blob.digest,
            };
            sums.push_str(&format!("{}  {path}\n", digest.hex()));
        }
        fs::write_atomic(&folder.join(SUMS), sums.as_bytes())?;
        let mut stays: BTreeSet<String> = files.keys().cloned().collect();
        stays.extend(old.into_iter().filter(|path| path.starts_with(BLOBS)));
        remove_others(folder, &stays)?;
        Ok(Written { path: folder.to_path_buf(), digest: Digest::of(&sums), files: files.len(), size })
    }

    fn put(&self, path: &Path, file: &File) -> Result<u64> {
        match file {
            File::Bytes(bytes) => {
                // Not written again: servers tell their clients by a file's time whether it is another one.
                if std::fs::read(path).is_ok_and(|old| old == *bytes) {
                    return Ok(bytes.len() as u64);
                }
                fs::write_atomic(path, bytes)?;
                Ok(bytes.len() as u64)
            }
            File::Blob(blob) => {
                if path.metadata().is_ok_and(|meta| meta.len() == blob.size) {
                    return Ok(blob.size);
                }
                let new = fs::temporary_beside(path)?;
                copy_range(&fs::open(&self.store.path(&blob.digest))?, 0, new.as_file(), 0, blob.size)?;
                fs::persist(new, path, 0o644)?;
                Ok(blob.size)
            }
        }
    }

    fn files(&self) -> Result<BTreeMap<String, File>> {
        let mut files = BTreeMap::new();
        let mut roles = BTreeMap::new();
        for role in self.roles {
            let description = &role.described.description;
            let text = serde_json::to_vec(description).doing(|| "writing a description")?;
            let blob = Blob { digest: Digest::of(&text), size: text.len() as u64 };
            roles.insert(description.role.clone(), blob);
            files.insert(blob_path(&blob), File::Bytes(text));
            files.insert(blob_path(&description.pieces[0].blob), File::Bytes(role.described.boot.clone()));
            let stored = description.pieces[1..].iter().map(|piece| piece.blob);
            for blob in stored.chain([description.kernel, description.initrd, role.drivers]) {
                files.insert(blob_path(&blob), File::Blob(blob));
            }
        }
        let orders = self.orders(roles)?;
        files.insert(ORDERS_ARCHIVE.into(), File::Bytes(initrd::file(ORDERS, orders, self.epoch)));
        for loader in &self.spec.loaders {
            let from = self.loaders.join(loader.source.as_str());
            fs::must_exist(&from, "a boot loader", "name its package under loaders in the release's file, and lock it")?;
            files.insert(loader.path.as_str().to_string(), File::Bytes(fs::read(&from)?));
        }
        self.rendered(&mut files)?;
        Ok(files)
    }

    fn orders(&self, roles: BTreeMap<String, Blob>) -> Result<Vec<u8>> {
        let secure = self.server.secure.as_ref();
        let orders = Orders {
            format: FORMAT,
            site: self.site.name.to_string(),
            source: Source::Http {
                base: self.server.url(),
                secure: self.server.door(),
                authority: secure.map(|(_, authority)| authority.clone()),
            },
            machines: self.site.nodes.iter().map(|node| Machine::of(self.site, node)).collect(),
            roles,
        };
        serde_json::to_vec(&orders).doing(|| "writing the installer's orders")
    }

    fn rendered(&self, files: &mut BTreeMap<String, File>) -> Result<()> {
        let folder = Path::new(NETBOOT_TEMPLATES);
        let templates = Templates::parse(&self.spec.texts, folder)?;
        let mut values = self.values();
        let mut put = |path: &str, source: &str, values: &Values| -> Result<String> {
            let path = Templates::render_text(path, values)?.trim_start_matches('/').to_string();
            let text = templates.render(source, values)?;
            files.insert(path.clone(), File::Bytes(text.into_bytes()));
            Ok(path)
        };
        let mut scripts = BTreeMap::new();
        for template in self.spec.templates.iter().filter(|template| template.each == Each::Site) {
            put(&template.path, &template.source, &values)?;
        }
        for node in &self.site.nodes {
            let Some(role) = self.roles.iter().find(|role| role.described.description.role == node.role.as_str()) else {
                continue;
            };
            self.of_node(&mut values, node, role);
            for (each, name, value) in [(Each::Mac, "mac", &node.mac), (Each::Serial, "serial", &node.serial)] {
                let Some(value) = value else { continue };
                values.set(name, &json!(value));
                for template in self.spec.templates.iter().filter(|template| template.each == each) {
                    let path = put(&template.path, &template.source, &values)?;
                    if let Some(disk) = &template.disk {
                        put(&(template.path.clone() + DISK), disk, &values)?;
                        scripts.insert(path, node.name.to_string());
                    }
                }
                values.remove(name);
            }
        }
        let scripts = serde_json::to_vec(&scripts).doing(|| "writing the list of scripts")?;
        files.insert(SCRIPTS.into(), File::Bytes(scripts));
        for grub in &self.spec.grubs {
            let config = Templates::render_text(&grub.config, &self.values())?;
            let request = MkImage { format: grub.format.clone(), prefix: "/boot".into(), config, modules: grub.modules.clone() };
            let image = mkimage(self.tools, &self.store.scratch(), &request);
            files.insert(
                grub.path.as_str().to_string(),
                File::Bytes(image.map_err(|error| error.doing(format!("making {}", grub.path)))?),
            );
        }
        Ok(())
    }

    fn values(&self) -> Values {
        let network = &self.site.management;
        let nodes: Vec<Value> = self.site.nodes.iter().map(shown).collect();
        let server = self.server;
        let table = json!({
            "site": { "name": self.site.name },
            "server": { "url": server.url(), "address": server.address, "port": server.port, "proxy": server.proxy },
            "network": {
                "address": network.subnet.address(), "netmask": network.subnet.netmask(), "gateway": network.gateway,
            },
            "nodes": nodes,
        });
        Values::of(table)
    }

    fn of_node(&self, values: &mut Values, node: &Node, role: &RoleImage) {
        let description = &role.described.description;
        values.set("node", &shown(node));
        values.set("kernel", &json!(blob_path(&description.kernel)));
        values.set("initrds", &json!([blob_path(&description.initrd), blob_path(&role.drivers), ORDERS_ARCHIVE]));
        let words = format!("{} {INSTALL_ARGUMENT}={}", role.command_line, Kind::Missing.as_str());
        values.set("command_line", &json!(words.trim()));
    }
}

fn shown(node: &Node) -> Value {
    json!({
        "name": node.name, "role": node.role, "management": node.management, "mac": node.mac, "serial": node.serial,
    })
}

/// Where a blob lies in a tree or on a medium.
pub fn blob_path(blob: &Blob) -> String {
    format!("{BLOBS}/{}", blob.digest.hex())
}

/// The files that a list names; none where there is no list.
fn listed(list: &Path) -> Result<Vec<String>> {
    if !list.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read_text(list)?;
    Ok(text.lines().filter_map(|line| line.split_once("  ")).map(|(_, path)| path.to_string()).collect())
}

/// Removes what is not to stay, and folders that are empty then.
fn remove_others(folder: &Path, stays: &BTreeSet<String>) -> Result<()> {
    for entry in walkdir::WalkDir::new(folder).min_depth(1).contents_first(true) {
        let entry = entry.doing(|| format!("reading {}", folder.display()))?;
        let path = entry.path();
        let name = path.strip_prefix(folder).unwrap_or(path).to_string_lossy().into_owned();
        if entry.file_type().is_dir() {
            // Only one that is empty goes.
            let _ = std::fs::remove_dir(path);
        } else if name != SUMS && !stays.contains(&name) {
            std::fs::remove_file(path).doing(|| format!("removing {}", path.display()))?;
        }
    }
    Ok(())
}
