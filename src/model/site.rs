//! `site.toml`: one deployment. Nodes, addresses, networks, parameters.

use super::overlay::Parameters;
use super::{Lines, Source};
use crate::base::error::{Error, Result};
use crate::base::name::{NodeName, Role, Word};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;
use toml::Spanned;

mod written;

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

/// An IPv4 network.
#[derive(Debug, Clone, Serialize)]
pub struct Network {
    /// Address and prefix length.
    pub subnet: Subnet,
    /// The address that moves between the controllers.
    pub vip: Option<Ipv4Addr>,
    /// The default route's next hop.
    pub gateway: Option<Ipv4Addr>,
    /// Maximum transmission unit in bytes.
    pub mtu: Option<u16>,
}

/// One machine.
#[derive(Debug, Clone, Serialize)]
pub struct Node {
    /// Host name.
    pub name: NodeName,
    /// What it is for.
    pub role: Role,
    /// Its address in the management network.
    pub management: Ipv4Addr,
    /// Its address in the external network.
    pub external: Option<Ipv4Addr>,
    /// MAC address of the management interface, lower case: how a blank machine is recognised.
    pub mac: Option<String>,
    /// MAC address of the external interface.
    pub external_mac: Option<String>,
    /// SMBIOS serial number: another way to recognise it.
    pub serial: Option<String>,
    /// Which disk is the system's.
    pub disk: Option<DiskHint>,
    /// Memory in MiB: what sizes of services are derived from.
    pub memory_mib: u64,
    /// Processor cores: what worker counts are derived from.
    pub cores: u32,
    /// The line of the site file in which the node's name stands.
    #[serde(skip)]
    pub line: usize,
}

/// How to find the system disk: every given hint must fit.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DiskHint {
    /// World wide name.
    pub wwn: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// The name below `/dev/disk/by-path`.
    #[serde(rename = "by-path")]
    pub by_path: Option<String>,
    /// At least this many bytes ("20G").
    pub size_min: Option<String>,
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

/// An IPv4 network in CIDR notation, host bits zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    address: Ipv4Addr,
    prefix: u8,
}

impl Subnet {
    /// Whether an address is one of the network's hosts (neither its own nor the broadcast address).
    pub fn has_host(&self, address: Ipv4Addr) -> bool {
        let mask = self.mask_bits();
        let bits = u32::from(address);
        bits & mask == u32::from(self.address) && bits != u32::from(self.address) && bits | mask != u32::MAX
    }

    /// The number of network bits.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The network's own address.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The netmask in dotted form.
    pub fn netmask(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.mask_bits())
    }

    fn mask_bits(&self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0)
    }

    fn overlaps(&self, other: &Self) -> bool {
        let mask = self.mask_bits() & other.mask_bits();
        u32::from(self.address) & mask == u32::from(other.address) & mask
    }
}

impl FromStr for Subnet {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::new(format!("`{text}` is no IPv4 network")).next("write address/prefix, such as 172.16.0.0/16");
        let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
        let subnet = Self { address: address.parse().map_err(|_| bad())?, prefix: prefix.parse().map_err(|_| bad())? };
        if !(1..=30).contains(&subnet.prefix) {
            return Err(bad().next("use a prefix from 1 to 30"));
        }
        let network = Ipv4Addr::from(u32::from(subnet.address) & subnet.mask_bits());
        if network != subnet.address {
            return Err(bad().next(format!("write {network}/{prefix}: the host bits must be zero")));
        }
        Ok(subnet)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl Serialize for Subnet {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
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
    let (management_line, management) = network(source, &file.network.management)?;
    let (_, external) = network(source, &file.network.external)?;
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
    let nodes = nodes(source, &file, &management, &external)?;
    let site = Site {
        name: file.site.name,
        release: file.site.release,
        region: file.site.region,
        time_zone: file.site.time_zone.into_inner(),
        management,
        external,
        dns: file.dns.servers.iter().map(|one| address(source, one)).collect::<Result<_>>()?,
        ntp: file.ntp.servers.into_iter().map(|one| ntp_server(source, one)).collect::<Result<_>>()?,
        authorized_keys: file.ssh.authorized_keys.into_iter().map(|key| ssh_key(source, key)).collect::<Result<_>>()?,
        mirror: urls(source, file.mirror)?,
        snapshot: urls(source, file.snapshot)?,
        options: file.options.into_iter().map(|(name, value)| (name.to_string(), value)).collect(),
        parameters: file.parameters,
        nodes,
        lines: source.lines(),
    };
    Ok(site)
}

fn network(source: &Source<'_>, written: &written::Network) -> Result<(usize, Network)> {
    let span = written.subnet.span();
    let subnet: Subnet = written.subnet.get_ref().parse().map_err(|error: Error| error.at(source.file, source.line(&span)))?;
    let host = |what: &str, value: &Option<Spanned<String>>| -> Result<Option<Ipv4Addr>> {
        let Some(value) = value else { return Ok(None) };
        let address = address(source, value)?;
        if !subnet.has_host(address) {
            return Err(source
                .error(&value.span(), format!("the {what} {address} is outside its network {subnet}"))
                .next(format!("use a host address of {subnet}")));
        }
        Ok(Some(address))
    };
    if let Some(mtu) = &written.mtu
        && !(576..=9216).contains(mtu.get_ref())
    {
        return Err(source.error(&mtu.span(), format!("the mtu {} is out of range", mtu.get_ref())).next("use 576 to 9216"));
    }
    let network = Network {
        subnet,
        vip: host("vip", &written.vip)?,
        gateway: host("gateway", &written.gateway)?,
        mtu: written.mtu.as_ref().map(|mtu| *mtu.get_ref()),
    };
    Ok((source.line(&span), network))
}

fn nodes(source: &Source<'_>, file: &written::File, management: &Network, external: &Network) -> Result<Vec<Node>> {
    let mut used = Used::default();
    for (what, address) in [
        ("the management VIP", management.vip),
        ("the external VIP", external.vip),
        ("the management gateway", management.gateway),
        ("the external gateway", external.gateway),
    ] {
        if let Some(address) = address {
            used.addresses.insert(address, what.to_string());
        }
    }
    let mut nodes = Vec::with_capacity(file.node.len());
    for entry in &file.node {
        let (memory_mib, cores) = hardware(source, file, entry)?;
        nodes.push(Node { memory_mib, cores, ..used.node(source, entry, management, external)? });
    }
    let controllers: Vec<&Node> = nodes.iter().filter(|node| node.role == Role::Controller).collect();
    if controllers.len().is_multiple_of(2) {
        let line = controllers.last().map(|node| node.line);
        return Err(Error::new(format!(
            "the site has {} controllers, and an even number cannot form a safe majority",
            controllers.len()
        ))
        .at(source.file, line)
        .next("use 1, 3 or 5 nodes with role = \"controller\""));
    }
    Ok(nodes)
}

/// A node's memory in MiB and its cores: its own, its role's, or those of the guide's flavour c8m8.
fn hardware(source: &Source<'_>, file: &written::File, node: &written::Node) -> Result<(u64, u32)> {
    let role = file.hardware.get(node.role.get_ref());
    let memory = match node.memory.as_ref().or_else(|| role?.memory.as_ref()) {
        Some(written) => {
            let text = written.get_ref();
            let number = |unit: char, mib: u64| text.strip_suffix(unit)?.parse::<u64>().ok()?.checked_mul(mib);
            number('G', 1 << 10)
                .or_else(|| number('M', 1))
                .or_else(|| number('T', 1 << 20))
                .filter(|mib| *mib >= 1024)
                .ok_or_else(|| {
                    source
                        .error(&written.span(), format!("`{text}` is no amount of memory for a node"))
                        .next("write a whole number and its unit, at least \"1G\", such as \"64G\"")
                })?
        }
        None => 8192,
    };
    let cores = match node.cores.as_ref().or_else(|| role?.cores.as_ref()) {
        Some(written) if !(1..=1024).contains(written.get_ref()) => {
            return Err(source
                .error(&written.span(), format!("a node cannot have {} cores", written.get_ref()))
                .next("write 1 to 1024"));
        }
        Some(written) => *written.get_ref(),
        None => 8,
    };
    Ok((memory, cores))
}

/// What earlier nodes have taken, with the words for it.
#[derive(Default)]
struct Used {
    names: BTreeMap<String, usize>,
    addresses: BTreeMap<Ipv4Addr, String>,
    macs: BTreeMap<String, String>,
}

impl Used {
    fn node(&mut self, source: &Source<'_>, written: &written::Node, management: &Network, external: &Network) -> Result<Node> {
        let span = written.name.span();
        let line = source.line(&span);
        let name: NodeName = written.name.get_ref().parse().map_err(|error: Error| error.at(source.file, line))?;
        if let Some(first) = self.names.insert(name.to_string(), line) {
            return Err(source
                .error(&span, format!("the name {name} is used twice (first in line {first})"))
                .next("give each node its own name"));
        }
        Ok(Node {
            management: self.address(source, &name, &written.management, "management", management)?,
            external: match &written.external {
                Some(value) => Some(self.address(source, &name, value, "external", external)?),
                None => None,
            },
            mac: self.mac(source, &name, written.mac.as_ref())?,
            external_mac: self.mac(source, &name, written.external_mac.as_ref())?,
            serial: written.serial.as_ref().map(|serial| serial.get_ref().clone()),
            disk: written.disk.clone(),
            memory_mib: 0,
            cores: 0,
            role: *written.role.get_ref(),
            name,
            line,
        })
    }

    fn address(
        &mut self,
        source: &Source<'_>,
        name: &NodeName,
        value: &Spanned<String>,
        which: &str,
        network: &Network,
    ) -> Result<Ipv4Addr> {
        let address = address(source, value)?;
        if !network.subnet.has_host(address) {
            return Err(source
                .error(&value.span(), format!("{name}'s {which} address {address} is outside {}", network.subnet))
                .next(format!("use a host address of {}", network.subnet)));
        }
        let owner = format!("{name} ({which}, line {})", source.line(&value.span()));
        if let Some(first) = self.addresses.insert(address, owner) {
            return Err(source
                .error(&value.span(), format!("{name}'s {which} address {address} is already used by {first}"))
                .next("give each node its own address"));
        }
        Ok(address)
    }

    fn mac(&mut self, source: &Source<'_>, name: &NodeName, value: Option<&Spanned<String>>) -> Result<Option<String>> {
        let Some(value) = value else { return Ok(None) };
        let mac = value.get_ref().to_ascii_lowercase();
        let parts: Vec<&str> = mac.split(':').collect();
        let hex = |part: &&str| part.len() == 2 && part.bytes().all(|c| c.is_ascii_hexdigit());
        if parts.len() != 6 || !parts.iter().all(hex) {
            return Err(source
                .error(&value.span(), format!("`{mac}` is no MAC address"))
                .next("write six hexadecimal pairs, such as 52:54:00:b5:01:1f"));
        }
        if let Some(first) = self.macs.insert(mac.clone(), name.to_string()) {
            return Err(source
                .error(&value.span(), format!("the MAC address {mac} of {name} is already used by {first}"))
                .next("give each interface its own MAC address"));
        }
        Ok(Some(mac))
    }
}

fn address(source: &Source<'_>, value: &Spanned<String>) -> Result<Ipv4Addr> {
    value.get_ref().parse().map_err(|_| {
        source
            .error(&value.span(), format!("`{}` is no IPv4 address", value.get_ref()))
            .next("write four numbers from 0 to 255, such as 172.16.181.31")
    })
}

fn ntp_server(source: &Source<'_>, value: Spanned<String>) -> Result<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || ".:-".contains(c);
    if value.get_ref().is_empty() || !value.get_ref().chars().all(plain) {
        return Err(source
            .error(&value.span(), format!("`{}` is no time server", value.get_ref()))
            .next("write a host name or an address; options belong into the overlay's template"));
    }
    Ok(value.into_inner())
}

fn ssh_key(source: &Source<'_>, value: Spanned<String>) -> Result<String> {
    let key = value.get_ref();
    let kind = key.split_whitespace().next().unwrap_or_default();
    let known = ["ssh-ed25519", "ssh-rsa", "sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com"];
    if key.contains('\n')
        || key.split_whitespace().count() < 2
        || !(known.contains(&kind) || kind.starts_with("ecdsa-sha2-nistp"))
    {
        return Err(source
            .error(&value.span(), "this is no OpenSSH public key")
            .next("paste the one line of an id_….pub file, such as \"ssh-ed25519 AAAA… name\""));
    }
    Ok(value.into_inner())
}

fn urls(source: &Source<'_>, table: BTreeMap<Word, Spanned<String>>) -> Result<BTreeMap<Word, String>> {
    table
        .into_iter()
        .map(|(archive, url)| {
            let text = url.get_ref().trim_end_matches('/').to_string();
            let scheme = text.starts_with("http://") || text.starts_with("https://") || text.starts_with("file:///");
            if !scheme || text.contains(char::is_whitespace) {
                return Err(source.error(&url.span(), format!("`{text}` is no mirror")).next("write an http, https or file URL"));
            }
            Ok((archive, text))
        })
        .collect()
}
