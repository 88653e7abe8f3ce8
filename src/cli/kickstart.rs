//! `ostack-image kickstart`: the bundle for Anaconda.

use super::build::{self, Work};
use super::report::Steps;
use super::session::{Session, write_lock};
use super::{Global, netboot, print_json, unlock};
use crate::base::error::{Error, Result};
use crate::base::name::{PackageName, Role};
use crate::cli::terminal::out;
use crate::deploy::kickstart::{Bundle, PROGRAM, RoleParts, Written, not_for};
use crate::deploy::serve::BUNDLE;
use crate::image::artifact::{Artifact, Format, Maker};
use crate::lock::ReleaseLock;
use crate::model::placeholder::LISTS;
use crate::model::release::{Backend, User};
use crate::model::site::Node;
use crate::plan::Locked;
use crate::plan::context::Values;
use crate::secrets::Held;
use clap::Args;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// What yum gives a repository that says nothing, and what a release's priorities are of.
const USUAL: (u32, u32) = (1000, 99);

#[derive(Args)]
pub(super) struct Options {
    /// Nodes, or roles for all their nodes
    #[arg(value_name = "NODE|ROLE", required_unless_present = "all")]
    names: Vec<String>,
    /// All nodes of the site
    #[arg(long, conflicts_with = "names")]
    all: bool,
    /// Install each role's finished root instead of packages
    #[arg(long)]
    liveimg: bool,
    #[command(flatten)]
    secrets: unlock::From,
}

pub(super) fn run(global: &Global, options: &Options) -> Result<()> {
    let session = Session::open(global)?;
    session.warn();
    let held = options.secrets.held(&session)?;
    let written = write(global, &session, &nodes(&session, options)?, options.liveimg, held.as_ref())?;
    if global.json {
        return print_json(&written);
    }
    for node in &written.nodes {
        out!("{}", written.path.join(node).join("ks.cfg").display());
    }
    let packages = if written.images {
        "roots of images"
    } else if written.locked {
        "packages at the versions of ostack.lock"
    } else {
        "packages unlocked: the newest of their repositories"
    };
    out!("{} files, {packages}  {}", written.files, written.digest);
    if held.is_none() {
        out!("no secrets are at hand: files keep their placeholders");
    }
    Ok(())
}

/// The nodes that are named, or whose role is, in the site's order.
fn nodes<'a>(session: &'a Session, options: &Options) -> Result<Vec<&'a Node>> {
    let mut wanted: BTreeSet<&str> = BTreeSet::new();
    for name in &options.names {
        match name.parse::<Role>() {
            Ok(role) if !session.site.nodes.iter().any(|node| node.name.as_str() == name) => {
                wanted.extend(session.site.of_role(role).map(|node| node.name.as_str()));
            }
            _ => {
                wanted.insert(session.site.node(name)?.name.as_str());
            }
        }
    }
    let nodes: Vec<&Node> = session.site.nodes.iter().filter(|node| options.all || wanted.contains(node.name.as_str())).collect();
    if nodes.is_empty() {
        return Err(Error::new("the site has no such nodes")
            .at(&session.site_file, None)
            .next("name nodes or roles of the site"));
    }
    Ok(nodes)
}

fn write(global: &Global, session: &Session, nodes: &[&Node], liveimg: bool, held: Option<&Held>) -> Result<Written> {
    if session.release.backend != Backend::Rpm {
        return Err(not_for(session.release_name.as_str()));
    }
    // A site without a lock of this release gets its packages by name, and is told so.
    let lock = session.release_lock_if_any()?;
    let epoch = lock.as_ref().map_or(Ok(0), |lock| i64::try_from(lock.source_date_epoch)).map_err(Error::new)?;
    let spec = session.project.kickstart()?;
    let mut bundle = Bundle::new(&spec, values(session, held)?, epoch);
    let mut roots = if liveimg { roots(global, session, nodes)? } else { BTreeMap::new() };
    let program = bundle.program(&session.node_program()?.path)?;
    for role in Role::ALL {
        let of_role: Vec<&&Node> = nodes.iter().filter(|node| node.role == role).collect();
        if of_role.is_empty() {
            continue;
        }
        let files = session.role(role)?;
        let mut planner = session.planner(files)?;
        let plan = planner.role(Locked { epoch, ..Locked::default() })?;
        let parts = RoleParts {
            overlays: plan.overlays.iter().map(|step| (step.name.to_string(), step.files.clone())).collect(),
            state: plan.state.clone(),
            packages: packages(session, role, lock.as_ref())?,
            locked: lock.is_some(),
            users: session.release.users.iter().chain(&plan.users).map(account).collect(),
            groups: groups(session, &plan.users),
            image: roots.remove(&role).map(|artifact| bundle.root(&artifact)),
        };
        let mut archives = Vec::new();
        // A root has them all.
        if parts.image.is_none() {
            for (name, files) in &parts.overlays {
                archives.push(bundle.archive(name, files)?);
            }
            archives.push(program.clone());
        }
        let mut of_nodes = planner.nodes();
        for node in of_role {
            let own = bundle.archive(node.name.as_str(), &of_nodes.plan(node)?)?;
            bundle.node(node, &parts, &archives, &own)?;
        }
    }
    bundle.write(&folder(session), lock.is_some())
}

/// Where the bundle lies in the output folder.
pub(super) fn folder(session: &Session) -> PathBuf {
    session.out.join("kickstart")
}

/// The root of each role that these nodes have, built if need be.
fn roots(global: &Global, session: &Session, nodes: &[&Node]) -> Result<BTreeMap<Role, Artifact>> {
    let spec = session.project.disk()?;
    let mut lock = session.release_lock()?;
    let store = session.store()?;
    let write_lock = write_lock(&store)?;
    let mut roots = BTreeMap::new();
    for role in Role::ALL.into_iter().filter(|role| nodes.iter().any(|node| node.role == *role)) {
        let steps = Steps::new(global.verbose, None);
        let files = session.role(role)?;
        let work = Work { session, files, store: &store, write_lock: &write_lock, global, relock: false, steps: &steps };
        let (plan, image, _) = build::image(&work, &mut lock)?;
        let maker = Maker { store: &store, image: &image, spec: &spec, tools_key: plan.tools.digest(), watch: &steps };
        roots.insert(role, build::artifact(&work, &plan, &maker, Format::Root)?.0);
    }
    Ok(roots)
}

/// What is the same for all templates.
fn values(session: &Session, held: Option<&Held>) -> Result<Values> {
    let server = netboot::server(session, &session.project.netboot()?, held)?;
    let mirrors = session.mirrors()?;
    let mut repositories = Vec::new();
    for suite in &session.release.suites {
        let base = mirrors.of(&suite.archive)?.first().cloned().unwrap_or_default();
        let path = suite.path.as_ref().map(|path| format!("/{}", path.as_str())).unwrap_or_default();
        let (cost, usual) = USUAL;
        repositories.push(json!({
            "name": suite.name, "url": format!("{base}{path}"), "cost": cost * suite.priority / usual, "exclude": suite.exclude,
        }));
    }
    let network = &session.site.management;
    let table = json!({
        "site": { "name": session.site.name, "release": session.release_name, "time_zone": session.site.time_zone },
        "server": {
            "url": format!("{}{BUNDLE}", server.url()),
            "secure": server.door(), "authority": server.secure.as_ref().map(|(_, authority)| authority),
        },
        "program": PROGRAM, "lists": format!("/{LISTS}"),
        "network": { "netmask": network.subnet.netmask(), "gateway": network.gateway },
        "repositories": repositories,
        "option": session.options,
    });
    Ok(Values::of(table))
}

/// A role's packages: every locked one exactly, or by name those that are asked for.
fn packages(session: &Session, role: Role, lock: Option<&ReleaseLock>) -> Result<Vec<String>> {
    let sets = ["base".to_string(), format!("kernel-{}", session.role(role)?.recipe.kernel), role.to_string()];
    let mut packages = BTreeSet::new();
    match lock {
        Some(lock) => {
            for set in &sets {
                // As rpm names a package; an epoch stands before the version.
                packages
                    .extend(lock.set(&set.parse()?).into_iter().map(|one| format!("{}-{}.{}", one.name, one.version, one.arch)));
            }
        }
        None => {
            let requested = session.requested()?;
            for set in &sets {
                packages.extend(requested.get(&set.parse()?).into_iter().flatten().map(PackageName::to_string));
            }
        }
    }
    Ok(packages.into_iter().collect())
}

fn account(user: &User) -> Value {
    json!({ "name": user.name, "uid": user.uid, "gid": user.gid, "home": user.home, "shell": user.shell })
}

/// Groups: the release's, and each account's own.
fn groups(session: &Session, overlays: &[User]) -> Vec<Value> {
    let release = &session.release;
    let named = release.groups.iter().map(|group| (group.name.clone(), group.gid));
    let all: Vec<(String, u32)> = named.collect();
    let own = release.users.iter().chain(overlays).filter(|user| !all.iter().any(|(_, gid)| *gid == user.gid));
    let own: Vec<(String, u32)> = own.map(|user| (user.name.clone(), user.gid)).collect();
    all.into_iter().chain(own).map(|(name, gid)| json!({ "name": name, "gid": gid })).collect()
}
