//! Starting nodes of a lab: what each one is, its seed, its disk if it is a virtual machine, and waiting until it is up.

use super::status::system;
use super::{Extra, Place};
use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use crate::cli::report::Steps;
use crate::cli::session::Session;
use crate::cli::terminal::note;
use crate::cli::{seed, unlock};
use crate::image::artifact::{Format, Maker};
use crate::image::manifest::{self, Image};
use crate::image::tools::tools;
use crate::lab::holder::Holder;
use crate::lab::machine::{Folder, Interface, Machine, Vm};
use crate::lab::{outside, vm};
use crate::lock::ReleaseLock;
use crate::model::site::{self, Kind, Node};
use crate::secrets::{Held, draw};
use crate::store::Store;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How nodes are started.
pub(super) struct Start<'a> {
    pub session: &'a Session,
    pub folder: &'a Folder,
    /// Disks beside the system's.
    pub disks: &'a [Extra],
    /// What a node that is new here becomes; others stay what they are, and being told otherwise by name is an error.
    pub place: Option<Place>,
    /// Whether the nodes were named one by one.
    pub named: bool,
    /// Memory of a virtual machine in MiB; that of its last start if there is none.
    pub memory: Option<u32>,
    /// Put the image under a virtual machine also if it has been put there before.
    pub anew: bool,
    pub secrets: &'a unlock::From,
    /// How long a node may take to be up.
    pub patience: Duration,
}

/// Memory of a virtual machine in MiB: a controller of the guide's site uses 4.2 GiB once all services run.
const MEMORY: u32 = 6144;
/// Its processors.
const CPUS: u32 = 2;

impl Start<'_> {
    /// Starts those that do not run, and waits for all.
    pub fn up(&self, nodes: &[&Node]) -> Result<()> {
        let lock = self.session.release_lock()?;
        let held = held(self.session, self.folder, self.secrets)?;
        let store = self.session.store()?;
        let images = nodes.iter().map(|node| manifest::read(&store, node.role.as_str())).collect::<Result<Vec<_>>>()?;
        let machines =
            nodes.iter().zip(&images).map(|(node, image)| self.machine(&store, node, image)).collect::<Result<Vec<_>>>()?;
        let running = Holder::find(self.folder)?;
        let runs = |name: &str| running.is_some_and(|holder| outside::leader(holder, name).is_some());
        let all = nodes.iter().zip(&machines).zip(&images);
        let off: Vec<_> = all.filter(|((node, _), _)| !runs(node.name.as_str())).collect();
        for ((node, machine), image) in &off {
            if machine.vm.is_some() {
                self.put_image(&store, &lock, node, image)?;
            }
        }
        let holder = Holder::ensure(self.folder)?;
        for ((node, machine), _) in off {
            let name = node.name.as_str();
            seed::write_to(self.session, &lock, node, Some(&self.folder.seed(name)), Some(&held))?;
            self.folder.write(machine)?;
            note!("  starting {name} …");
            outside::action(holder, self.folder.path(), "start", name)?;
        }
        let names: Vec<String> = nodes.iter().map(|node| node.name.to_string()).collect();
        wait(self.folder, holder, &names, self.patience)
    }

    /// What a node is: its role's image, its cables, and its disks; those of an earlier start stay.
    fn machine(&self, store: &Store, node: &Node, image: &Image) -> Result<Machine> {
        let (session, folder, name) = (self.session, self.folder, node.name.as_str());
        let before = folder.read(name).ok();
        let mut disks = before.as_ref().map(|machine| machine.disks.clone()).unwrap_or_default();
        for extra in self.disks.iter().filter(|extra| extra.node == name) {
            if !disks.iter().any(|disk| disk.path == extra.disk.path) {
                disks.push(extra.disk.clone());
            }
        }
        let absolute = |path: PathBuf| std::path::absolute(&path).doing(|| format!("finding {}", path.display()));
        let layers = image.layers.iter().map(|layer| absolute(store.path(&layer.blob.digest)));
        let was = before.as_ref().map(|machine| if machine.vm.is_some() { Place::Qemu } else { Place::Nspawn });
        let place = was.filter(|_| !self.named).or(self.place).or(was).unwrap_or(Place::Nspawn);
        // The state of the one is nothing to the other.
        if was.is_some_and(|was| was != place) {
            return Err(Error::new(format!("{name} is no {} in this lab", place.words()))
                .next("end the lab with `ostack-image lab down --wipe`, or use another folder: --lab DIR"));
        }
        let memory = self.memory.or(before.and_then(|machine| Some(machine.vm?.memory))).unwrap_or(MEMORY);
        let kernel = absolute(store.path(&image.kernel.digest))?;
        let machine = Machine {
            node: node.name.clone(),
            role: image.role.clone(),
            image: image.manifest.digest,
            release: image.release.clone(),
            layers: layers.collect::<Result<_>>()?,
            state: image.state.clone(),
            place: session.site.nodes.iter().position(|one| one.name == node.name).unwrap_or_default(),
            interfaces: interfaces(node),
            disks,
            vm: (place == Place::Qemu).then_some(Vm { memory, cpus: CPUS, kernel }),
        };
        if machine.vm.is_some() {
            vm::possible(&machine)?;
        }
        Ok(machine)
    }

    /// Puts the role's disk under a virtual machine.
    fn put_image(&self, store: &Store, lock: &ReleaseLock, node: &Node, image: &Image) -> Result<()> {
        let (session, folder, name) = (self.session, self.folder, node.name.as_str());
        let disk = folder.system(name);
        if !self.anew && disk.exists() && folder.read(name).is_ok_and(|before| before.image == image.manifest.digest) {
            return Ok(());
        }
        let plan = session.plan(session.role(node.role)?, lock)?;
        let spec = session.project.disk()?;
        let steps = Steps::new(false, None);
        let maker = Maker { store, image, spec: &spec, tools_key: plan.tools.digest(), watch: &steps };
        let images = folder.images();
        fs::create_dir_all(&images)?;
        let raw = match maker.found(&images, Format::Raw) {
            Some(raw) => raw,
            None => {
                // Until the disk is made: it uses the store's scratch folder, which a build would empty.
                let write_lock = store.lock()?;
                let tools = tools(store, &write_lock, &plan, &steps)?;
                maker.make(&images, Format::Raw, &tools)?
            }
        };
        vm::put(&raw.path, &disk)
    }
}

/// The site's secrets; where there are none, the lab's own, which its folder keeps so that its nodes know each other.
fn held(session: &Session, folder: &Folder, from: &unlock::From) -> Result<Held> {
    if let Some(held) = from.held(session)? {
        return Ok(held);
    }
    let file = folder.path().join("secrets.json");
    let mut held = match file.exists() {
        true => serde_json::from_slice(&fs::read(&file)?).map_err(|_| Error::new("these are no secrets").at(&file, None))?,
        false => Held::new(session.site.name.as_str()),
    };
    if !draw::missing(&mut held, &unlock::wanted(session, None)?)?.is_empty() {
        note!("  there are no secrets of this site: drawing some for this lab");
        let mut new = fs::temporary_beside(&file)?;
        serde_json::to_writer(&mut new, &held).doing(|| "writing the lab's secrets")?;
        fs::persist(new, &file, 0o600)?;
    }
    Ok(held)
}

/// The node's adapters, with the names that they get from it, because nobody renames them in a container. What carries one
/// network without a tag hangs on that network's bridge, all else on one that is for tags.
fn interfaces(node: &Node) -> Vec<Interface> {
    let cards = node.interfaces.iter().filter(|one| one.kind == Kind::Card);
    let of = |card: &site::Interface| {
        let bond = card.bond.as_ref().and_then(|bond| node.interfaces.iter().find(|one| one.name == *bond));
        let carries = bond.unwrap_or(card);
        let network = carries.network.filter(|_| carries.tagged.is_empty());
        Interface { name: card.name.clone(), mac: card.mac.clone(), bridge: network.unwrap_or("tags").to_string() }
    };
    cards.map(of).collect()
}

/// Waits until every node has reported on its console that its boot is over and its services are at rest.
pub(super) fn wait(folder: &Folder, holder: Holder, nodes: &[String], patience: Duration) -> Result<()> {
    let begin = Instant::now();
    for node in nodes {
        let report = format!("ostack: {node} is up");
        while !String::from_utf8_lossy(&std::fs::read(folder.console(node)).unwrap_or_default()).contains(&report) {
            if folder.read(node)?.vm.is_some() && outside::leader(holder, node).is_none() {
                return Err(Error::new(format!("{node} has ended: {}", outside::last_words(folder, node)?))
                    .next(format!("read {}", folder.console(node).display())));
            }
            if begin.elapsed() > patience {
                let state = system(folder, holder, node);
                return Err(Error::new(format!("{node} is not up after {} s: {state}", patience.as_secs()))
                    .next(format!("read {}, or: ostack-image lab exec {node} -- journalctl", folder.console(node).display())));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    Ok(())
}
