//! `ostack-image build`: what is missing of a role's image, and its artifacts.

use super::report::Steps;
use super::session::{RoleFiles, Session, write_lock};
use super::{Global, check, fetch, media, plan, print_json, unlock};
use crate::base::digest::Digest;
use crate::base::error::Result;
use crate::base::name::Role;
use crate::base::parallel;
use crate::cli::terminal::{note, out};
use crate::image::artifact::{Artifact, Format, Maker};
use crate::image::build::{Builder, NodeProgram, Parts};
use crate::image::check::Judged;
use crate::image::manifest::Image;
use crate::image::step;
use crate::image::tools::tools;
use crate::layer::scratch;
use crate::lock::ReleaseLock;
use crate::model::disk::DiskSpec;
use crate::plan::{Package, RolePlan};
use crate::store::{Store, WriteLock};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

#[derive(Args)]
pub(super) struct Options {
    /// Roles to build
    #[arg(required_unless_present = "all")]
    roles: Vec<Role>,
    /// Build every role that has a recipe
    #[arg(long, conflicts_with = "roles")]
    all: bool,
    /// Also write the seed of this node
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    #[command(flatten)]
    secrets: unlock::From,
    /// Artifacts to write
    #[arg(long, value_delimiter = ',', default_value = "qcow2")]
    format: Vec<FormatName>,
    /// Lock packages anew that are on no mirror any more, and go on
    #[arg(long)]
    relock: bool,
    /// Print how many seconds each step took, and the parts of it
    #[arg(long)]
    timings: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum FormatName {
    Qcow2,
    Raw,
    /// The root that the image is, for installers that unpack one
    #[value(name = "tar.gz")]
    Root,
    /// Installer and image on a medium
    Iso,
}

/// What one role's build gave.
struct Built {
    image: Image,
    artifacts: Vec<Artifact>,
    cached: bool,
}

pub(super) fn run(global: &Global, options: &Options) -> Result<()> {
    let session = Session::open(global)?;
    session.warn();
    let roles: Vec<Role> =
        if options.all { session.roles.iter().map(|files| files.role).collect() } else { options.roles.clone() };
    roles.iter().try_for_each(|role| session.role(*role).map(|_| ()))?;
    let mut lock = session.release_lock()?;
    let spec = session.project.disk()?;
    // Everything is planned before anything is written: a mistake in the last role costs no build of the first.
    for role in &roles {
        session.plan(session.role(*role)?, &lock)?;
    }
    let node = options.node.as_deref().map(|name| session.site.node(name)).transpose()?;
    let held = match node {
        Some(node) => super::seed::secrets(&session, &options.secrets, &[node])?,
        None => None,
    };
    let store = session.store()?;
    if global.offline {
        for role in &roles {
            let plan = session.plan(session.role(*role)?, &lock)?;
            fetch::packages(&session, &store, &lock, &missing(&plan, &store)?, true, None)?;
        }
    } else {
        session.mirrors()?;
    }
    let write_lock = write_lock(&store)?;
    let several = roles.len() > 1;
    let all: Vec<(Steps, &RoleFiles)> = roles
        .iter()
        .map(|role| Ok((Steps::new(global.verbose, several.then_some(*role)), session.role(*role)?)))
        .collect::<Result<_>>()?;
    let works: Vec<Work<'_>> = all
        .iter()
        .map(|(steps, files)| Work {
            session: &session,
            files,
            store: &store,
            write_lock: &write_lock,
            global,
            relock: options.relock,
            steps,
        })
        .collect();
    fetch_all(&works, &mut lock)?;
    let mut results = Vec::new();
    // What an installer's medium needs is fetched on the way, and two do not fetch the same.
    let threads = if options.format.iter().any(|format| matches!(format, FormatName::Iso)) { 1 } else { parallel::cores() };
    parallel::in_order(
        &works,
        threads.min(works.len()),
        "building roles",
        |work| {
            let begin = Instant::now();
            let built = one(work, &mut lock.clone(), &spec, &options.format)?;
            Ok((built, begin.elapsed().as_secs_f64()))
        },
        |index, (built, seconds)| {
            let steps = works[index].steps;
            if !global.json {
                summary(&built, seconds);
                if options.timings {
                    timings(steps).iter().for_each(|line| out!("{line}"));
                }
            }
            results.push(json_of(&session, &built, steps, seconds));
            Ok(())
        },
    )?;
    if let Some(node) = node {
        super::seed::write_to(&session, &lock, node, None, held.as_ref())?;
    }
    if global.json {
        return print_json(&if results.len() == 1 { results.remove(0) } else { Value::Array(results) });
    }
    Ok(())
}

/// Fetches what all roles miss, before any is built.
fn fetch_all(works: &[Work<'_>], lock: &mut ReleaseLock) -> Result<()> {
    // Where one has to be locked anew, those before it are other ones too.
    for _ in 0..2 {
        let before = lock.clone();
        for work in works {
            work.fetched(lock)?;
        }
        if *lock == before {
            break;
        }
    }
    Ok(())
}

/// One role's build, and what it works with.
pub(super) struct Work<'a> {
    pub session: &'a Session,
    pub files: &'a RoleFiles,
    pub store: &'a Store,
    pub write_lock: &'a WriteLock,
    pub global: &'a Global,
    pub relock: bool,
    pub steps: &'a Steps,
}

impl Work<'_> {
    /// Builds the layers that are missing, and runs the lint and the checks that are.
    ///
    /// # Errors
    /// A step fails, a layer holds what it may not, or a check cannot be run. That one fails is no error here.
    pub fn layers_and_checks(&self, lock: &mut ReleaseLock) -> Result<(Arc<RolePlan>, Parts, Vec<Judged>)> {
        let plan = self.fetched(lock)?;
        let scratch_folder = self.store.scratch().join(format!("roots-{}", self.files.role));
        let program = self.session.node_program()?;
        let memory = needs_roots(&plan, self.store, &program.digest) && scratch::prepare(&scratch_folder)?;
        if self.global.verbose && memory {
            note!("  roots are built in memory");
        }
        let builder = self.builder(&plan, program, &scratch_folder);
        let parts = builder.layers();
        if scratch_folder.exists() {
            // A mount of this process alone; the kernel would free it at the end, but the next role wants the memory.
            let _ = rustix::mount::unmount(&scratch_folder, rustix::mount::UnmountFlags::DETACH);
            crate::base::fs::remove_tree(&scratch_folder)?;
        }
        let parts = parts?;
        builder.lint(&parts)?;
        let judged = builder.checks(&parts, &self.session.secrets)?;
        Ok((plan, parts, judged))
    }

    pub fn builder<'b>(&'b self, plan: &'b RolePlan, program: &'b NodeProgram, scratch: &'b Path) -> Builder<'b> {
        Builder {
            store: self.store,
            lock: self.write_lock,
            scratch,
            plan,
            release: &self.session.release,
            node_program: program,
            watch: self.steps,
        }
    }

    /// The plan, with the packages that its missing steps need in the store.
    fn fetched(&self, lock: &mut ReleaseLock) -> Result<Arc<RolePlan>> {
        let mut plan = self.session.plan(self.files, lock)?;
        // A relock may itself name packages that vanish while it runs: try twice, then say so.
        for attempt in 0..2 {
            let wanted = missing(&plan, self.store)?;
            let relock = (self.relock && attempt == 0).then_some(self.write_lock);
            match fetch::packages(self.session, self.store, lock, &wanted, self.global.offline, relock)? {
                None => break,
                Some(newer) => {
                    *lock = newer;
                    plan = self.session.plan(self.files, lock)?;
                }
            }
        }
        Ok(plan)
    }
}

/// Builds a role's image, or finds it: its plan, the image, and whether everything was there before.
///
/// # Errors
/// A step fails, or a service refuses its files; nothing is named then.
pub(super) fn image(work: &Work<'_>, lock: &mut ReleaseLock) -> Result<(Arc<RolePlan>, Image, bool)> {
    let Work { session, store, .. } = work;
    let (plan, parts, judged) = work.layers_and_checks(lock)?;
    let report = check::Report::new(session, work.files, &plan, &judged)?;
    report.warn(|one| one.seconds.is_some() || work.global.verbose);
    // Nothing is named and nothing written before every service has taken its files.
    report.refuse()?;
    let cached = parts.cached && judged.iter().all(|one| one.seconds.is_none());
    let program = session.node_program()?;
    let image = work.builder(&plan, program, &store.scratch()).image(parts)?;
    store.put_last(&plan.image_name(), &plan::remembered(&plan::keys(&plan, &program.digest)))?;
    Ok((plan, image, cached))
}

fn one(work: &Work<'_>, lock: &mut ReleaseLock, spec: &DiskSpec, formats: &[FormatName]) -> Result<Built> {
    let Work { session, store, .. } = work;
    let (plan, image, mut cached) = image(work, lock)?;
    let maker = Maker { store, image: &image, spec, tools_key: plan.tools.digest(), watch: work.steps };
    let mut artifacts = Vec::new();
    for format in formats {
        let format = match format {
            FormatName::Qcow2 => Format::Qcow2,
            FormatName::Raw => Format::Raw,
            FormatName::Root => Format::Root,
            FormatName::Iso => {
                crate::base::fs::create_dir_all(&session.out)?;
                artifacts.push(media::iso(work, &plan, &maker, lock)?);
                cached = false;
                continue;
            }
        };
        let (artifact, found) = artifact(work, &plan, &maker, format)?;
        artifacts.push(artifact);
        cached &= found;
    }
    Ok(Built { image, artifacts, cached })
}

/// An artifact of an image, and whether it was there.
///
/// # Errors
/// It cannot be made.
pub(super) fn artifact(work: &Work<'_>, plan: &RolePlan, maker: &Maker<'_>, format: Format) -> Result<(Artifact, bool)> {
    let Work { session, store, steps, .. } = work;
    if let Some(artifact) = maker.found(&session.out, format) {
        return Ok((artifact, true));
    }
    let tools = tools(store, work.write_lock, plan, *steps)?;
    crate::base::fs::create_dir_all(&session.out)?;
    let artifact = step::timed(*steps, format.as_str(), || maker.make(&session.out, format, &tools))?;
    Ok((artifact, false))
}

fn needs_roots(plan: &RolePlan, store: &Store, program: &Digest) -> bool {
    [plan.base.clone(), plan.packages.clone(), plan.boot(program)].iter().any(|key| store.step(&key.digest()).is_none())
}

/// The packages that the missing steps need.
fn missing<'a>(plan: &'a RolePlan, store: &Store) -> Result<Vec<&'a Package>> {
    let mut wanted: Vec<&Package> = Vec::new();
    if store.step(&plan.base.digest()).is_none() {
        wanted.extend(&plan.locked.base);
    }
    if store.step(&plan.packages.digest()).is_none() {
        wanted.extend(&plan.locked.role);
    }
    if !store.tools(&plan.tools.digest()).exists() {
        wanted.extend(&plan.locked.tools);
    }
    Ok(wanted)
}

fn summary(built: &Built, seconds: f64) {
    let image = &built.image;
    let size: u64 = image.layers.iter().map(|layer| layer.blob.size).sum();
    out!(
        "{}: image {}, {} layers, {:.1} MB, {} packages",
        image.role,
        image.manifest.digest,
        image.layers.len(),
        size as f64 / 1e6,
        image.packages.len()
    );
    for artifact in &built.artifacts {
        out!("{}  {:.1} MB  {}", artifact.path.display(), artifact.size as f64 / 1e6, artifact.digest);
    }
    out!("{} in {seconds:.2} s", if built.cached { "nothing changed" } else { "built" });
}

/// Every step that was done, the longest first.
fn timings(steps: &Steps) -> Vec<String> {
    let mut all: Vec<(String, f64)> = steps.seconds().into_iter().collect();
    all.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    all.iter().map(|(step, seconds)| format!("{seconds:9.3} s  {step}")).collect()
}

fn json_of(session: &Session, built: &Built, steps: &Steps, seconds: f64) -> Value {
    let mut times = steps.seconds();
    times.insert("total".to_string(), (seconds * 1000.0).round() / 1000.0);
    let layers: Vec<Value> = built
        .image
        .layers
        .iter()
        .map(|layer| json!({ "name": layer.name, "kind": layer.kind, "digest": layer.diff_id, "size": layer.blob.size }))
        .collect();
    json!({
        "role": built.image.role,
        "release": session.release_name,
        "image": { "digest": built.image.manifest.digest },
        "layers": layers,
        "artifacts": built.artifacts,
        "cached": built.cached,
        "seconds": times,
    })
}
