//! Who gives blank machines their system.

use super::{Network, Node, words, written};
use crate::base::error::Result;
use crate::model::Source;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;
use toml::Spanned;

/// The port of the tree: unprivileged, so that no root is needed to serve it.
const PORT: u16 = 8080;
/// The port of what is secret.
const SECURE_PORT: u16 = 8443;

/// The machine that provisions the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Provision {
    /// Its address in the management network.
    pub server: Ipv4Addr,
    /// The port of HTTP.
    pub port: u16,
    /// The port of HTTPS, where seeds are given out.
    pub secure_port: u16,
    /// Who answers by DHCP.
    pub dhcp: Dhcp,
}

/// Who gives addresses to machines that start by network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dhcp {
    /// This server, and each machine gets its node's own address.
    #[default]
    Own,
    /// The network's DHCP server; this one only says beside it what to start.
    Proxy,
}

/// Reads the table.
///
/// # Errors
/// The address is outside the management network or somebody else's, or both ports are one.
pub(super) fn read(source: &Source<'_>, written: written::Provision, management: &Network, nodes: &[Node]) -> Result<Provision> {
    let server = words::address(source, &written.server)?;
    let wrong = |why: String| source.error(&written.server.span(), format!("the provisioning server {server} {why}"));
    if !management.subnet.has_host(server) {
        return Err(wrong(format!("is outside the management network {}", management.subnet))
            .next(format!("use a host address of {}", management.subnet)));
    }
    let owner = nodes.iter().find(|node| node.management == server).map(|node| node.name.as_str());
    let owner = owner.or_else(|| (management.vip == Some(server)).then_some("the VIP"));
    if let Some(owner) = owner {
        return Err(wrong(format!("has the address of {owner}")).next("give it an address of its own"));
    }
    let port = |written: &Option<Spanned<u16>>, usual| written.as_ref().map_or(usual, |port| *port.get_ref());
    let (plain, secure) = (port(&written.port, PORT), port(&written.secure_port, SECURE_PORT));
    if plain == secure {
        return Err(wrong(format!("has the port {plain} twice")).next("give port and secure_port different numbers"));
    }
    Ok(Provision { server, port: plain, secure_port: secure, dhcp: written.dhcp.unwrap_or_default() })
}
