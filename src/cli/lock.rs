//! `ostack-image lock`: resolves packages and writes `ostack.lock`.

use super::report::Steps;
use super::session::{Session, leave_host_mounts};
use super::{Global, fetch, print_json};
use crate::base::error::{Error, Result};
use crate::base::name::PackageName;
use crate::cli::terminal::{note, out};
use crate::image::solver::Solvers;
use crate::lock::request::{Request, Update, resolve};
use crate::lock::{Lock, ReleaseLock, rpm};
use crate::model::release::Backend;
use crate::store::{Store, WriteLock};
use clap::Args;
use serde_json::json;

#[derive(Args)]
pub(super) struct Options {
    /// Take newer versions: of these packages, or of all
    #[arg(long, value_name = "PKG", num_args = 0..)]
    update: Option<Vec<PackageName>>,
}

pub(super) fn run(global: &Global, options: &Options) -> Result<()> {
    let session = Session::open(global)?;
    if global.offline {
        return Err(Error::new("locking asks the archive, which --offline forbids").next("run it without --offline"));
    }
    let update = match &options.update {
        None => Update::None,
        Some(names) if names.is_empty() => Update::All,
        Some(names) => Update::Only(names.iter().cloned().collect()),
    };
    let store = session.store()?;
    // The solver runs in a root of its own, which an ordinary user enters as root of a user namespace; now, because the process
    // must have no threads yet.
    leave_host_mounts()?;
    let (old, new) = update_with(&session, &store, None, &update)?;
    let changes = ReleaseLock::diff(&old, &new);
    if global.json {
        let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
        return print_json(&json!({ "release": session.release_name, "packages": new.all().count(), "changes": changes }));
    }
    // A first lock changes everything; the file itself is the list then.
    if old.packages.is_empty() {
        out!("{}: {} packages", session.lock_file.display(), new.all().count());
        return Ok(());
    }
    for change in &changes {
        out!("{change}");
    }
    out!("{}: {} packages, {} changed", session.lock_file.display(), new.all().count(), changes.len());
    Ok(())
}

/// Locks anew and says on stderr what changed.
pub(super) fn update(session: &Session, store: &Store, held: Option<&WriteLock>, update: &Update) -> Result<()> {
    let (old, new) = update_with(session, store, held, update)?;
    for change in ReleaseLock::diff(&old, &new) {
        note!("  {change}");
    }
    Ok(())
}

fn update_with(
    session: &Session,
    store: &Store,
    held: Option<&WriteLock>,
    update: &Update,
) -> Result<(ReleaseLock, ReleaseLock)> {
    let mut lock = if session.lock_file.exists() { Lock::load(&session.lock_file)? } else { Lock::default() };
    let old = lock.releases.get(&session.release_name).cloned();
    let solver = match session.release.backend {
        Backend::Deb => "apt".to_string(),
        // What is the machine's own is never used silently.
        Backend::Rpm if session.release.packages.solver.is_empty() => format!("dnf {} of this machine", rpm::machine()?),
        Backend::Rpm => "dnf".to_string(),
    };
    note!("  asking {solver} for the packages of {} …", session.release_name);
    let tools = match &session.release.packages.tools_from {
        Some(name) => Some((name, session.project.release(name)?)),
        None => None,
    };
    let request = Request {
        keys: &session.site.trust,
        tools: tools.as_ref().map(|(name, release)| (*name, release)),
        ..Request::new(&session.release_name, &session.release, session.requested()?)
    };
    let keeper = fetch::ForSolver::new(session, store, held);
    let solvers = Solvers { store, keeper: &keeper, watch: &Steps::new(false, None) };
    let new = resolve(&request, old.as_ref(), update, &session.mirrors()?, &solvers)?;
    lock.releases.insert(session.release_name.clone(), new.clone());
    lock.write(&session.lock_file)?;
    let none = ReleaseLock { packages: Default::default(), tools: None, ..new.clone() };
    Ok((old.unwrap_or(none), new))
}
