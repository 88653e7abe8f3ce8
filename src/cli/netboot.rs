//! `ostack-image netboot`: the tree that blank machines start from.

use super::build::{self, Work};
use super::report::Steps;
use super::session::{Session, write_lock};
use super::{Global, media, print_json, unlock};
use crate::base::error::{Error, Result};
use crate::base::name::Role;
use crate::cli::terminal::out;
use crate::deploy::describe::describe;
use crate::deploy::netboot::{RoleImage, Server, Tree, Written};
use crate::image::artifact::Maker;
use crate::image::step;
use crate::model::netboot::NetbootSpec;
use crate::model::site::{Dhcp, Provision};
use crate::secrets::Held;
use clap::Args;
use std::path::PathBuf;
use std::time::Instant;

#[derive(Args)]
pub(super) struct Options {
    /// Roles whose nodes to provision; by default all
    roles: Vec<Role>,
    #[command(flatten)]
    secrets: unlock::From,
    /// Lock packages anew that are on no mirror any more, and go on
    #[arg(long)]
    relock: bool,
}

pub(super) fn run(global: &Global, options: &Options) -> Result<()> {
    let session = Session::open(global)?;
    session.warn();
    let held = options.secrets.held(&session)?;
    let begin = Instant::now();
    let written = write(global, &session, &options.roles, held.as_ref(), options.relock)?;
    if global.json {
        return print_json(&written);
    }
    out!("{}  {} files, {:.1} MB  {}", written.path.display(), written.files, written.size as f64 / 1e6, written.digest);
    if held.is_none() {
        out!("no secrets are at hand: machines get their system from this tree, and wait for their seeds");
    }
    out!("written in {:.2} s", begin.elapsed().as_secs_f64());
    Ok(())
}

/// Where the tree lies in the output folder.
pub(super) fn folder(session: &Session) -> PathBuf {
    session.out.join("netboot")
}

/// The machine that the site names for provisioning.
pub(super) fn provision(session: &Session) -> Result<&Provision> {
    session.site.provision.as_ref().ok_or_else(|| {
        Error::new("the site does not say which machine provisions the others")
            .at(&session.site_file, None)
            .next("write [provision] with server = \"ADDRESS\", an address of the management network")
    })
}

/// The server as the tree names it; with a door for secrets where there are any.
pub(super) fn server(session: &Session, spec: &NetbootSpec, held: Option<&Held>) -> Result<Server> {
    let provision = provision(session)?;
    let authority = held.map(|held| held.certificate(&spec.authority)).transpose()?;
    Ok(Server {
        address: provision.server,
        port: provision.port,
        secure: authority.map(|certificate| (provision.secure_port, certificate)),
        proxy: provision.dhcp == Dhcp::Proxy,
    })
}

fn write(global: &Global, session: &Session, roles: &[Role], held: Option<&Held>, relock: bool) -> Result<Written> {
    let spec = session.project.netboot()?;
    let server = server(session, &spec, held)?;
    let disk = session.project.disk()?;
    let mut lock = session.release_lock()?;
    let used = |role: &Role| session.site.of_role(*role).next().is_some();
    let roles: Vec<Role> = match roles {
        [] => session.roles.iter().map(|files| files.role).filter(used).collect(),
        roles => roles.to_vec(),
    };
    for role in &roles {
        session.plan(session.role(*role)?, &lock)?;
    }
    let store = session.store()?;
    let write_lock = write_lock(&store)?;
    let mut images = Vec::new();
    let mut roots = None;
    for role in &roles {
        let steps = Steps::new(global.verbose, None);
        let files = session.role(*role)?;
        let work = Work { session, files, store: &store, write_lock: &write_lock, global, relock, steps: &steps };
        let (plan, image, _) = build::image(&work, &mut lock)?;
        let (tools, loaders) = media::roots(&work, &plan, &mut lock)?;
        let drivers = media::drivers(&work, &plan)?;
        let maker = Maker { store: &store, image: &image, spec: &disk, tools_key: plan.tools.digest(), watch: &steps };
        let described = step::timed(&steps, "describe", || describe(&maker, &tools))?;
        images.push(RoleImage { described, drivers, command_line: image.command_line.clone() });
        roots = Some((tools, loaders, plan.epoch));
    }
    let Some((tools, loaders, epoch)) = roots else {
        return Err(Error::new("the site has no nodes").at(&session.site_file, None).next("write [[node]] for each machine"));
    };
    Tree {
        site: &session.site,
        spec: &spec,
        server: &server,
        roles: &images,
        store: &store,
        loaders: &loaders,
        tools: &tools,
        epoch: u64::try_from(epoch).unwrap_or(0),
    }
    .write(&folder(session))
}
