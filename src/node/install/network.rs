//! One card up with one address: all the network that an installer needs.
//!
//! The address is the one that the boot loader had (`ip=ADDRESS::GATEWAY:NETMASK`, as the kernel's own `nfsroot.rst` has it), and
//! otherwise the node's own of the site. Either way nobody has to answer by DHCP a second time.

use super::who::Hardware;
use crate::base::error::{Context, Error, Result};
use crate::model::install::Machine;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a cable may take to be there: a switch that looks for loops first needs half a minute.
const CARRIER: Duration = Duration::from_secs(45);

/// An address on a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    card: String,
    address: Ipv4Addr,
    prefix: u8,
    gateway: Option<Ipv4Addr>,
}

/// What card and address to use.
///
/// # Errors
/// The machine has no card, or `ip=` is wrong.
pub fn setting(machine: &Machine, hardware: &Hardware, ip: Option<&str>, bootif: Option<&str>) -> Result<Setting> {
    // pxelinux writes the hardware type first, and dashes.
    let booted = bootif.map(|mac| {
        let mac = mac.to_ascii_lowercase().replace('-', ":");
        mac.strip_prefix("01:").filter(|rest| rest.len() == 17).map_or(mac.clone(), str::to_string)
    });
    let by_mac = |mac: &String| hardware.cards.iter().find(|(_, own)| own == mac);
    let card = booted.iter().chain(&machine.macs).find_map(by_mac).or(hardware.cards.first());
    let (card, _) = card.ok_or_else(|| {
        Error::new("the machine has no network card that a driver knows").next("look whether the initrd has the card's driver")
    })?;
    let own = (machine.address.0, machine.address.1, machine.gateway);
    let (address, prefix, gateway) = ip.map_or(Ok(own), parse)?;
    Ok(Setting { card: card.clone(), address, prefix, gateway })
}

/// `ADDRESS:SERVER:GATEWAY:NETMASK…`
fn parse(ip: &str) -> Result<(Ipv4Addr, u8, Option<Ipv4Addr>)> {
    let wrong = || {
        Error::new(format!("`ip={ip}` is no address"))
            .next("write ip=ADDRESS::GATEWAY:NETMASK, or leave it out for the node's own")
    };
    let fields: Vec<&str> = ip.split(':').collect();
    let [address, _, gateway, netmask, ..] = fields[..] else { return Err(wrong()) };
    let bits = u32::from(netmask.parse::<Ipv4Addr>().map_err(|_| wrong())?);
    let prefix = bits.leading_ones();
    if bits.checked_shl(prefix).unwrap_or(0) != 0 {
        return Err(wrong());
    }
    let gateway = match gateway {
        "" | "0.0.0.0" => None,
        gateway => Some(gateway.parse().map_err(|_| wrong())?),
    };
    Ok((address.parse().map_err(|_| wrong())?, prefix as u8, gateway))
}

impl Setting {
    /// For people: `eth0, 172.16.181.31/16`.
    pub fn shown(&self) -> String {
        format!("{}, {}/{}", self.card, self.address, self.prefix)
    }

    /// Brings the card up and waits for its cable.
    ///
    /// # Errors
    /// The kernel refuses, or there is no carrier.
    pub fn apply(&self) -> Result<()> {
        use rustix::net::{AddressFamily, SocketType, socket};
        let what = || format!("bringing up {}", self.card);
        let socket = socket(AddressFamily::INET, SocketType::DGRAM, None).doing(what)?;
        let flags = libc::IFF_UP as libc::c_short;
        for card in ["lo", &self.card] {
            set(&socket, libc::SIOCSIFFLAGS, &request(card, libc::__c_anonymous_ifr_ifru { ifru_flags: flags })).doing(what)?;
        }
        let netmask = Ipv4Addr::from(u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0));
        for (number, address) in [(libc::SIOCSIFADDR, self.address), (libc::SIOCSIFNETMASK, netmask)] {
            let ifru = libc::__c_anonymous_ifr_ifru { ifru_addr: sockaddr(address) };
            set(&socket, number, &request(&self.card, ifru)).doing(what)?;
        }
        if let Some(gateway) = self.gateway {
            // SAFETY: all zeros are a valid `rtentry`.
            let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
            route.rt_dst = sockaddr(Ipv4Addr::UNSPECIFIED);
            route.rt_genmask = sockaddr(Ipv4Addr::UNSPECIFIED);
            route.rt_gateway = sockaddr(gateway);
            route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
            match set(&socket, libc::SIOCADDRT, &route) {
                // A second attempt finds the first one's.
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
                result => result.doing(what)?,
            }
        }
        self.wait_for_carrier()
    }

    fn wait_for_carrier(&self) -> Result<()> {
        let carrier = Path::new(super::who::NET).join(&self.card).join("carrier");
        let begin = Instant::now();
        while std::fs::read_to_string(&carrier).unwrap_or_default().trim() != "1" {
            if begin.elapsed() > CARRIER {
                return Err(Error::new(format!("{} has no carrier after {} s", self.card, CARRIER.as_secs()))
                    .next("look at the cable and at the switch's port"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

fn set<T>(socket: &OwnedFd, number: libc::Ioctl, argument: &T) -> std::io::Result<()> {
    // SAFETY: the kernel only reads the argument, which is the structure that this request takes (netdevice(7)).
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), number, std::ptr::from_ref(argument)) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

fn request(card: &str, ifru: libc::__c_anonymous_ifr_ifru) -> libc::ifreq {
    let mut name = [0; libc::IFNAMSIZ];
    for (to, from) in name[..libc::IFNAMSIZ - 1].iter_mut().zip(card.bytes()) {
        *to = from as libc::c_char;
    }
    libc::ifreq { ifr_name: name, ifr_ifru: ifru }
}

fn sockaddr(address: Ipv4Addr) -> libc::sockaddr {
    // struct sockaddr_in: two bytes of port, four of address.
    let mut data = [0; 14];
    for (to, from) in data[2..6].iter_mut().zip(address.octets()) {
        *to = from as libc::c_char;
    }
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: data }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            node: "controller01".into(),
            role: "controller".into(),
            macs: vec!["52:54:00:00:00:02".into()],
            serial: None,
            address: ([172, 16, 181, 31].into(), 16),
            gateway: None,
            disk: None,
        }
    }

    fn shown(cards: &[(&str, &str)], ip: Option<&str>, bootif: Option<&str>) -> String {
        let cards = cards.iter().map(|(name, mac)| ((*name).to_string(), (*mac).to_string())).collect();
        let hardware = Hardware { cards, serials: Vec::new() };
        match setting(&machine(), &hardware, ip, bootif) {
            Ok(setting) => format!("{} via {:?}", setting.shown(), setting.gateway.map(|gateway| gateway.to_string())),
            Err(error) => error.to_string(),
        }
    }

    const CARDS: [(&str, &str); 3] =
        [("eth0", "52:54:00:00:00:01"), ("eth1", "52:54:00:00:00:02"), ("eth2", "52:54:00:00:00:03")];

    #[test]
    fn the_card_is_the_one_that_the_loader_used_or_the_nodes_or_the_first() {
        assert_eq!(shown(&CARDS, None, Some("01-52-54-00-00-00-03")), "eth2, 172.16.181.31/16 via None");
        assert_eq!(shown(&CARDS, None, Some("52:54:00:00:00:03")), "eth2, 172.16.181.31/16 via None");
        assert_eq!(shown(&CARDS, None, None), "eth1, 172.16.181.31/16 via None");
        assert_eq!(shown(&CARDS[..1], None, None), "eth0, 172.16.181.31/16 via None");
        assert_eq!(
            shown(&[], None, None),
            "the machine has no network card that a driver knows\n  next: look whether the initrd has the card's driver"
        );
    }

    #[test]
    fn the_address_is_the_loaders_if_it_gave_one() {
        let ip = |ip: &str| shown(&CARDS, Some(ip), None);
        assert_eq!(ip("10.0.0.9::10.0.0.1:255.255.255.0"), "eth1, 10.0.0.9/24 via Some(\"10.0.0.1\")");
        assert_eq!(ip("10.0.0.9:10.0.0.2::255.255.255.0:host:eth0:off"), "eth1, 10.0.0.9/24 via None");
        for wrong in ["dhcp", "10.0.0.9", "10.0.0.9:::255.0.255.0", "x:::255.0.0.0"] {
            assert_eq!(
                ip(wrong),
                format!(
                    "`ip={wrong}` is no address\n  \
                     next: write ip=ADDRESS::GATEWAY:NETMASK, or leave it out for the node's own"
                )
            );
        }
    }
}
