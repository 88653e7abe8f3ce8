//! `ostack-image serve`: gives the tree and the seeds out, and keeps a journal of what machines do with them.

use super::netboot::{folder, provision};
use super::session::{Session, locked};
use super::{Global, kickstart, unlock};
use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use crate::base::tool::Tool;
use crate::cli::terminal::{note, out};
use crate::deploy::arming::Arming;
use crate::deploy::netboot::SUMS;
use crate::deploy::seed::{self, Needed};
use crate::deploy::serve::{self, Hub, Known, Part, Secure, Seeds};
use crate::lock::ReleaseLock;
use crate::secrets::Held;
use clap::Args;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The program, and the user that its package makes.
const DNSMASQ: &str = "dnsmasq";

#[derive(Args)]
pub(super) struct Options {
    /// Answer by DHCP and TFTP on this interface, too: runs dnsmasq
    #[arg(long, value_name = "INTERFACE")]
    dhcp: Option<String>,
    /// Listen here instead of on the site's own address of the server
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<IpAddr>,
    #[command(flatten)]
    secrets: unlock::From,
}

/// Where the server keeps who is expected, and its journal.
pub(super) fn state(session: &Session) -> PathBuf {
    session.out.join("provision")
}

pub(super) fn run(global: &Global, options: &Options) -> Result<()> {
    let session = Session::open(global)?;
    session.warn();
    let provision = provision(&session)?.clone();
    let tree = std::path::absolute(folder(&session)).doing(|| "finding the tree")?;
    let bundle = std::path::absolute(kickstart::folder(&session)).doing(|| "finding the bundle")?;
    // Either will do; both are whole.
    if !bundle.join(SUMS).exists() || options.dhcp.is_some() {
        fs::must_exist(&tree.join(SUMS), "the tree", "make it: ostack-image netboot")?;
    }
    check(&tree, "make the tree again: ostack-image netboot")?;
    check(&bundle, "make the bundle again: ostack-image kickstart")?;
    let held = options.secrets.held(&session)?;
    let address = options.listen.unwrap_or(IpAddr::V4(provision.server));
    let spec = session.project.netboot()?;
    let secure = match &held {
        Some(held) => {
            let fields = held.signed_now(&spec.authority, &[provision.server.to_string()])?;
            let field = |name: &str| {
                fields.get(name).cloned().ok_or_else(|| Error::new(format!("the server's certificate has no {name}")))
            };
            let address = SocketAddr::new(address, provision.secure_port);
            Some(Secure { address, certificate: field("certificate")?, key: field("key")? })
        }
        None => None,
    };
    let (url, door) = (format!("http://{}:{}/", address, provision.port), secure.as_ref().map(|secure| secure.address));
    let known = |node: &crate::model::site::Node| Known {
        name: node.name.to_string(),
        role: node.role.to_string(),
        mac: node.mac.clone(),
    };
    let nodes = session.site.nodes.iter().map(known).collect();
    let (site, state) = (session.site.name.to_string(), state(&session));
    let lock = session.release_lock_if_any()?;
    let dhcp = options.dhcp.as_deref().map(|interface| dnsmasq(&tree, interface, &state)).transpose()?;
    let seeds = held.map(|held| seeds(session, lock, held));
    let hub = Hub::new(site, nodes, tree, bundle, Arming::new(&state), seeds);
    let served = serve::run(hub, SocketAddr::new(address, provision.port), secure, || {
        out!("{url}");
        match door {
            Some(door) => out!("seeds at https://{door}/"),
            None => out!("no secrets are at hand: seeds are not given out"),
        }
    });
    if let Some(dhcp) = dhcp {
        let _ = dhcp.kill();
    }
    served
}

/// Makes a node's seed when it is asked for.
fn seeds(session: Session, lock: Option<ReleaseLock>, held: Held) -> Seeds {
    Box::new(move |name, part| {
        let node = session.site.node(name)?;
        let files = session.role(node.role)?;
        let mut planner = session.planner(files)?;
        let needed = Needed::of(&mut planner, Some(&held))?;
        match part {
            Part::All => {
                let lock = lock.as_ref().ok_or_else(|| {
                    Error::new(format!("the site has no lock of the release {}", session.release_name))
                        .next("run: ostack-image lock")
                })?;
                seed::one(&planner, &needed, &session.site, locked(lock, files)?.epoch, node)
            }
            Part::Secrets => seed::secrets(&planner, &needed, node),
        }
    })
}

/// Nothing is given out that is not what was written. A folder without a list of its files has none to give.
fn check(folder: &Path, next: &str) -> Result<()> {
    let sums = folder.join(SUMS);
    if !sums.exists() {
        return Ok(());
    }
    let text = fs::read_text(&sums)?;
    for line in text.lines() {
        let Some((digest, name)) = line.split_once("  ") else { continue };
        let path = folder.join(name);
        let (found, _) = crate::base::digest::Digest::of_file(&path)?;
        if found.hex() != digest {
            return Err(Error::new(format!("{} is damaged: its sha256 is {}", path.display(), found.hex()))
                .next(format!("remove it and {next}")));
        }
    }
    Ok(())
}

/// DHCP and TFTP, by a program of their own. It has a user's rights and what it needs of root's from its start on, because whoever
/// changes users later is forgotten by the kernel when it ends what this program leaves behind.
fn dnsmasq(tree: &Path, interface: &str, state: &Path) -> Result<duct::Handle> {
    let mut config = fs::read_text(&tree.join("dnsmasq.conf"))?;
    // What it shall give out by TFTP must be everybody's to read.
    let mut open = true;
    for folder in tree.ancestors() {
        if folder.metadata().doing(|| format!("reading {}", folder.display()))?.mode() & 0o001 == 0 {
            open = false;
            note!(
                "warning: dnsmasq runs as a user of its own, who may not enter {}: machines that need a boot loader by TFTP get none",
                folder.display()
            );
        }
    }
    if open {
        config.push_str(&format!("tftp-root={}\n", tree.display()));
    } else {
        config = config.lines().filter(|line| *line != "enable-tftp").map(|line| format!("{line}\n")).collect();
    }
    fs::create_dir_all(state)?;
    let user = if Tool::new("getent").args(["passwd", DNSMASQ]).run().is_ok() { DNSMASQ } else { "nobody" };
    let capabilities = "-all,+net_admin,+net_raw,+net_bind_service";
    let tool =
        Tool::new("setpriv").package("util-linux").arg(format!("--reuid={user}")).args(["--regid=nogroup", "--clear-groups"]);
    let tool = tool.arg(format!("--inh-caps={capabilities}")).arg(format!("--ambient-caps={capabilities}"));
    let tool =
        tool.args(["--pdeathsig=TERM", DNSMASQ, "--keep-in-foreground", "--bind-interfaces", "--pid-file=", "--conf-file=-"]);
    let tool = tool.arg(format!("--interface={interface}")).args(["--except-interface=lo", "--log-facility=-"]);
    // Addresses are the site's own, so nothing is to be remembered.
    let tool = tool.arg("--leasefile-ro").stdin(config);
    let log = state.join("dnsmasq.log");
    let handle = tool.start(&log)?;
    std::thread::sleep(std::time::Duration::from_millis(300));
    if handle.try_wait().doing(|| "watching dnsmasq")?.is_some() {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        let last = said.lines().last().unwrap_or_default().to_string();
        return Err(Error::new(format!("dnsmasq ended: {last}")).next(format!("install dnsmasq-base, or read {}", log.display())));
    }
    Ok(handle)
}
