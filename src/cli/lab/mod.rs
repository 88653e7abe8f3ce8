//! `ostack-image lab`: the site on this machine, each node a container over the very layers of its image, or a virtual machine
//! with its disk.

mod status;
mod up;

use super::session::{Session, store_folder};
use super::{Global, unlock};
use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use crate::cli::terminal::note;
use crate::lab::holder::{self, Holder};
use crate::lab::machine::{Disk, Folder};
use crate::lab::{group, inside, outside};
use crate::model::disk;
use crate::model::site::Node;
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use up::Start;

#[derive(Args)]
pub(super) struct Options {
    /// Folder of the lab; by default one beside the store
    #[arg(long, value_name = "DIR", global = true)]
    lab: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Start nodes, all of the site by default, and wait until they are up
    Up {
        /// Nodes to start
        nodes: Vec<String>,
        /// Give a node another disk: storage01:/dev/vdb:10G
        #[arg(long = "disk", value_name = "NODE:PATH:SIZE")]
        disks: Vec<Extra>,
        /// What nodes that are new in this lab become [default: nspawn]
        #[arg(long, value_name = "BACKEND")]
        backend: Option<Place>,
        /// Memory of a node that is a virtual machine, in MiB [default: 6144]
        #[arg(long, value_name = "MIB")]
        memory: Option<u32>,
        /// How many seconds a node may take
        #[arg(long, value_name = "SECONDS", default_value_t = 300)]
        timeout: u64,
        #[command(flatten)]
        secrets: unlock::From,
    },
    /// Show every node: whether it runs, how its systemd is, how far its steps are
    Status,
    /// Run a command in a node; a virtual machine takes input whole, and gives output at the end
    Exec {
        /// Node to run it in
        node: String,
        /// Command and its arguments
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Run a command of this machine in a node's network: a browser, a client
    Via {
        /// Node whose network it gets
        node: String,
        /// Command and its arguments
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Cut the power of nodes: every process of theirs is gone at once
    Kill {
        /// Nodes to stop
        #[arg(required = true)]
        nodes: Vec<String>,
    },
    /// Start nodes again, as they were
    Start {
        /// Nodes to start
        #[arg(required = true)]
        nodes: Vec<String>,
        /// How many seconds a node may take
        #[arg(long, value_name = "SECONDS", default_value_t = 300)]
        timeout: u64,
    },
    /// Unplug the network cables of nodes
    Cut {
        /// Nodes to cut off
        #[arg(required = true)]
        nodes: Vec<String>,
    },
    /// Plug the network cables of nodes in again
    Heal {
        /// Nodes to connect
        #[arg(required = true)]
        nodes: Vec<String>,
    },
    /// Put the present image and a new seed under a node
    Reimage {
        /// Node to reimage
        node: String,
        /// Remove what the node kept, too
        #[arg(long)]
        wipe_state: bool,
        /// How many seconds the node may take
        #[arg(long, value_name = "SECONDS", default_value_t = 300)]
        timeout: u64,
        #[command(flatten)]
        secrets: unlock::From,
    },
    /// End the lab; nodes keep their state for the next one
    Down {
        /// Remove the folder of the lab as well
        #[arg(long)]
        wipe: bool,
    },
}

/// A disk of a node, as the command line says it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Extra {
    node: String,
    disk: Disk,
}

impl std::str::FromStr for Extra {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let parts: Vec<&str> = text.split(':').collect();
        // Names by the path of a PCI device have colons.
        let (Some(node), Some(size)) = (parts.first(), parts.last()) else { return Err("it is empty".to_string()) };
        let path = parts[1..parts.len().max(2) - 1].join(":");
        if !path.starts_with("/dev/") || path.split('/').any(|part| part == "..") {
            return Err("write NODE:PATH:SIZE with a PATH below /dev".to_string());
        }
        let bytes = disk::bytes(size).map_err(|error| error.to_string())?;
        Ok(Self { node: (*node).to_string(), disk: Disk { path: path.into(), bytes } })
    }
}

/// What a node is on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Place {
    /// A container: it shares this machine's kernel
    Nspawn,
    /// A virtual machine: it has its own kernel and boots its disk
    Qemu,
}

impl Place {
    fn words(self) -> &'static str {
        match self {
            Self::Nspawn => "container",
            Self::Qemu => "virtual machine",
        }
    }
}

pub(super) fn run(global: &Global, options: &Options) -> Result<()> {
    let session = Session::open(global)?;
    let folder = match &options.lab {
        Some(folder) => folder.clone(),
        None => store_folder(global.store.as_deref())?.with_file_name("lab").join(session.site.name.as_str()),
    };
    let folder = Folder::new(&folder)?;
    match &options.verb {
        Verb::Up { nodes, disks, backend, memory, timeout, secrets } => {
            session.warn();
            let named = !nodes.is_empty();
            let nodes: Vec<&Node> = match nodes.is_empty() {
                true => session.site.nodes.iter().collect(),
                false => nodes.iter().map(|name| session.site.node(name)).collect::<Result<_>>()?,
            };
            for extra in disks {
                session.site.node(&extra.node)?;
            }
            let start = Start {
                session: &session,
                folder: &folder,
                disks,
                place: *backend,
                named,
                memory: *memory,
                anew: false,
                secrets,
                patience: Duration::from_secs(*timeout),
            };
            start.up(&nodes)?;
            status::show(global, &folder)
        }
        Verb::Status => status::show(global, &folder),
        Verb::Exec { node, command } => ends(outside::exec(&folder, running(&folder)?, node, command)?),
        Verb::Via { node, command } => {
            let (program, args) = command.split_first().ok_or_else(|| Error::new("there is no command"))?;
            ends(outside::in_network(&folder, running(&folder)?, node, program)?.args(args).run_visible()?)
        }
        Verb::Kill { nodes } => each(&folder, nodes, "stop"),
        Verb::Start { nodes, timeout } => {
            let holder = Holder::ensure(&folder)?;
            for node in nodes {
                if outside::leader(holder, node).is_none() {
                    outside::action(holder, folder.path(), "start", node)?;
                }
            }
            up::wait(&folder, holder, nodes, Duration::from_secs(*timeout))
        }
        Verb::Cut { nodes } => each(&folder, nodes, "cut"),
        Verb::Heal { nodes } => each(&folder, nodes, "heal"),
        Verb::Reimage { node, wipe_state, timeout, secrets } => {
            let node = session.site.node(node)?;
            let name = node.name.to_string();
            if Holder::find(&folder)?.is_some() && folder.nodes()?.contains(&name) {
                each(&folder, std::slice::from_ref(&name), "stop")?;
            }
            if *wipe_state {
                fs::remove_tree(&folder.state(&name))?;
                let disk = folder.system(&name);
                if disk.exists() {
                    std::fs::remove_file(&disk).doing(|| format!("removing {}", disk.display()))?;
                }
            }
            let patience = Duration::from_secs(*timeout);
            let (disks, place, named, memory) = (&[][..], None, true, None);
            Start { session: &session, folder: &folder, disks, place, named, memory, anew: true, secrets, patience }.up(&[node])
        }
        Verb::Down { wipe } => down(&folder, *wipe),
    }
}

/// Ends this program as a command in a node has ended.
fn ends(code: i32) -> Result<()> {
    if code == 0 {
        return Ok(());
    }
    std::process::exit(code)
}

fn each(folder: &Folder, nodes: &[String], action: &str) -> Result<()> {
    let holder = running(folder)?;
    nodes.iter().try_for_each(|node| outside::action(holder, folder.path(), action, node))
}

fn running(folder: &Folder) -> Result<Holder> {
    Holder::find(folder)?
        .ok_or_else(|| Error::new(format!("no lab runs in {}", folder.path().display())).next("start it: ostack-image lab up"))
}

fn down(folder: &Folder, wipe: bool) -> Result<()> {
    if let Some(holder) = Holder::find(folder)? {
        holder.end()?;
    }
    group::end(&group::of(folder.path(), None)?)?;
    if folder.holder().exists() {
        std::fs::remove_file(folder.holder()).doing(|| "forgetting the lab")?;
    }
    if wipe {
        fs::remove_tree(folder.path())?;
    }
    Ok(())
}

/// The hidden verb, in the lab's namespaces or on the way to them.
pub(super) fn hidden(args: &[std::ffi::OsString]) -> ExitCode {
    let words: Vec<String> = args.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let result = match &words[..] {
        [action, folder] if action == "hold" => Folder::new(folder.as_ref()).and_then(|folder| holder::hold(&folder)),
        [action, folder, node] => Folder::new(folder.as_ref()).and_then(|folder| inside::run(action, &folder, node)),
        _ => Err(Error::new("the lab's own verb takes an action, a folder and a node")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            note!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
