//! A node's interfaces: from what the site says of adapters, bonds and tags to devices with names.
//!
//! In: the node, what its role's `[interfaces]` says where the node itself says nothing, and the networks. Out: every device
//! that must be there, each with its name, what it stands on and what it carries. No interface carries two untagged
//! networks, no bond lends its adapters to something else, names are the kernel's.
//!
//! An adapter is known by its MAC address and then gets a name of ours (`mgmt`, `ext`, `provider`, `bond0p1`), or by the name
//! that udev gives it and keeps that. A tag becomes a device `PARENT.TAG`, which is what CentOS' scripts understand, too.

use super::{Network, Provider, written};
use crate::base::error::Result;
use crate::base::name::NodeName;
use crate::model::Source;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::ops::Range;
use toml::Spanned;

/// A network device of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Interface {
    /// The kernel's name for it; empty where its kind is `unknown`.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// The MAC address by which an adapter is recognised; without one it is by its name.
    pub mac: Option<String>,
    /// The bond that an adapter belongs to.
    pub bond: Option<String>,
    /// What a bond is made of, and how.
    pub bonding: Option<Bonding>,
    /// The device that a tagged one stands on.
    pub parent: Option<String>,
    /// Its tag.
    pub tag: Option<u16>,
    /// The tagged devices that stand on this one.
    pub tagged: Vec<String>,
    /// The site's network that it carries: `management`, `external` or `provider`.
    pub network: Option<&'static str>,
    /// The node's address in that network.
    pub address: Option<Ipv4Addr>,
    /// Maximum transmission unit in bytes: the network's, or the greatest of those that stand on it.
    pub mtu: Option<u16>,
}

/// What a device is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A network adapter.
    #[default]
    Card,
    /// Several adapters as one.
    Bond,
    /// A tagged network on another device.
    Vlan,
    /// Nothing says which adapter leads to the network. An overlay that sets up networks refuses it.
    Unknown,
}

/// How adapters act as one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bonding {
    /// Who sends what.
    pub mode: Mode,
    /// How often the switch is asked, with LACP.
    pub lacp_rate: Option<LacpRate>,
    /// What decides which adapter a packet takes, in modes that spread them by a hash.
    pub hash: Option<Hash>,
    /// The adapter that is used while it works, in modes that use one.
    pub primary: Option<String>,
    /// Names of the adapters.
    pub members: Vec<String>,
}

/// The kernel's modes of bonding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
pub enum Mode {
    /// One adapter at a time; needs nothing of the switch.
    #[serde(rename = "active-backup")]
    ActiveBackup,
    /// LACP.
    #[serde(rename = "802.3ad")]
    Lacp,
    /// By a hash, without LACP.
    #[serde(rename = "balance-xor")]
    Xor,
    /// One packet after the other.
    #[serde(rename = "balance-rr")]
    RoundRobin,
    /// Sending spread by load.
    #[serde(rename = "balance-tlb")]
    SendingLoad,
    /// Sending and receiving spread by load.
    #[serde(rename = "balance-alb")]
    Load,
}

impl Mode {
    fn hashes(self) -> bool {
        matches!(self, Self::Lacp | Self::Xor)
    }

    fn has_primary(self) -> bool {
        matches!(self, Self::ActiveBackup | Self::SendingLoad | Self::Load)
    }
}

/// How often a switch with LACP tells that it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LacpRate {
    /// Every 30 s.
    Slow,
    /// Every second.
    Fast,
}

/// What decides which adapter of a bond a packet takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
pub enum Hash {
    /// MAC addresses: all that goes to one peer takes one adapter.
    #[serde(rename = "layer2")]
    Macs,
    /// MAC and IP addresses.
    #[serde(rename = "layer2+3")]
    Addresses,
    /// IP addresses and ports: the connections to one peer are spread.
    #[serde(rename = "layer3+4")]
    Connections,
}

/// What a device has that nothing else is said of, in bytes.
const ETHERNET_MTU: u16 = 1500;

/// What a node's interfaces follow from.
pub(super) struct Asked<'a> {
    pub(super) source: &'a Source<'a>,
    pub(super) node: &'a written::Node,
    pub(super) role: Option<&'a written::Interfaces>,
    pub(super) name: &'a NodeName,
    pub(super) mac: Option<&'a String>,
    pub(super) external_mac: Option<&'a String>,
    pub(super) provider_mac: Option<&'a String>,
    /// Those of the node's bonds, by their text in the file: checked already.
    pub(super) member_macs: &'a BTreeMap<String, String>,
    pub(super) management: (&'a Network, Ipv4Addr),
    pub(super) external: (&'a Network, Option<Ipv4Addr>),
    pub(super) provider: &'a Provider,
}

/// What one network wants of a node.
struct Wanted<'a> {
    network: &'static str,
    short: &'static str,
    key: &'static str,
    named: Option<&'a Spanned<String>>,
    mac: Option<(&'a String, Range<usize>)>,
    tag: Option<u16>,
    mtu: Option<u16>,
    address: Option<Ipv4Addr>,
}

impl<'a> Asked<'a> {
    /// The bonds: the node's own, else its role's.
    pub(super) fn bonds(node: &'a written::Node, role: Option<&'a written::Interfaces>) -> &'a [written::Bond] {
        node.bonds.as_deref().or_else(|| role?.bonds.as_deref()).unwrap_or_default()
    }

    /// All devices.
    ///
    /// # Errors
    /// With file and line: a contradiction, or a name that the kernel would not take.
    pub(super) fn resolve(&self) -> Result<Vec<Interface>> {
        let mut all = Vec::new();
        for bond in Self::bonds(self.node, self.role) {
            self.bond(bond, &mut all)?;
        }
        let role = self.role;
        let mac = |mac: Option<&'a String>, written: &Option<Spanned<String>>| Some((mac?, written.as_ref()?.span()));
        let wanted = [
            Wanted {
                network: "management",
                short: "mgmt",
                key: "management_interface",
                named: self.node.management_interface.as_ref().or_else(|| role?.management.as_ref()),
                mac: mac(self.mac, &self.node.mac),
                tag: self.management.0.vlan,
                mtu: self.management.0.mtu,
                address: Some(self.management.1),
            },
            Wanted {
                network: "external",
                short: "ext",
                key: "external_interface",
                named: self.node.external_interface.as_ref().or_else(|| role?.external.as_ref()),
                mac: mac(self.external_mac, &self.node.external_mac),
                tag: self.external.0.vlan,
                mtu: self.external.0.mtu,
                address: self.external.1,
            },
            Wanted {
                network: "provider",
                short: "provider",
                key: "provider_interface",
                named: self.node.provider_interface.as_ref().or_else(|| role?.provider.as_ref()),
                mac: mac(self.provider_mac, &self.node.provider_mac),
                tag: None,
                mtu: self.provider.mtu,
                address: None,
            },
        ];
        for one in wanted {
            self.network(&one, &mut all)?;
        }
        self.lift_mtu(&mut all)?;
        Ok(all)
    }

    fn bond(&self, written: &written::Bond, all: &mut Vec<Interface>) -> Result<()> {
        let error = |span: &Range<usize>, cause: String| self.source.error(span, cause);
        let span = written.name.span();
        let name = self.new_name(written.name.get_ref().clone(), &span, all)?;
        let mode = *written.mode.get_ref();
        if written.members.is_empty() {
            return Err(error(&span, format!("the bond {name} of {} has no members", self.name))
                .next("write members = [\"…\"]: MAC addresses, or names as udev gives them"));
        }
        if let Some(rate) = written.lacp_rate.as_ref().filter(|_| mode != Mode::Lacp) {
            return Err(error(&rate.span(), format!("the bond {name} of {} has a lacp_rate without LACP", self.name))
                .next("write mode = \"802.3ad\", or remove lacp_rate"));
        }
        if let Some(hash) = written.hash.as_ref().filter(|_| !mode.hashes()) {
            return Err(error(&hash.span(), format!("the mode of the bond {name} of {} uses no hash", self.name))
                .next("write mode = \"802.3ad\" or \"balance-xor\", or remove hash"));
        }
        if let Some(primary) = &written.primary {
            if !mode.has_primary() {
                return Err(error(&primary.span(), format!("the mode of the bond {name} of {} uses all members", self.name))
                    .next("write mode = \"active-backup\", or remove primary"));
            }
            if !written.members.iter().any(|member| member.get_ref() == primary.get_ref()) {
                return Err(error(&primary.span(), format!("`{}` is no member of the bond {name}", primary.get_ref()))
                    .next("write one of its members"));
            }
        }
        let mut bonding = Bonding {
            mode,
            // Whether the partner is still there is known after 3 s instead of 90.
            lacp_rate: (mode == Mode::Lacp).then(|| written.lacp_rate.as_ref().map_or(LacpRate::Fast, |rate| *rate.get_ref())),
            // A storage node has few peers: by their MAC addresses most adapters would idle.
            hash: mode.hashes().then(|| written.hash.as_ref().map_or(Hash::Connections, |hash| *hash.get_ref())),
            primary: None,
            members: Vec::new(),
        };
        let mut cards = Vec::new();
        for (index, member) in written.members.iter().enumerate() {
            let text = member.get_ref();
            let mac = self.member_macs.get(text).cloned();
            let card = if mac.is_some() { format!("{name}p{}", index + 1) } else { text.clone() };
            let card = self.new_name(card, &member.span(), all)?;
            if written.primary.as_ref().is_some_and(|primary| primary.get_ref() == text) {
                bonding.primary = Some(card.clone());
            }
            if bonding.members.contains(&card) || card == name {
                return Err(error(&member.span(), format!("`{text}` is in the bond {name} of {} twice", self.name))
                    .next("name each member once"));
            }
            bonding.members.push(card.clone());
            cards.push(Interface { name: card, mac, bond: Some(name.clone()), ..Interface::default() });
        }
        all.push(Interface { name, kind: Kind::Bond, bonding: Some(bonding), ..Interface::default() });
        all.extend(cards);
        Ok(())
    }

    /// Puts a network where the site wants it.
    fn network(&self, wanted: &Wanted<'_>, all: &mut Vec<Interface>) -> Result<()> {
        let (name, key) = (self.name, wanted.key);
        let (span, card) = match (wanted.named, &wanted.mac) {
            (Some(named), _) => (named.span(), Interface { name: named.get_ref().clone(), ..Interface::default() }),
            (None, Some((mac, span))) => {
                if let Some(member) = all.iter().find(|one| one.mac.as_ref() == Some(*mac)) {
                    let bond = member.bond.clone().unwrap_or_default();
                    return Err(self
                        .source
                        .error(span, format!("the {} interface of {name} is in the bond {bond}", wanted.network))
                        .next(format!("write {key} = \"{bond}\" beside it, or another adapter's address")));
                }
                (span.clone(), Interface { name: wanted.short.to_string(), mac: Some((*mac).clone()), ..Interface::default() })
            }
            (None, None) => {
                if wanted.address.is_some() {
                    let (network, address) = (Some(wanted.network), wanted.address);
                    all.push(Interface { kind: Kind::Unknown, network, address, ..Interface::default() });
                }
                return Ok(());
            }
        };
        let at = match all.iter().position(|one| !one.name.is_empty() && one.name == card.name) {
            Some(at) => at,
            None => {
                self.new_name(card.name.clone(), &span, all)?;
                all.push(card);
                all.len() - 1
            }
        };
        let below = all[at].name.clone();
        if let Some(bond) = &all[at].bond {
            return Err(self
                .source
                .error(&span, format!("{below}, the {} interface of {name}, is in the bond {bond}", wanted.network))
                .next(format!("write {key} = \"{bond}\", or take {below} out of the bond")));
        }
        let Some(tag) = wanted.tag else {
            if let Some(other) = all[at].network {
                return Err(self
                    .source
                    .error(
                        &span,
                        format!("{below} of {name} would carry the {other} and the {} network untagged", wanted.network),
                    )
                    .next(format!("give the {} network another interface, or one of the two a vlan", wanted.network)));
            }
            let one = &mut all[at];
            (one.network, one.address, one.mtu) = (Some(wanted.network), wanted.address, wanted.mtu);
            return Ok(());
        };
        if let Some(other) = all.iter().find(|one| one.parent.as_ref() == Some(&below) && one.tag == Some(tag)) {
            let other = other.network.unwrap_or_default();
            return Err(self
                .source
                .error(
                    &span,
                    format!("{below} of {name} would carry the {other} and the {} network with the tag {tag}", wanted.network),
                )
                .next(format!("give the {} network another interface or another vlan", wanted.network)));
        }
        let tagged = self.new_name(format!("{below}.{tag}"), &span, all)?;
        all[at].tagged.push(tagged.clone());
        all.push(Interface {
            name: tagged,
            kind: Kind::Vlan,
            parent: Some(below),
            tag: Some(tag),
            network: Some(wanted.network),
            address: wanted.address,
            mtu: wanted.mtu,
            ..Interface::default()
        });
        Ok(())
    }

    /// A name that the kernel takes and that no other device of the node has.
    fn new_name(&self, name: String, span: &Range<usize>, all: &[Interface]) -> Result<String> {
        let plain = |c: u8| c.is_ascii_alphanumeric() || b"._-".contains(&c);
        if !(1..=15).contains(&name.len()) || !name.bytes().all(plain) || name == "." || name == ".." {
            return Err(self
                .source
                .error(span, format!("`{name}` is no name of an interface"))
                .next("write at most 15 letters, digits, dots, dashes and underscores, such as eno1"));
        }
        if all.iter().any(|one| one.name == name) {
            return Err(self
                .source
                .error(span, format!("{} has two interfaces {name}", self.name))
                .next("give each its own name, and each adapter to one bond"));
        }
        Ok(name)
    }

    /// Gives devices below others their greatest MTU: a packet goes through both. What was to keep a smaller one then says so.
    fn lift_mtu(&self, all: &mut [Interface]) -> Result<()> {
        let greatest = |below: &Interface, all: &[Interface]| -> Option<u16> {
            all.iter().filter(|one| one.parent.as_ref() == Some(&below.name)).filter_map(|one| one.mtu).max()
        };
        for index in 0..all.len() {
            let Some(mtu) = greatest(&all[index], all) else { continue };
            let one = &all[index];
            if one.address.is_some() && one.mtu.unwrap_or(ETHERNET_MTU) < mtu {
                let network = one.network.unwrap_or_default();
                return Err(self
                    .source
                    .error(
                        &self.node.name.span(),
                        format!(
                            "{} of {} carries the {network} network untagged, below a tagged one with mtu {mtu}",
                            one.name, self.name
                        ),
                    )
                    .next(format!("write a vlan for the {network} network, or the same mtu")));
            }
            let name = one.name.clone();
            all[index].mtu = all[index].mtu.max(Some(mtu));
            for above in all.iter_mut().filter(|one| one.parent.as_ref() == Some(&name)) {
                above.mtu = above.mtu.or(Some(ETHERNET_MTU));
            }
        }
        let bonds = all.iter().filter(|one| one.kind == Kind::Bond).map(|one| (one.name.clone(), one.mtu));
        for (bond, mtu) in bonds.collect::<Vec<_>>() {
            for one in all.iter_mut().filter(|one| one.bond.as_ref() == Some(&bond)) {
                one.mtu = mtu;
            }
        }
        Ok(())
    }
}
