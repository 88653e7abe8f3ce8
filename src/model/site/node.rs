//! The site's machines.

use super::fence::{self, Fence};
use super::interface::{Asked, Interface};
use super::{Network, Provider, words, written};
use crate::base::error::{Error, Result};
use crate::base::name::{NodeName, Role};
use crate::model::{Newlines, Source};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use toml::Spanned;

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
    /// The interface of the provider network, where the node has one: no address is on it.
    pub provider_interface: Option<String>,
    /// Its network devices.
    pub interfaces: Vec<Interface>,
    /// SMBIOS serial number: another way to recognise it.
    pub serial: Option<String>,
    /// Which disk is the system's.
    pub disk: Option<DiskHint>,
    /// Memory in MiB: what sizes of services are derived from.
    pub memory_mib: u64,
    /// Processor cores: what worker counts are derived from.
    pub cores: u32,
    /// What can switch it off, for the cluster manager.
    pub fence: Option<Fence>,
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

/// Every node, checked against the networks and against each other.
pub(super) fn read_all(
    source: &Source<'_>,
    file: &written::File,
    management: &Network,
    external: &Network,
    provider: &Provider,
) -> Result<Vec<Node>> {
    let mut used = Used { newlines: Newlines::of(source.text), ..Used::default() };
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
        let role = file.interfaces.get(entry.role.get_ref());
        nodes.push(Node { memory_mib, cores, ..used.node(source, entry, role, (management, external, provider))? });
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
    newlines: Newlines,
    names: BTreeMap<String, usize>,
    addresses: BTreeMap<Ipv4Addr, String>,
    macs: BTreeMap<String, String>,
}

impl Used {
    fn node(
        &mut self,
        source: &Source<'_>,
        written: &written::Node,
        role: Option<&written::Interfaces>,
        (management, external, provider): (&Network, &Network, &Provider),
    ) -> Result<Node> {
        let span = written.name.span();
        let line = self.newlines.line(&span);
        let name: NodeName = written.name.get_ref().parse().map_err(|error: Error| error.at(source.file, line))?;
        if let Some(first) = self.names.insert(name.to_string(), line) {
            return Err(source
                .error(&span, format!("the name {name} is used twice (first in line {first})"))
                .next("give each node its own name"));
        }
        let address = self.address(source, &name, &written.management, "management", management)?;
        let external_address = match &written.external {
            Some(value) => Some(self.address(source, &name, value, "external", external)?),
            None => None,
        };
        let mac = self.mac(source, &name, written.mac.as_ref())?;
        let external_mac = self.mac(source, &name, written.external_mac.as_ref())?;
        let provider_mac = self.mac(source, &name, written.provider_mac.as_ref())?;
        let mut member_macs = BTreeMap::new();
        for member in Asked::bonds(written, role).iter().flat_map(|bond| &bond.members) {
            if member.get_ref().contains(':') {
                // A blank machine may be recognised by an adapter that is in a bond later.
                let known = mac.clone().filter(|mac| mac.eq_ignore_ascii_case(member.get_ref()));
                let known = if known.is_some() { known } else { self.mac(source, &name, Some(member))? };
                member_macs.extend(known.map(|mac| (member.get_ref().clone(), mac)));
            }
        }
        let asked = Asked {
            source,
            node: written,
            role,
            name: &name,
            mac: mac.as_ref(),
            external_mac: external_mac.as_ref(),
            provider_mac: provider_mac.as_ref(),
            member_macs: &member_macs,
            management: (management, address),
            external: (external, external_address),
            provider,
        };
        let interfaces = asked.resolve()?;
        let provider_interface = interfaces.iter().find(|one| one.network == Some("provider")).map(|one| one.name.clone());
        Ok(Node {
            management: address,
            external: external_address,
            mac,
            external_mac,
            provider_interface,
            interfaces,
            serial: written.serial.as_ref().map(|serial| serial.get_ref().clone()),
            disk: written.disk.clone(),
            memory_mib: 0,
            cores: 0,
            fence: fence::read(source, &name, written)?,
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
        let address = words::address(source, value)?;
        if !network.subnet.has_host(address) {
            return Err(source
                .error(&value.span(), format!("{name}'s {which} address {address} is outside {}", network.subnet))
                .next(format!("use a host address of {}", network.subnet)));
        }
        let owner = format!("{name} ({which}, line {})", self.newlines.line(&value.span()));
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
