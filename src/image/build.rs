//! Carries a role's plan out: every step that is not in the store yet, then the lint and the checks, then the manifest.
//!
//! ```text
//! tools ─> base ─┬─> packages ─> layer ─┐
//!                ├─> layer   (meanwhile) ├─> overlays ─> manifest
//!                └─> kernel, initrd ─────┘          (lint, checks)
//! ```

use super::check::{Checker, Judged};
use super::initrd::{self, Initrd};
use super::lint::Lint;
use super::manifest::{self, Image, Layer};
use super::step::{self, Runner, Watch, output};
use super::tools::tools;
use super::unpacked;
use crate::base::digest::Digest;
use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use crate::base::parallel::{self, cores};
use crate::base::turns::Turn;
use crate::layer::erofs;
use crate::layer::root::{Job, PackageFile};
use crate::layer::tar;
use crate::layer::times::Begin;
use crate::layer::tree::{Content, Entry, Kind, Tree};
use crate::model::release::{Backend, Compression, Release, User};
use crate::plan::secrets::Secrets;
use crate::plan::{Key, OverlayStep, Package, RolePlan};
use crate::store::{Blob, Record, Store, WriteLock};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The base layer's name in an image; `base` is an overlay's.
const SYSTEM: &str = "system";

/// What an image is made of, in the store.
pub struct Parts {
    layers: Vec<Layer>,
    kernel: Blob,
    initrd: Blob,
    /// Whether everything was in the store before.
    pub cached: bool,
}

impl Parts {
    /// The layers of packages, the lowest first: name and digest.
    fn of_packages(&self) -> Vec<(&str, Digest)> {
        let of_packages = self.layers.iter().filter(|layer| ["base", "packages"].contains(&layer.kind.as_str()));
        of_packages.map(|layer| (layer.name.as_str(), layer.blob.digest)).collect()
    }
}

/// The program that is `/init` in the initrd, and does a node's work after it.
#[derive(Debug)]
pub struct NodeProgram {
    /// Where it is.
    pub path: PathBuf,
    /// What it is.
    pub digest: Digest,
}

impl NodeProgram {
    /// The program in this file.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn of(path: PathBuf) -> Result<Self> {
        let (digest, _) = Digest::of_file(&path)?;
        Ok(Self { path, digest })
    }
}

/// Builds one role's image.
pub struct Builder<'a> {
    /// Where results go.
    pub store: &'a Store,
    /// Proof that nobody else writes.
    pub lock: &'a WriteLock,
    /// An empty folder for roots.
    pub scratch: &'a Path,
    /// What to build.
    pub plan: &'a RolePlan,
    /// The release it is planned for.
    pub release: &'a Release,
    /// The program that becomes `/init`.
    pub node_program: &'a NodeProgram,
    /// Who hears of it.
    pub watch: &'a dyn Watch,
}

impl Builder<'_> {
    /// The image's layers, kernel and initrd.
    ///
    /// # Errors
    /// A step fails. Steps that ended before stay in the store.
    pub fn layers(&self) -> Result<Parts> {
        let plan = self.plan;
        let program = &self.node_program.digest;
        let boot_key = plan.boot(program);
        let mut cached = true;
        let (base, packages, boot) = match (self.found(&plan.base), self.found(&plan.packages), self.found(&boot_key)) {
            (Some(base), Some(packages), Some(boot)) => (base, packages, boot),
            (base, packages, boot) => {
                cached = false;
                self.roots(base, packages, boot, &boot_key)?
            }
        };
        let mut layers = vec![layer(SYSTEM, "base", &base)?, layer("packages", "packages", &packages)?];
        for step in &plan.overlays {
            let record = match self.found(&step.key) {
                Some(record) => record,
                None => {
                    cached = false;
                    self.overlay(step)?
                }
            };
            layers.push(layer(step.name.as_str(), "overlay", &record)?);
        }
        // What runs on the node is of this very build, like the initrd's init.
        let agent_key = plan.agent(program);
        let agent = match self.found(&agent_key) {
            Some(record) => record,
            None => {
                cached = false;
                self.step(&agent_key, || self.layer_of_files(&agent(&self.node_program.path, plan.epoch)?, "ostack-node"))?
            }
        };
        layers.push(layer("ostack-node", "agent", &agent)?);
        Ok(Parts { layers, kernel: output(&boot, "kernel")?, initrd: output(&boot, "initrd")?, cached })
    }

    /// Refuses layers that hold what the release forbids, unless the store knows that they do not.
    ///
    /// # Errors
    /// One does; or it cannot be read.
    pub fn lint(&self, parts: &Parts) -> Result<()> {
        let Some(key) = &self.plan.lint else { return Ok(()) };
        let Self { store, plan, release, watch, .. } = *self;
        Lint { store, plan, release, layers: parts.of_packages(), watch }.run(key, &|| self.tools())
    }

    /// Runs the checks that the store has no result of.
    ///
    /// # Errors
    /// One cannot be run. That one fails is no error here.
    pub fn checks(&self, parts: &Parts, secrets: &Secrets) -> Result<Vec<Judged>> {
        let checker = Checker {
            store: self.store,
            lock: self.lock,
            plan: self.plan,
            layers: parts.of_packages(),
            node_program: &self.node_program.path,
            secrets,
            watch: self.watch,
        };
        checker.run()
    }

    /// Writes the image's manifest and gives it its name.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn image(&self, parts: Parts) -> Result<Image> {
        manifest::write(self.store, self.plan, parts.layers, parts.kernel, parts.initrd)
    }

    pub(super) fn found(&self, key: &Key) -> Option<Record> {
        self.runner().found(key)
    }

    pub(super) fn step(&self, key: &Key, work: impl FnOnce() -> Result<Record>) -> Result<Record> {
        self.runner().run(key, || work().doing(|| format!("building the step `{}`", key.step)))
    }

    fn timed<T>(&self, what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        step::timed(self.watch, what, work)
    }

    fn runner(&self) -> Runner<'_> {
        Runner { store: self.store, watch: self.watch }
    }

    /// What needs a root on disk. While packages are configured, which keeps one core busy, the base becomes a layer on the other.
    fn roots(
        &self,
        base: Option<Record>,
        packages: Option<Record>,
        boot: Option<Record>,
        boot_key: &Key,
    ) -> Result<(Record, Record, Record)> {
        let tools = self.tools()?;
        let base_root = self.scratch.join("base");
        fs::create_dir_all(&base_root)?;
        let mut ahead = None;
        // Roles that are built side by side have the same base: one builds it, the others make their packages ready meanwhile.
        let (base, turn) = match base {
            Some(base) => (Some(base), None),
            None => self.base_turn(packages.is_none(), &mut ahead)?,
        };
        let base_tree = match &base {
            Some(record) => {
                let blob = output(record, "layer")?;
                self.store.verify_again(&blob.digest)?;
                self.timed("unpack base", || erofs::tree(&self.store.path(&blob.digest))?.write_to(&base_root))?;
                Tree::default()
            }
            None => {
                let files = self.package_files(&self.plan.locked.base, cores())?;
                // Configuring works on one package at a time and leaves most of the other cores idle meanwhile.
                std::thread::scope(|scope| -> Result<Tree> {
                    let others = std::cmp::max(1, cores() - 1);
                    let wanted = packages.is_none() && ahead.is_none();
                    let beside = wanted.then(|| scope.spawn(move || self.package_files(&self.plan.locked.role, others)));
                    let tree = self.timed("install base", || {
                        let begin = Begin::now(self.scratch)?;
                        let span = |what: &str, seconds: f64| self.watch.done(&format!("base: {what}"), seconds);
                        self.job(&tools, &files, &[], &self.release.users, &span).build_base(&base_root)?;
                        Tree::settle(&base_root, None, &begin.times(self.plan.epoch)?)
                    })?;
                    if let Some(beside) = beside {
                        ahead = Some(beside.join().map_err(|_| Error::new("unpacking packages panicked"))??);
                    }
                    Ok(tree)
                })?
            }
        };
        std::thread::scope(|scope| {
            let beside = scope.spawn(|| -> Result<(Record, Record)> {
                let base = match base {
                    Some(record) => record,
                    None => self.step(&self.plan.base, || self.store_layer(&base_tree, SYSTEM, self.release.compression))?,
                };
                drop(turn);
                let boot = match boot {
                    Some(record) => record,
                    None => self.step(boot_key, || self.boot(&base_root))?,
                };
                Ok((base, boot))
            });
            let packages = match packages {
                Some(record) => Ok(record),
                None => self.step(&self.plan.packages, || self.packages(&tools, &base_root, ahead)),
            };
            let (base, boot) = beside.join().map_err(|_| Error::new("building the base layer panicked"))??;
            Ok((base, packages?, boot))
        })
    }

    /// The turn to build the base; or, after another thread's turn, the base. `ahead` gets the role's packages if they are `wanted`.
    fn base_turn(&self, wanted: bool, ahead: &mut Option<Vec<PackageFile>>) -> Result<(Option<Record>, Option<Turn>)> {
        let root = format!("root of {}", self.plan.base.digest());
        let turn = match self.store.try_turn(&root) {
            Some(turn) => turn,
            None => {
                if wanted {
                    *ahead = Some(self.package_files(&self.plan.locked.role, 1)?);
                }
                self.store.turn(&root)
            }
        };
        // Its last holder may have ended by an error.
        Ok(match self.found(&self.plan.base) {
            Some(base) => (Some(base), None),
            None => (None, Some(turn)),
        })
    }

    fn job<'a>(
        &'a self,
        tools: &'a Path,
        packages: &'a [PackageFile],
        debconf: &'a [String],
        users: &'a [User],
        span: &'a (dyn Fn(&str, f64) + Sync),
    ) -> Job<'a> {
        let pool = match self.release.backend {
            Backend::Deb => self.store.unpacked(),
            Backend::Rpm => self.store.pool(),
        };
        let (scratch, release, epoch, kept) = (self.scratch, self.release, self.plan.epoch, self.store.kept());
        Job { packages, users, pool, kept, tools, scratch, release, debconf, epoch, span }
    }

    fn packages(&self, tools: &Path, base_root: &Path, ahead: Option<Vec<PackageFile>>) -> Result<Record> {
        let files = match ahead {
            Some(files) => files,
            None => self.package_files(&self.plan.locked.role, cores())?,
        };
        let folder = |name: &str| -> Result<PathBuf> {
            let path = self.scratch.join(name);
            fs::create_dir_all(&path)?;
            Ok(path)
        };
        let begin = Begin::now(self.scratch)?;
        let (upper, work, mount) = (folder("packages")?, folder("work")?, folder("root")?);
        self.timed("install packages", || {
            let span = |what: &str, seconds: f64| self.watch.done(&format!("packages: {what}"), seconds);
            let job = self.job(tools, &files, &self.plan.debconf, &self.plan.users, &span);
            job.build_packages(base_root, &upper, &work, &mount)
        })?;
        let tree = Tree::settle(&upper, Some(base_root), &begin.times(self.plan.epoch)?)?;
        self.store_layer(&tree, "packages", self.release.compression)
    }

    /// The locked packages as files of the store, each checked against its digest: nothing unverified is unpacked.
    fn package_files(&self, packages: &[Package], threads: usize) -> Result<Vec<PackageFile>> {
        if self.release.backend == Backend::Deb {
            return unpacked::unpacked(self.store, self.lock, packages, threads);
        }
        parallel::each(packages, threads, "checking packages", |package| {
            self.store.verify(&package.digest).doing(|| format!("checking the package {}", package.name))?;
            Ok(PackageFile { name: package.name.to_string(), path: self.store.path(&package.digest) })
        })
    }

    /// The tools' root, unpacked once per list of packages.
    pub(super) fn tools(&self) -> Result<PathBuf> {
        tools(self.store, self.lock, self.plan, self.watch)
    }

    /// A tree becomes a layer: its identity and its filesystem are made side by side.
    fn store_layer(&self, tree: &Tree, name: &str, compression: Compression) -> Result<Record> {
        let out = tempfile::tempdir_in(self.store.scratch()).doing(|| "creating a scratch folder")?;
        let image = out.path().join("layer.erofs");
        let file = std::fs::File::create(&image).doing(|| "creating a layer's file")?;
        let diff_id = std::thread::scope(|scope| {
            let identity = scope.spawn(|| tar::digest(tree));
            let spec = erofs::Spec { id: &filesystem_id(name), epoch: self.plan.epoch, label: "", compression };
            erofs::write(tree, &spec, &mut std::io::BufWriter::with_capacity(1 << 20, file))?;
            identity.join().map_err(|_| Error::new("hashing the layer panicked"))?
        })?;
        let blob = self.store.put_file(&image)?;
        Ok(layer_record(diff_id, blob, tree.len()))
    }

    fn overlay(&self, step: &OverlayStep) -> Result<Record> {
        self.step(&step.key, || self.layer_of_files(&Tree::of_files(&step.files, self.plan.epoch), step.name.as_str()))
    }

    /// A layer of a few files.
    fn layer_of_files(&self, tree: &Tree, name: &str) -> Result<Record> {
        self.store_layer(tree, name, Compression::None)
    }

    fn boot(&self, root: &Path) -> Result<Record> {
        let spec = &self.release.initrd;
        let kernel = &kernel_of(root)?;
        let pattern = spec.kernel.as_ref().ok_or_else(|| {
            Error::new("the release has no initrd.kernel").next("write kernel = \"/boot/vmlinuz-*\" under [initrd]")
        })?;
        let vmlinuz = fs::read(&root.join(pattern.as_str().replace('*', kernel)))?;
        let bytes = initrd::build(&Initrd {
            node: &fs::read(&self.node_program.path)?,
            root,
            kernel,
            modules: &self.plan.modules,
            load: &spec.load,
            epoch: u64::try_from(self.plan.epoch).unwrap_or(0),
        })?;
        let outputs = [("kernel", self.store.put_bytes(&vmlinuz)?), ("initrd", self.store.put_bytes(&bytes)?)];
        Ok(Record {
            outputs: outputs.map(|(name, blob)| (name.to_string(), blob)).into(),
            facts: BTreeMap::from([("kernel version".to_string(), kernel.clone())]),
            ..Record::default()
        })
    }
}

/// The version of the one kernel that a base has.
///
/// # Errors
/// It has none, or several.
pub(super) fn kernel_of(root: &Path) -> Result<String> {
    let kernels = initrd::kernels(root)?;
    match &kernels[..] {
        [kernel] => Ok(kernel.clone()),
        _ => Err(Error::new(format!("the base has {} kernels: {}", kernels.len(), kernels.join(", ")))
            .next("name exactly one kernel package per flavour under [kernel] in the release's file")),
    }
}

/// The node's program where an image has it.
///
/// # Errors
/// It cannot be read.
pub(super) fn agent(program: &Path, epoch: i64) -> Result<Tree> {
    let mut tree = Tree::new(epoch);
    let program = Kind::File(Content::Bytes(fs::read(program)?));
    tree.insert("usr/lib/ostack/ostack-node".parse()?, Entry::new(program, 0o755, epoch));
    Ok(tree)
}

/// A filesystem's UUID follows from what the layer is, not from when or where it was made.
fn filesystem_id(name: &str) -> Digest {
    Digest::of(format!("ostack layer {name}"))
}

fn layer_record(diff_id: Digest, blob: Blob, entries: usize) -> Record {
    Record {
        outputs: BTreeMap::from([("layer".to_string(), blob)]),
        facts: BTreeMap::from([("diff-id".to_string(), diff_id.to_string()), ("entries".to_string(), entries.to_string())]),
        ..Record::default()
    }
}

fn layer(name: &str, kind: &str, record: &Record) -> Result<Layer> {
    let diff_id = record.facts.get("diff-id").ok_or_else(|| Error::new(format!("the step `{}` has no diffID", record.step)))?;
    Ok(Layer { name: name.to_string(), kind: kind.to_string(), diff_id: diff_id.parse()?, blob: output(record, "layer")? })
}
