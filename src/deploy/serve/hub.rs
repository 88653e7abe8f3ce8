//! What the server knows: who is expected, what each machine does, and what it may be given.

use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use crate::deploy::arming::{Arming, Entry};
use crate::deploy::netboot::SCRIPTS;
use crate::model::install::{Armed, Progress, Stage};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Where the bundle for Anaconda is given out.
pub const BUNDLE: &str = "/kickstart";

/// How many lines of the journal the page shows.
const LINES: usize = 50;
/// A speed is that of about so long.
const WINDOW: Duration = Duration::from_secs(3);

/// Makes a node's seed, or one part of it.
pub type Seeds = Box<dyn Fn(&str, Part) -> Result<Vec<u8>> + Send + Sync>;

/// How much of a seed a machine needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The volume that makes an image a node.
    All,
    /// The values of its secrets, as JSON: a node that another installer makes has the rest already.
    Secrets,
}

/// A node as the page shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Known {
    /// Its name.
    pub name: String,
    /// Its role.
    pub role: String,
    /// How it is recognised.
    pub mac: Option<String>,
}

/// The server's knowledge.
pub struct Hub {
    /// The site's name.
    pub site: String,
    /// The site's nodes.
    pub nodes: Vec<Known>,
    /// The tree that is given out.
    pub tree: PathBuf,
    /// The bundle for Anaconda, given out below [`BUNDLE`], if there is one.
    pub bundle: PathBuf,
    /// Who is expected.
    pub arming: Arming,
    /// Makes seeds; none where no secrets are at hand.
    pub seeds: Option<Seeds>,
    machines: Mutex<BTreeMap<String, Machine>>,
    /// Held while a claim is looked at and written.
    claims: Mutex<()>,
}

/// What a machine said last.
struct Machine {
    progress: Progress,
    seen: u64,
    /// Bytes and time from which its speed is counted.
    mark: (u64, Instant),
    speed: f64,
}

/// How the asking for a seed ended.
pub enum Given {
    /// The seed.
    Seed(Vec<u8>),
    /// The node is not expected.
    Unexpected,
    /// Another machine has it.
    Taken,
}

impl Hub {
    /// What a server knows at its start.
    pub fn new(site: String, nodes: Vec<Known>, tree: PathBuf, bundle: PathBuf, arming: Arming, seeds: Option<Seeds>) -> Self {
        Self { site, nodes, tree, bundle, arming, seeds, machines: Mutex::default(), claims: Mutex::default() }
    }

    fn machines(&self) -> MutexGuard<'_, BTreeMap<String, Machine>> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the site has such a node.
    pub fn knows(&self, node: &str) -> bool {
        self.nodes.iter().any(|known| known.name == node)
    }

    /// A machine says how far it is. What is new of it goes into the journal.
    ///
    /// # Errors
    /// It is no node of the site, or the journal cannot be written.
    pub fn heard(&self, progress: Progress, now: u64) -> Result<()> {
        if !self.knows(&progress.node) {
            return Err(Error::new(format!("the site has no node `{}`", progress.node)));
        }
        let at = Instant::now();
        let (what, words) = (word(progress.stage), words(&progress));
        let name = progress.node.clone();
        let mut machines = self.machines();
        let before = machines.remove(&name);
        let is_new = before
            .as_ref()
            .is_none_or(|before| (before.progress.stage, &before.progress.error) != (progress.stage, &progress.error));
        let (mut mark, mut speed) = before.map_or(((progress.done, at), 0.0), |before| (before.mark, before.speed));
        if progress.stage != Stage::Writing || progress.done < mark.0 {
            (mark, speed) = ((progress.done, at), 0.0);
        } else if at.duration_since(mark.1) >= WINDOW {
            speed = (progress.done - mark.0) as f64 / at.duration_since(mark.1).as_secs_f64();
            mark = (progress.done, at);
        }
        machines.insert(name.clone(), Machine { progress, seen: now, mark, speed });
        drop(machines);
        if is_new { self.arming.note(&name, what, &words) } else { Ok(()) }
    }

    /// What the server wants of a node; none while it does not expect it.
    ///
    /// # Errors
    /// What is known of it is damaged.
    pub fn armed(&self, node: &str) -> Result<Option<Armed>> {
        Ok(self.arming.get(node)?.map(|arm| Armed { wipe_state: arm.wipe_state }))
    }

    /// Gives a node's seed to a machine.
    ///
    /// # Errors
    /// It cannot be made, or the folder cannot be written.
    pub fn seed(&self, node: &str, part: Part, claim: &str) -> Result<Given> {
        let seeds = self.seeds.as_ref().ok_or_else(|| Error::new("this server has no secrets"))?;
        let _turn = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        if self.arming.get(node)?.is_none() {
            return Ok(Given::Unexpected);
        }
        // Made before it is claimed: a seed that cannot be made is nobody's.
        let seed = seeds(node, part)?;
        if !self.arming.claim(node, claim)? {
            self.arming.note(node, "refused", "a second machine asked for its seed")?;
            return Ok(Given::Taken);
        }
        self.arming.note(node, "seed", "given")?;
        Ok(Given::Seed(seed))
    }

    /// The machine with this claim is installed; whether it was expected.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn done(&self, node: &str, claim: &str) -> Result<bool> {
        let _turn = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        let arm = self.arming.get(node)?;
        if arm.is_none_or(|arm| arm.claim.as_deref() != Some(claim)) {
            return Ok(false);
        }
        self.arming.disarm(node, "installed")
    }

    /// Whose script a path of the tree is, if it is one.
    ///
    /// # Errors
    /// The tree's list is damaged.
    pub fn owner(&self, path: &str) -> Result<Option<String>> {
        let list = self.tree.join(SCRIPTS);
        let mut scripts: BTreeMap<String, String> =
            serde_json::from_slice(&fs::read(&list)?).doing(|| format!("reading {}", list.display()))?;
        Ok(scripts.remove(path))
    }

    /// Everything that the page shows.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn status(&self) -> Result<Status> {
        let journal = self.arming.journal()?;
        let machines = self.machines();
        let mut nodes = Vec::new();
        for known in &self.nodes {
            let machine = machines.get(&known.name);
            let last = journal.iter().rev().find(|entry| entry.node == known.name);
            nodes.push(NodeStatus {
                known: known.clone(),
                armed: self.arming.get(&known.name)?.is_some(),
                // A server that was restarted knows the rest from the journal.
                stage: machine.map(|machine| word(machine.progress.stage).to_string()).or(last.map(|entry| entry.what.clone())),
                image: machine.and_then(|machine| machine.progress.image.map(|image| image.to_string())),
                done: machine.map_or(0, |machine| machine.progress.done),
                total: machine.map_or(0, |machine| machine.progress.total),
                speed: machine.map_or(0, |machine| machine.speed as u64),
                error: machine.and_then(|machine| machine.progress.error.clone()),
                seen: machine.map(|machine| machine.seen).or(last.map(|entry| entry.time)),
            });
        }
        let journal = journal[journal.len().saturating_sub(LINES)..].to_vec();
        Ok(Status { site: self.site.clone(), nodes, journal })
    }
}

/// What the page shows.
#[derive(Debug, Serialize)]
pub struct Status {
    site: String,
    nodes: Vec<NodeStatus>,
    journal: Vec<Entry>,
}

#[derive(Debug, Serialize)]
struct NodeStatus {
    #[serde(flatten)]
    known: Known,
    armed: bool,
    stage: Option<String>,
    image: Option<String>,
    done: u64,
    total: u64,
    /// Bytes per second.
    speed: u64,
    error: Option<String>,
    seen: Option<u64>,
}

fn word(stage: Stage) -> &'static str {
    match stage {
        Stage::Looking => "looking",
        Stage::Writing => "writing",
        Stage::Seed => "seed",
        Stage::Done => "done",
        Stage::Failed => "failed",
    }
}

fn words(progress: &Progress) -> String {
    match (&progress.error, &progress.image) {
        (Some(error), _) => error.clone(),
        (None, Some(image)) => image.to_string(),
        (None, None) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::digest::Digest;

    fn hub() -> (tempfile::TempDir, Hub) {
        let folder = tempfile::tempdir().unwrap();
        let node = |name: &str| Known { name: name.into(), role: "controller".into(), mac: None };
        let seeds: Seeds = Box::new(|node, part| Ok(format!("{part:?} of the seed of {node}").into_bytes()));
        let arming = Arming::new(&folder.path().join("state"));
        let nodes = vec![node("controller01"), node("controller02")];
        let hub = Hub::new("guide".into(), nodes, folder.path().join("tree"), folder.path().join("bundle"), arming, Some(seeds));
        (folder, hub)
    }

    fn progress(stage: Stage, done: u64, error: Option<&str>) -> Progress {
        let image = (stage == Stage::Writing).then(|| Digest::of("image"));
        Progress { node: "controller01".into(), stage, image, done, total: 100, error: error.map(str::to_string) }
    }

    fn happened(hub: &Hub) -> Vec<String> {
        hub.arming.journal().unwrap().into_iter().map(|entry| format!("{} {}", entry.what, entry.words)).collect()
    }

    #[test]
    fn the_journal_has_what_is_new_and_not_every_second() {
        let (_folder, hub) = hub();
        for (stage, done, error) in [
            (Stage::Looking, 0, None),
            (Stage::Writing, 10, None),
            (Stage::Writing, 20, None),
            (Stage::Failed, 20, Some("no cable")),
            (Stage::Failed, 20, Some("no cable")),
            (Stage::Failed, 20, Some("no disk")),
        ] {
            hub.heard(progress(stage, done, error), 1).unwrap();
        }
        let image = Digest::of("image");
        assert_eq!(happened(&hub), ["looking ", &format!("writing {image}"), "failed no cable", "failed no disk"]);
        let stranger = Progress { node: "x".into(), ..progress(Stage::Looking, 0, None) };
        assert_eq!(hub.heard(stranger, 1).unwrap_err().to_string(), "the site has no node `x`");
    }

    #[test]
    fn a_seed_is_given_to_one_machine_until_the_node_is_armed_anew() {
        let (_folder, hub) = hub();
        let given = |claim: &str| match hub.seed("controller01", Part::All, claim).unwrap() {
            Given::Seed(bytes) => String::from_utf8(bytes).unwrap(),
            Given::Unexpected => "unexpected".into(),
            Given::Taken => "taken".into(),
        };
        assert_eq!(given("a"), "unexpected");
        hub.arming.arm("controller01", false).unwrap();
        assert_eq!(
            [given("a"), given("b"), given("a")],
            ["All of the seed of controller01", "taken", "All of the seed of controller01"]
        );
        assert!(!hub.done("controller01", "b").unwrap());
        assert!(hub.done("controller01", "a").unwrap());
        assert_eq!(given("a"), "unexpected");
        assert_eq!(
            happened(&hub),
            ["armed ", "seed given", "refused a second machine asked for its seed", "seed given", "disarmed installed"]
        );
    }

    #[test]
    fn a_server_that_was_restarted_shows_what_each_machine_did_last() {
        let (_folder, hub) = hub();
        hub.arming.arm("controller02", false).unwrap();
        hub.heard(progress(Stage::Done, 100, None), 7).unwrap();
        let again = Hub::new("guide".into(), hub.nodes.clone(), hub.tree.clone(), hub.bundle.clone(), hub.arming.clone(), None);
        let status = serde_json::to_value(again.status().unwrap()).unwrap();
        let stages: Vec<&str> = status["nodes"].as_array().unwrap().iter().map(|node| node["stage"].as_str().unwrap()).collect();
        assert_eq!(stages, ["done", "armed"]);
        assert_eq!(status["nodes"][1]["armed"], true);
    }
}
