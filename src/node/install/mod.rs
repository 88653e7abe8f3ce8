//! The installer: the initrd's init on a machine that is to become a node.
//!
//! In: the orders in the initrd, and what the machine is. Out: a disk that starts as that node. It goes in order: `who` (which node),
//! `network` (one address), `source` (description and blobs), `pick` (which disk), `target` (what is kept; closing and opening the
//! disk), `write` (pieces to runs), then the seed, then `kexec`. What must hold: nothing is written before everything is known to
//! fit; no byte that was not checked reaches the disk; at every moment the disk starts the old system, or the new one, or none.
//! To find a disk by another kind of hint: a field of the site's `DiskHint`, and its comparison in `pick`.
//!
//! An attempt that fails says why, on the consoles and to the server, and another one follows after a while: a machine that waits
//! for a server to come back, or for a cable, needs no visitor.

mod kexec;
mod network;
mod pick;
mod source;
mod target;
mod who;
mod write;

use super::console::say;
use super::disks::{self, Device};
use super::init::argument;
use super::modules::Modules;
use super::seed::Seed;
use super::stack::{RUN, mount_at};
use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use crate::model::install::{
    Armed, Description, FORMAT, Kind, MEDIUM_VOLUME, NODE_ARGUMENT, ORDERS, Orders, Progress, SEED_PARTITION, SEED_ROOM, Source,
    Stage,
};
use rustix::mount::MountFlags;
use source::{Blobs, Medium, Server};
use std::io::Read;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use target::Target;
use who::Hardware;

/// How long drivers may take to show the first disk and the first card.
const DEVICES: Duration = Duration::from_secs(20);
/// The pause after an attempt that failed doubles from the first to the last of these.
const PAUSES: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(60)];
/// How often the server hears how far the machine is, and how often the consoles do.
const TELL: Duration = Duration::from_secs(1);
const SAY: Duration = Duration::from_secs(10);

/// Installs, and starts what was installed. Comes back only in the sense that another kernel replaces this one.
///
/// # Errors
/// The initrd has no orders: nothing that another attempt could mend.
pub fn run(kind: Kind, command_line: &str, modules: &mut Modules) -> Result<std::convert::Infallible> {
    let orders: Orders =
        serde_json::from_slice(&fs::read(&Path::new("/").join(ORDERS))?).doing(|| format!("reading {ORDERS}"))?;
    if orders.format != FORMAT {
        return Err(Error::new(format!("the orders have the format {}, and this program knows {FORMAT}", orders.format))
            .next("make the tree again, and serve all of it"));
    }
    say(&format!("ostack: installer of the site {}", orders.site));
    let mut pause = PAUSES[0];
    loop {
        settle(modules);
        let mut attempt = Attempt { orders: &orders, kind, command_line, teller: Teller::default() };
        let Err(error) = attempt.install() else { continue };
        say(&format!("ostack: not installed: {error}"));
        attempt.teller.set(|progress| {
            progress.stage = Stage::Failed;
            progress.error = Some(error.to_string());
        });
        attempt.teller.tell();
        say(&format!("ostack: again in {} s", pause.as_secs()));
        std::thread::sleep(pause);
        pause = (pause * 2).min(PAUSES[1]);
    }
}

/// Loads the drivers of everything there is, until a disk and a card have shown up or no more is to be expected.
fn settle(modules: &mut Modules) {
    let begin = Instant::now();
    loop {
        for error in modules.load_for_devices() {
            say(&format!("ostack: {error}"));
        }
        let hardware = Hardware::read(Path::new(who::NET), Path::new(who::DMI));
        let there = !hardware.cards.is_empty() && !pick::all(Path::new(pick::SYS)).is_empty();
        // Several of a kind come one after the other.
        if there && begin.elapsed() > Duration::from_secs(2) || begin.elapsed() > DEVICES {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// One attempt to install.
struct Attempt<'a> {
    orders: &'a Orders,
    kind: Kind,
    command_line: &'a str,
    teller: Teller,
}

impl Attempt<'_> {
    fn install(&mut self) -> Result<()> {
        let hardware = Hardware::read(Path::new(who::NET), Path::new(who::DMI));
        if let Some((_, mac)) = hardware.cards.first() {
            self.teller.set(|progress| progress.node = mac.clone());
        }
        let word = |name: &str| argument(self.command_line, name);
        let found = who::find(&self.orders.machines, &hardware, word(NODE_ARGUMENT));
        let server = match (&self.orders.source, &found) {
            (Source::Medium, _) => None,
            (Source::Http { .. }, Ok(machine)) => {
                let setting = network::setting(machine, &hardware, word("ip"), word("BOOTIF"))?;
                setting.apply()?;
                say(&format!("ostack: {} ({}), {}", machine.node, machine.role, setting.shown()));
                self.teller.set(|progress| progress.node = machine.node.clone());
                Some(Server::new(&self.orders.source)?)
            }
            (Source::Http { .. }, Err(_)) => None,
        };
        let machine = found?;
        if let Some(server) = server {
            self.teller.server = Some(server);
        }
        let medium = Medium(Path::new(RUN).join("medium"));
        let own = if self.teller.server.is_none() { Some(mount_medium(&medium.0)?) } else { None };
        self.teller.tell();
        let blobs: &dyn Blobs = match &self.teller.server {
            Some(server) => server,
            None => &medium,
        };
        let armed = self.armed(&machine.node)?;

        let described = self.orders.roles.get(&machine.role).ok_or_else(|| {
            Error::new(format!("{} is a {}, and there is no image of that role here", machine.node, machine.role))
                .next("make the tree with every role: ostack-image netboot")
        })?;
        let description: Description =
            serde_json::from_slice(&source::small(blobs, described)?).doing(|| "reading the image's description")?;
        // A stick that this installer came on is no disk to install to.
        let mut disks = pick::all(Path::new(pick::SYS));
        disks.retain(|disk| own.as_ref().is_none_or(|own| !own.name.starts_with(&disk.name)));
        let disk = pick::pick(&disks, machine.disk.as_ref())?;
        say(&format!("ostack: {}, image {}", disk, description.image));
        let target = Target::open(&Path::new("/dev").join(&disk.name), disk.bytes)?;
        if self.kind == Kind::Missing && target.has(&description) {
            say("ostack: the image is on the disk already");
            return start(blobs, &description);
        }
        let tables = target.tables(&description, armed.wipe_state)?;
        let at_hand = if self.kind == Kind::Missing { seed_at_hand(&machine.node, &disk.name) } else { None };

        // From here on the disk changes.
        let claim = target.claim().map_or_else(draw, Ok)?;
        target.close(&tables, &claim)?;
        say(if tables.keeps_state { "ostack: the state stays" } else { "ostack: there is no state to keep" });
        self.teller.set(|progress| {
            progress.stage = Stage::Writing;
            progress.image = Some(description.image);
            progress.total = description.bytes();
        });
        let begin = Instant::now();
        self.teller.while_telling(|| write::image(blobs, &description, target.file(), &|done| self.teller.reached(done)))?;
        let (mib, seconds) = (description.bytes() as f64 / f64::from(1 << 20), begin.elapsed().as_secs_f64());
        say(&format!("ostack: {mib:.0} MiB written in {seconds:.1} s"));

        self.teller.set(|progress| progress.stage = Stage::Seed);
        self.teller.tell();
        let seed = match (&self.teller.server, self.kind) {
            (Some(server), Kind::Armed) => Some(server.seed(&machine.node, &claim)?),
            _ => at_hand,
        };
        match seed {
            Some(seed) => target.seed(&description, &seed)?,
            None => say("ostack: no seed is at hand; the node will wait for one when it starts"),
        }
        target.finish(&description, &tables)?;
        self.teller.set(|progress| progress.stage = Stage::Done);
        self.teller.tell();
        if let (Some(server), Kind::Armed) = (&self.teller.server, self.kind) {
            server.done(&machine.node, &claim)?;
        }
        target.forget_claim()?;
        say(&format!("ostack: {} is installed", machine.node));
        start(blobs, &description)
    }

    fn armed(&self, node: &str) -> Result<Armed> {
        let (Kind::Armed, Some(server)) = (self.kind, &self.teller.server) else { return Ok(Armed { wipe_state: false }) };
        server.armed(node)?.ok_or_else(|| {
            Error::new(format!("the server does not expect {node}")).next(format!("run there: ostack-image arm {node}"))
        })
    }
}

/// Starts the image: at once by this kernel, else by the machine's firmware.
fn start(blobs: &dyn Blobs, description: &Description) -> Result<()> {
    let load = || {
        let (kernel, initrd) = (source::small(blobs, &description.kernel)?, source::small(blobs, &description.initrd)?);
        kexec::load(&kernel, &initrd, &description.command_line)
    };
    match load().and_then(|()| kexec::start()) {
        Ok(()) => Ok(()),
        Err(error) => {
            say(&format!("ostack: {error}; the firmware starts the disk"));
            rustix::fs::sync();
            rustix::system::reboot(rustix::system::RebootCommand::Restart).doing(|| "restarting the machine")
        }
    }
}

/// A claim: what the server gives a seed to, and nothing that could be guessed.
fn draw() -> Result<String> {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).doing(|| "drawing a claim")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Mounts the medium that this installer came from, if it is not mounted yet; gives its device.
fn mount_medium(at: &Path) -> Result<Device> {
    let is_medium = |device: &&Device| device.filesystem().is_ok_and(|fs| fs == disks::Filesystem::Iso(MEDIUM_VOLUME.into()));
    let device = disks::all().iter().find(is_medium).cloned().ok_or_else(|| {
        Error::new(format!("the medium with the volume label {MEDIUM_VOLUME} is not there"))
            .next("leave it attached, or plug it in again")
    })?;
    if !at.join("blobs").is_dir() {
        mount_at(&device.path(), at, "iso9660", MountFlags::RDONLY, "")?;
    }
    Ok(device)
}

/// The bytes of the node's seed, where a volume has it: an attached one before the one that the disk had.
fn seed_at_hand(node: &str, disk: &str) -> Option<Vec<u8>> {
    let read = |device: &Device| -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = fs::open(&device.path())?;
        file.take(SEED_ROOM).read_to_end(&mut bytes).doing(|| format!("reading {}", device.name))?;
        Ok(bytes)
    };
    let mut seeds: Vec<Device> = disks::all().into_iter().filter(disks::is_seed).collect();
    seeds.sort_by_key(|device| device.name.starts_with(disk) && device.partition.as_deref() == Some(SEED_PARTITION));
    for device in seeds {
        match super::seed::look(&device).and_then(|Seed { node: of, .. }| Ok((of, read(&device)?))) {
            Ok((of, bytes)) if of == node => return Some(bytes),
            Ok((of, _)) => say(&format!("ostack: the seed on {} is {of}'s", device.name)),
            Err(error) => say(&format!("ostack: {error}")),
        }
    }
    None
}

/// Says on the consoles and to the server how far it is.
struct Teller {
    server: Option<Server>,
    progress: Mutex<Progress>,
    said: Mutex<Instant>,
}

impl Default for Teller {
    fn default() -> Self {
        let node = String::new();
        let progress = Progress { node, stage: Stage::Looking, image: None, done: 0, total: 0, error: None };
        Self { server: None, progress: Mutex::new(progress), said: Mutex::new(Instant::now()) }
    }
}

impl Teller {
    fn set(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.progress.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }

    fn now(&self) -> Progress {
        self.progress.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Tells the server, if there is one that can be reached.
    fn tell(&self) {
        if let Some(server) = &self.server {
            server.tell(&self.now());
        }
    }

    /// So many bytes are on the disk.
    fn reached(&self, done: u64) {
        self.set(|progress| progress.done = done);
        let mut said = self.said.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if said.elapsed() >= SAY {
            *said = Instant::now();
            let now = self.now();
            say(&format!("ostack: {} of {} MiB, {} %", now.done >> 20, now.total >> 20, now.done * 100 / now.total.max(1)));
        }
    }

    /// Does some work, and tells the server every second meanwhile; the work never waits for the server.
    fn while_telling<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let teller = scope.spawn(|| {
                while !over.load(Relaxed) {
                    self.tell();
                    std::thread::park_timeout(TELL);
                }
            });
            let result = work();
            over.store(true, Relaxed);
            teller.thread().unpark();
            result
        })
    }
}
