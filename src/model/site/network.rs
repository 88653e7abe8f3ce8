//! The site's networks.

use super::{words, written};
use crate::base::error::{Error, Result};
use crate::base::name::Word;
use crate::model::Source;
use serde::Serialize;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;
use toml::Spanned;

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
    /// Its VLAN tag on the interfaces that carry it; without one it is untagged.
    pub vlan: Option<u16>,
}

/// The network of tenants' flat and tagged networks: Neutron's own, in which no node has an address.
#[derive(Debug, Clone, Serialize)]
pub struct Provider {
    /// What Neutron calls it; `provider` in the guide.
    pub name: Word,
    /// Maximum transmission unit in bytes.
    pub mtu: Option<u16>,
    /// Tags that tenants may take: `FIRST:LAST`, each from 1 to 4094.
    pub vlan_ranges: Vec<String>,
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

    pub(super) fn overlaps(&self, other: &Self) -> bool {
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

/// A network as written, checked, and the line in which its subnet stands.
pub(super) fn read(source: &Source<'_>, written: &written::Network) -> Result<(usize, Network)> {
    let span = written.subnet.span();
    let subnet: Subnet = written.subnet.get_ref().parse().map_err(|error: Error| error.at(source.file, source.line(&span)))?;
    let host = |what: &str, value: &Option<Spanned<String>>| -> Result<Option<Ipv4Addr>> {
        let Some(value) = value else { return Ok(None) };
        let address = words::address(source, value)?;
        if !subnet.has_host(address) {
            return Err(source
                .error(&value.span(), format!("the {what} {address} is outside its network {subnet}"))
                .next(format!("use a host address of {subnet}")));
        }
        Ok(Some(address))
    };
    let network = Network {
        subnet,
        vip: host("vip", &written.vip)?,
        gateway: host("gateway", &written.gateway)?,
        mtu: mtu(source, written.mtu.as_ref())?,
        vlan: vlan(source, written.vlan.as_ref())?,
    };
    Ok((source.line(&span), network))
}

/// The provider network as written, checked.
pub(super) fn provider(source: &Source<'_>, written: &written::Provider) -> Result<Provider> {
    let tag = |text: &str| text.parse::<u16>().ok().filter(|tag| (1..=4094).contains(tag));
    for range in &written.vlan_ranges {
        let rising = range
            .get_ref()
            .split_once(':')
            .is_some_and(|(first, last)| tag(first).zip(tag(last)).is_some_and(|(first, last)| first <= last));
        if !rising {
            return Err(source
                .error(&range.span(), format!("`{}` is no range of VLAN tags", range.get_ref()))
                .next("write FIRST:LAST, each from 1 to 4094, such as \"1000:1999\""));
        }
    }
    Ok(Provider {
        name: written.name.clone().map_or_else(|| "provider".parse(), Ok)?,
        mtu: mtu(source, written.mtu.as_ref())?,
        vlan_ranges: written.vlan_ranges.iter().map(|range| range.get_ref().clone()).collect(),
    })
}

fn mtu(source: &Source<'_>, written: Option<&Spanned<u16>>) -> Result<Option<u16>> {
    match written {
        // What IPv6 needs at least, and what adapters can at most.
        Some(mtu) if !(1280..=9216).contains(mtu.get_ref()) => {
            Err(source.error(&mtu.span(), format!("the mtu {} is out of range", mtu.get_ref())).next("use 1280 to 9216"))
        }
        written => Ok(written.map(|mtu| *mtu.get_ref())),
    }
}

fn vlan(source: &Source<'_>, written: Option<&Spanned<u16>>) -> Result<Option<u16>> {
    match written {
        Some(vlan) if !(1..=4094).contains(vlan.get_ref()) => {
            Err(source.error(&vlan.span(), format!("{} is no VLAN tag", vlan.get_ref())).next("use 1 to 4094"))
        }
        written => Ok(written.map(|vlan| *vlan.get_ref())),
    }
}
