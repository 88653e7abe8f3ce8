//! Carries out a role's checks: each in a root of its own, made of the image's packages and of the files that it sees.
//!
//! ```text
//! tmpfs, this process's own                            a check's root, an overlayfs
//! ├── packages, system     the image's layers          ┌ N/upper      what the program writes
//! ├── agent                the node's program          │ N/node       the first node's files, secrets filled in
//! └── N/ …                 one folder per check        │ N/0 … N/n    overlays' files, secrets filled in
//!                                                      └ agent, packages, system
//! ```
//!
//! What must hold: the program has no network, no secret of the site, and no file that its key does not name (of the node's
//! program it sees the path; what is in it is no checker's business). A check that passed is a record of the store, its
//! warnings in it; one that failed is none, and runs again.

use super::step::Watch;
use super::verdict::Verdict;
use crate::base::digest::Digest;
use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use crate::base::parallel;
use crate::base::path::RelPath;
use crate::layer::mounted::Mounted;
use crate::layer::owner;
use crate::layer::sandbox::Sandbox;
use crate::layer::tree::{Entry, Kind, Tree};
use crate::model::placeholder::{self, Values};
use crate::plan::RolePlan;
use crate::plan::checks::{CheckLayer, CheckStep};
use crate::plan::files::FileKind;
use crate::plan::secrets::Secrets;
use crate::secrets;
use crate::store::{Record, Store, WriteLock};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The record's name for a check's warnings, a JSON list.
const WARNINGS: &str = "warnings";

/// A check that has been judged, now or before.
#[derive(Debug, Clone)]
pub struct Judged {
    /// Its place in [`RolePlan::checks`].
    pub index: usize,
    /// What became of it.
    pub verdict: Verdict,
    /// How long its program ran, in seconds; `None` where the store had the result.
    pub seconds: Option<f64>,
}

/// Runs the checks of a role that the store has no result of.
pub struct Checker<'a> {
    /// Where results go.
    pub store: &'a Store,
    /// Proof that nobody else writes.
    pub lock: &'a WriteLock,
    /// What is checked.
    pub plan: &'a RolePlan,
    /// The image's layers of packages, the lowest first: name and digest.
    pub layers: Vec<(&'a str, Digest)>,
    /// The program that an image has for the node.
    pub node_program: &'a Path,
    /// The secrets that overlays declare: dummies stand for them.
    pub secrets: &'a Secrets,
    /// Who hears of it.
    pub watch: &'a dyn Watch,
}

impl Checker<'_> {
    /// All checks of the role, in the plan's order. Those that run do so side by side, one on each core.
    ///
    /// # Errors
    /// A root cannot be made, a program or an account is not in it. A check that fails is no error here.
    pub fn run(&self) -> Result<Vec<Judged>> {
        let mut judged: Vec<Judged> = Vec::new();
        let mut missing = Vec::new();
        for (index, check) in self.plan.checks.iter().enumerate() {
            match self.store.step(&check.key.digest()) {
                Some(record) => {
                    self.watch.cached(&check.key.step);
                    judged.push(Judged { index, verdict: remembered(&record), seconds: None });
                }
                None => missing.push(index),
            }
        }
        if missing.is_empty() {
            return Ok(judged);
        }
        let mut roots = Mounted::new(&self.store.scratch().join(format!("checks-{}", self.plan.role)))?;
        let mut lower = Vec::new();
        for (name, layer) in &self.layers {
            lower.insert(0, roots.layer(name, &self.store.path(layer))?);
        }
        lower.insert(0, self.agent(roots.folder())?);
        let references = missing.iter().flat_map(|index| self.plan.checks[*index].references()).collect();
        let dummies = secrets::dummy(self.secrets, &references)?;
        judged.extend(parallel::each(&missing, parallel::cores(), "running checks", |index| {
            self.one(*index, roots.folder(), &lower, &dummies)
        })?);
        judged.sort_by_key(|one| one.index);
        Ok(judged)
    }

    fn one(&self, index: usize, folder: &Path, lower: &[PathBuf], dummies: &Values) -> Result<Judged> {
        let check = &self.plan.checks[index];
        let what = || format!("running the check {}", check.full_name());
        let at = |error: Error| error.at(&check.file, check.line);
        self.watch.begins(&check.key.step);
        let own = folder.join(index.to_string());
        let begin = Instant::now();
        let ended = self.sandbox(check, &own, lower, dummies)?.run_to_any_end(&check.run.command).doing(what).map_err(at)?;
        let seconds = begin.elapsed().as_secs_f64();
        fs::remove_tree(&own)?;
        let verdict = Verdict::of(&check.run, ended.code, &ended.output)?;
        if verdict.failure.is_none() {
            let mut record = Record { step: check.key.step.clone(), inputs: check.key.shown(), ..Record::default() };
            let warnings = serde_json::to_string(&verdict.warnings).doing(what)?;
            record.facts.insert(WARNINGS.to_string(), warnings);
            self.store.put_step(&check.key.digest(), &record)?;
        }
        self.watch.done(&check.key.step, seconds);
        Ok(Judged { index, verdict, seconds: Some(seconds) })
    }

    /// A root of the check's own, below `own`.
    fn sandbox(&self, check: &CheckStep, own: &Path, lower: &[PathBuf], dummies: &Values) -> Result<Sandbox> {
        fs::create_dir_all(own)?;
        let mut stack = lower.to_vec();
        for (number, layer) in check.layers.iter().enumerate() {
            let folder = own.join(number.to_string());
            self.tree(layer, dummies)?.write_to(&folder).doing(|| format!("writing the files of {}", layer.overlay))?;
            stack.insert(0, folder);
        }
        let (upper, work, root) = (own.join("upper"), own.join("work"), own.join("root"));
        self.state(check, &stack).write_to(&upper)?;
        fs::create_dir_all(&work)?;
        fs::create_dir_all(&root)?;
        let sandbox = Sandbox::new(&root).stack(stack, &upper, &work).hostname(&check.run.host).user(&check.run.user);
        Ok(sandbox.loopback().timeout(check.run.timeout))
    }

    /// The overlay's state directories that no layer has: the node makes them as declared. The directories above them keep
    /// what the layers say of them.
    fn state(&self, check: &CheckStep, stack: &[PathBuf]) -> Tree {
        let mut tree = Tree::new(self.plan.epoch);
        let there = |path: &RelPath| {
            stack.iter().find_map(|folder| {
                let file = path.under(folder);
                let meta = std::fs::symlink_metadata(&file).ok()?;
                Some((file, meta))
            })
        };
        let directory = |mode: u32| Entry::new(Kind::Directory { opaque: false }, mode & 0o7777, self.plan.epoch);
        for one in check.state.iter().filter(|one| there(&one.path).is_none()) {
            let mut above = one.path.parent();
            while let Some(path) = above.filter(|path| !path.is_root()) {
                if let Some((file, meta)) = there(&path) {
                    let (uid, gid) = owner::of(&file, &meta);
                    tree.insert(path.clone(), directory(meta.mode()).owned_by(uid, gid));
                }
                above = path.parent();
            }
            tree.insert(one.path.clone(), directory(one.mode).owned_by(one.uid, one.gid));
        }
        tree
    }

    /// A layer's tree with dummies in the secrets' places.
    fn tree(&self, layer: &CheckLayer, dummies: &Values) -> Result<Tree> {
        let mut files = layer.files.clone();
        for (path, file) in &mut files {
            if let FileKind::Regular(bytes) = &mut file.kind {
                *bytes = placeholder::fill(bytes, dummies).doing(|| format!("filling secrets into {path}"))?;
            }
        }
        Ok(Tree::of_files(&files, self.plan.epoch))
    }

    fn agent(&self, folder: &Path) -> Result<PathBuf> {
        let folder = folder.join("agent");
        super::build::agent(self.node_program, self.plan.epoch)?.write_to(&folder)?;
        Ok(folder)
    }
}

/// What the store remembers of a check.
fn remembered(record: &Record) -> Verdict {
    let warnings = record.facts.get(WARNINGS).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    Verdict { warnings, failure: None }
}
