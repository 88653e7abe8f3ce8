//! The file as written: every value still knows where it stands.

use super::interface::{Hash, LacpRate, Mode};
use super::provision::Dhcp;
use super::{DiskHint, Parameters, Role, Word};
use serde::Deserialize;
use std::collections::BTreeMap;
use toml::Spanned;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) site: SiteTable,
    #[serde(default)]
    pub(super) options: BTreeMap<Word, toml::Value>,
    #[serde(default)]
    pub(super) hardware: BTreeMap<Role, Hardware>,
    #[serde(default)]
    pub(super) interfaces: BTreeMap<Role, Interfaces>,
    pub(super) network: Networks,
    pub(super) provision: Option<Provision>,
    #[serde(default)]
    pub(super) dns: Servers,
    #[serde(default)]
    pub(super) ntp: Servers,
    #[serde(default)]
    pub(super) ssh: Ssh,
    #[serde(default)]
    pub(super) mirror: BTreeMap<Word, Spanned<String>>,
    #[serde(default)]
    pub(super) snapshot: BTreeMap<Word, Spanned<String>>,
    #[serde(default)]
    pub(super) trust: BTreeMap<Word, Vec<String>>,
    #[serde(default)]
    pub(super) parameters: BTreeMap<Word, Parameters>,
    #[serde(default)]
    pub(super) node: Vec<Node>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SiteTable {
    pub(super) name: Word,
    pub(super) release: Word,
    pub(super) region: String,
    pub(super) time_zone: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Networks {
    pub(super) management: Network,
    pub(super) external: Network,
    #[serde(default)]
    pub(super) provider: Provider,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Network {
    pub(super) subnet: Spanned<String>,
    pub(super) vip: Option<Spanned<String>>,
    pub(super) gateway: Option<Spanned<String>>,
    pub(super) mtu: Option<Spanned<u16>>,
    pub(super) vlan: Option<Spanned<u16>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Provider {
    pub(super) name: Option<Word>,
    pub(super) mtu: Option<Spanned<u16>>,
    #[serde(default)]
    pub(super) vlan_ranges: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Provision {
    pub(super) server: Spanned<String>,
    pub(super) port: Option<Spanned<u16>>,
    pub(super) secure_port: Option<Spanned<u16>>,
    pub(super) dhcp: Option<Dhcp>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Servers {
    #[serde(default)]
    pub(super) servers: Vec<Spanned<String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Ssh {
    #[serde(default)]
    pub(super) authorized_keys: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Node {
    pub(super) name: Spanned<String>,
    pub(super) role: Spanned<Role>,
    pub(super) management: Spanned<String>,
    pub(super) external: Option<Spanned<String>>,
    pub(super) mac: Option<Spanned<String>>,
    pub(super) external_mac: Option<Spanned<String>>,
    pub(super) provider_mac: Option<Spanned<String>>,
    pub(super) management_interface: Option<Spanned<String>>,
    pub(super) external_interface: Option<Spanned<String>>,
    pub(super) provider_interface: Option<Spanned<String>>,
    pub(super) bonds: Option<Vec<Bond>>,
    pub(super) serial: Option<Spanned<String>>,
    pub(super) disk: Option<DiskHint>,
    pub(super) memory: Option<Spanned<String>>,
    pub(super) cores: Option<Spanned<u32>>,
    pub(super) fence: Option<Spanned<BTreeMap<String, String>>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Hardware {
    pub(super) memory: Option<Spanned<String>>,
    pub(super) cores: Option<Spanned<u32>>,
}

/// What a role's nodes have where they say nothing themselves.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Interfaces {
    pub(super) management: Option<Spanned<String>>,
    pub(super) external: Option<Spanned<String>>,
    pub(super) provider: Option<Spanned<String>>,
    pub(super) bonds: Option<Vec<Bond>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bond {
    pub(super) name: Spanned<String>,
    pub(super) mode: Spanned<Mode>,
    pub(super) members: Vec<Spanned<String>>,
    pub(super) lacp_rate: Option<Spanned<LacpRate>>,
    pub(super) hash: Option<Spanned<Hash>>,
    pub(super) primary: Option<Spanned<String>>,
}
