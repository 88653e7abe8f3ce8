//! `ostack-image lab`: the site on this machine, each node a container over the very layers of its image.

use super::session::{Session, store_folder};
use super::{Global, print_json, unlock};
use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use crate::base::tool::Tool;
use crate::image::manifest;
use crate::lab::holder::{self, Holder};
use crate::lab::machine::{Disk, Folder, Interface, Machine};
use crate::lab::{group, inside, outside};
use crate::model::disk;
use crate::model::site::{self, Kind, Node};
use crate::secrets::{Held, draw};
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::Value;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

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
        /// How many seconds a node may take
        #[arg(long, value_name = "SECONDS", default_value_t = 300)]
        timeout: u64,
        #[command(flatten)]
        secrets: unlock::From,
    },
    /// Show every node: whether it runs, how its systemd is, how far its steps are
    Status,
    /// Run a command in a node
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

pub(super) fn run(global: &Global, options: &Options) -> Result<()> {
    let session = Session::open(global)?;
    let folder = match &options.lab {
        Some(folder) => folder.clone(),
        None => store_folder(global.store.as_deref())?.with_file_name("lab").join(session.site.name.as_str()),
    };
    let folder = Folder::new(&folder)?;
    match &options.verb {
        Verb::Up { nodes, disks, timeout, secrets } => {
            session.warn();
            let nodes: Vec<&Node> = match nodes.is_empty() {
                true => session.site.nodes.iter().collect(),
                false => nodes.iter().map(|name| session.site.node(name)).collect::<Result<_>>()?,
            };
            for extra in disks {
                session.site.node(&extra.node)?;
            }
            up(&session, &folder, &nodes, disks, secrets, Duration::from_secs(*timeout))?;
            status(global, &folder)
        }
        Verb::Status => status(global, &folder),
        Verb::Exec { node, command } => exec(&folder, node, command, outside::program),
        Verb::Via { node, command } => exec(&folder, node, command, outside::in_network),
        Verb::Kill { nodes } => each(&folder, nodes, "stop"),
        Verb::Start { nodes, timeout } => {
            let holder = Holder::ensure(&folder)?;
            for node in nodes {
                if outside::leader(holder, node).is_none() {
                    outside::action(holder, folder.path(), "start", node)?;
                }
            }
            wait(&folder, holder, nodes, Duration::from_secs(*timeout))
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
            }
            up(&session, &folder, &[node], &[], secrets, Duration::from_secs(*timeout))
        }
        Verb::Down { wipe } => down(&folder, *wipe),
    }
}

fn up(
    session: &Session,
    folder: &Folder,
    nodes: &[&Node],
    disks: &[Extra],
    secrets: &unlock::From,
    patience: Duration,
) -> Result<()> {
    let lock = session.release_lock()?;
    let held = held(session, folder, secrets)?;
    let machines = nodes.iter().map(|node| machine(session, folder, node, disks)).collect::<Result<Vec<_>>>()?;
    let holder = Holder::ensure(folder)?;
    for (node, machine) in nodes.iter().zip(&machines) {
        let name = node.name.as_str();
        if outside::leader(holder, name).is_some() {
            continue;
        }
        super::seed::write_to(session, &lock, node, Some(&folder.seed(name)), Some(&held))?;
        folder.write(machine)?;
        eprintln!("  starting {name} …");
        outside::action(holder, folder.path(), "start", name)?;
    }
    let names: Vec<String> = nodes.iter().map(|node| node.name.to_string()).collect();
    wait(folder, holder, &names, patience)
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
        eprintln!("  there are no secrets of this site: drawing some for this lab");
        let mut new = fs::temporary_beside(&file)?;
        serde_json::to_writer(&mut new, &held).doing(|| "writing the lab's secrets")?;
        fs::persist(new, &file, 0o600)?;
    }
    Ok(held)
}

/// What a node is: its role's image, its cables, and its disks; those of an earlier start stay.
fn machine(session: &Session, folder: &Folder, node: &Node, extras: &[Extra]) -> Result<Machine> {
    let store = session.store()?;
    let mut disks = folder.read(node.name.as_str()).map(|machine| machine.disks).unwrap_or_default();
    for extra in extras.iter().filter(|extra| extra.node == node.name.as_str()) {
        if !disks.iter().any(|disk| disk.path == extra.disk.path) {
            disks.push(extra.disk.clone());
        }
    }
    let image = manifest::read(&store, node.role.as_str())?;
    let layers = image.layers.iter().map(|layer| {
        let path = store.path(&layer.blob.digest);
        std::path::absolute(&path).doing(|| format!("finding {}", path.display()))
    });
    Ok(Machine {
        node: node.name.clone(),
        role: image.role.clone(),
        image: image.manifest.digest,
        release: image.release.clone(),
        layers: layers.collect::<Result<_>>()?,
        state: image.state.clone(),
        place: session.site.nodes.iter().position(|one| one.name == node.name).unwrap_or_default(),
        interfaces: interfaces(node),
        disks,
    })
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
fn wait(folder: &Folder, holder: Holder, nodes: &[String], patience: Duration) -> Result<()> {
    let begin = Instant::now();
    for node in nodes {
        let report = format!("ostack: {node} is up");
        while !String::from_utf8_lossy(&std::fs::read(folder.console(node)).unwrap_or_default()).contains(&report) {
            let state = system(holder, node);
            if begin.elapsed() > patience {
                return Err(Error::new(format!("{node} is not up after {} s: {state}", patience.as_secs()))
                    .next(format!("read {}, or: ostack-image lab exec {node} -- journalctl", folder.console(node).display())));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    Ok(())
}

/// systemd's word for a node: `running`, `degraded` …; `off` where there is none.
fn system(holder: Holder, node: &str) -> String {
    let Ok(tool) = outside::program(holder, node, "systemctl") else { return "off".to_string() };
    let output = tool.args(["show", "--property=SystemState", "--value"]).run();
    output.map_or_else(|_| "starting".to_string(), |output| output.text().trim().to_string())
}

/// One node, for people and programs.
#[derive(Serialize)]
struct Shown {
    node: String,
    role: String,
    image: String,
    system: String,
    failed: Vec<String>,
    steps: Value,
}

fn status(global: &Global, folder: &Folder) -> Result<()> {
    let holder = Holder::find(folder)?;
    let mut shown = Vec::new();
    for node in folder.nodes()? {
        let machine = folder.read(&node)?;
        let ask = |program: &str, args: &[&str]| {
            let output = outside::program(holder?, &node, program).ok()?.args(args).run().ok()?;
            Some(output.text())
        };
        let failed = ask("systemctl", &["list-units", "--failed", "--plain", "--no-legend"]).unwrap_or_default();
        let steps = ask("/usr/lib/ostack/ostack-node", &["status", "--json"]).unwrap_or_default();
        shown.push(Shown {
            role: machine.role,
            image: machine.image.to_string(),
            system: holder.map_or_else(|| "off".to_string(), |holder| system(holder, &node)),
            failed: failed.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_string).collect(),
            steps: serde_json::from_str(&steps).unwrap_or(Value::Null),
            node,
        });
    }
    if global.json {
        return print_json(&shown);
    }
    for one in &shown {
        println!("{}", line(one));
    }
    Ok(())
}

/// A node in one line: `controller01  controller  running  12 of 20 steps done; keystone/start waits for the database`.
fn line(one: &Shown) -> String {
    let mut line = format!("{:14} {:10} {}", one.node, one.role, one.system);
    if !one.failed.is_empty() {
        line.push_str(&format!("  failed: {}", one.failed.join(", ")));
    }
    if let Value::Object(steps) = &one.steps {
        let state = |step: &Value| step["state"].as_str().unwrap_or_default().to_string();
        let done = steps.values().filter(|step| state(step) == "done").count();
        line.push_str(&format!("  {done} of {} steps done", steps.len()));
        if let Some((name, step)) = steps.iter().find(|(_, step)| state(step) != "done") {
            let words = step["words"].as_str().unwrap_or_default().lines().next().unwrap_or_default().to_string();
            line.push_str(&format!("; {name} {} {words}", state(step)));
        }
    }
    line.trim_end().to_string()
}

fn exec(folder: &Folder, node: &str, command: &[String], way: fn(Holder, &str, &str) -> Result<Tool>) -> Result<()> {
    let holder = running(folder)?;
    let (program, args) = command.split_first().ok_or_else(|| Error::new("there is no command"))?;
    match way(holder, node, program)?.args(args).run_visible()? {
        0 => Ok(()),
        code => std::process::exit(code),
    }
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
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
