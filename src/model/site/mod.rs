//! `site.toml`: one deployment. Nodes, addresses, networks, parameters.

use super::overlay::Parameters;
use super::{Lines, Source};
use crate::base::error::{Error, Result};
use crate::base::name::{Role, Word};
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

mod fence;
mod interface;
mod network;
mod node;
mod provision;
mod words;
mod written;

pub use fence::Fence;
pub use interface::{Bonding, Hash, Interface, Kind, LacpRate, Mode};
pub use network::{Network, Provider, Subnet};
pub use node::{DiskHint, Node};
pub use provision::{Dhcp, Provision};

/// A deployment, checked: names and addresses are unique and lie in their networks.
#[derive(Debug, Clone, Serialize)]
pub struct Site {
    /// The site's name.
    pub name: Word,
    /// The release used where no other is asked for.
    pub release: Word,
    /// The OpenStack region.
    pub region: String,
    /// The IANA time zone of every node.
    pub time_zone: String,
    /// The network of the cluster itself; has the VIP.
    pub management: Network,
    /// The network towards users.
    pub external: Network,
    /// Neutron's own network.
    pub provider: Provider,
    /// The machine that provisions the others, where the site names one.
    pub provision: Option<Provision>,
    /// Addresses of name servers; may be empty.
    pub dns: Vec<Ipv4Addr>,
    /// Time servers that the controllers follow; may be empty.
    pub ntp: Vec<String>,
    /// OpenSSH public keys of the administrators.
    pub authorized_keys: Vec<String>,
    /// Archive name -> base URL; where empty, the build machine's own apt sources say it.
    #[serde(skip)]
    pub mirror: BTreeMap<Word, String>,
    /// Archive name -> base URL of a snapshot mirror, asked when the mirror has dropped a file.
    #[serde(skip)]
    pub snapshot: BTreeMap<Word, String>,
    /// Archive name -> files with the public keys that its packages or metadata must be signed with; for rpm repositories.
    #[serde(skip)]
    pub trust: BTreeMap<Word, Vec<PathBuf>>,
    /// Values of the options in `recipes/options.toml`, where they are not the default.
    pub options: Parameters,
    /// Parameters by overlay, over those of recipe and overlay.
    pub parameters: BTreeMap<Word, Parameters>,
    /// Every node, in the order of the file.
    pub nodes: Vec<Node>,
    /// Where the file's keys stand.
    #[serde(skip)]
    pub lines: Lines,
}

impl Site {
    /// The nodes of a role, in the order of the file.
    pub fn of_role(&self, role: Role) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(move |node| node.role == role)
    }

    /// A node by name.
    ///
    /// # Errors
    /// There is none; the remedy lists those that exist.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes.iter().find(|node| node.name.as_str() == name).ok_or_else(|| {
            let known: Vec<&str> = self.nodes.iter().take(20).map(|node| node.name.as_str()).collect();
            Error::new(format!("the site has no node `{name}`")).next(format!("use one of: {}", known.join(", ")))
        })
    }
}

/// Files named in the site file: relative ones lie beside it.
fn beside(source: &Source<'_>, files: Vec<String>) -> Vec<PathBuf> {
    let folder = source.file.parent().unwrap_or(Path::new(""));
    files.into_iter().map(|file| folder.join(file)).collect()
}

/// Reads a site.
///
/// # Errors
/// With file, line and what to write: unknown keys, addresses used twice or outside their network, a VIP that is
/// missing or a node's, networks that overlap, an even number of controllers, MAC addresses used twice.
pub fn parse(source: &Source<'_>) -> Result<Site> {
    let file: written::File = source.toml()?;
    let zone = file.site.time_zone.get_ref();
    if zone.is_empty() || zone.starts_with('/') || zone.split('/').any(|part| part.is_empty() || part == "..") {
        return Err(source
            .error(&file.site.time_zone.span(), format!("`{zone}` is no time zone"))
            .next("write an IANA name, such as Asia/Shanghai or UTC"));
    }
    let (management_line, management) = network::read(source, &file.network.management)?;
    let (_, external) = network::read(source, &file.network.external)?;
    if management.subnet.overlaps(&external.subnet) {
        let span = file.network.external.subnet.span();
        return Err(source
            .error(&span, format!("{} overlaps the management network {}", external.subnet, management.subnet))
            .next("give the two networks separate address ranges"));
    }
    if management.vip.is_none() {
        return Err(Error::new("the management network has no vip")
            .at(source.file, management_line)
            .next("write vip = \"…\", a free address of that network"));
    }
    let provider = network::provider(source, &file.network.provider)?;
    let nodes = node::read_all(source, &file, &management, &external, &provider)?;
    let provision = file.provision.map(|written| provision::read(source, written, &management, &nodes)).transpose()?;
    let site = Site {
        name: file.site.name,
        release: file.site.release,
        region: file.site.region,
        time_zone: file.site.time_zone.into_inner(),
        management,
        external,
        provider,
        provision,
        dns: file.dns.servers.iter().map(|one| words::address(source, one)).collect::<Result<_>>()?,
        ntp: file.ntp.servers.into_iter().map(|one| words::ntp_server(source, one)).collect::<Result<_>>()?,
        authorized_keys: file.ssh.authorized_keys.into_iter().map(|key| words::ssh_key(source, key)).collect::<Result<_>>()?,
        mirror: words::urls(source, file.mirror)?,
        snapshot: words::urls(source, file.snapshot)?,
        trust: file.trust.into_iter().map(|(archive, files)| (archive, beside(source, files))).collect(),
        options: file.options.into_iter().map(|(name, value)| (name.to_string(), value)).collect(),
        parameters: file.parameters,
        nodes,
        lines: source.lines(),
    };
    Ok(site)
}
