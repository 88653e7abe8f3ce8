//! Which node this machine is, told from its hardware.

use crate::base::error::{Error, Result};
use crate::base::fs::sorted_dir;
use crate::model::install::{Machine, NODE_ARGUMENT};
use std::path::Path;

/// Where the kernel lists network cards.
pub const NET: &str = "/sys/class/net";
/// Where the kernel shows what the firmware says of the machine.
pub const DMI: &str = "/sys/class/dmi/id";

/// What tells machines apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hardware {
    /// Network cards: the kernel's name, MAC address in lower case.
    pub cards: Vec<(String, String)>,
    /// Serial numbers and the UUID of SMBIOS.
    pub serials: Vec<String>,
}

impl Hardware {
    /// The machine's. `net` is [`NET`], `dmi` is [`DMI`].
    pub fn read(net: &Path, dmi: &Path) -> Self {
        let text = |path: &Path| {
            let text = std::fs::read_to_string(path).ok()?.trim().to_string();
            // What firmware has that nobody has filled in.
            let filler = ["", "0", "None", "Not Specified", "Default string", "To be filled by O.E.M.", "System Serial Number"];
            (!filler.contains(&text.as_str())).then_some(text)
        };
        let card = |path: &std::path::PathBuf| {
            // Only what has a device behind it: no bridges, no loopback.
            let mac = path.join("device").exists().then(|| text(&path.join("address"))).flatten()?;
            Some((path.file_name()?.to_str()?.to_string(), mac.to_ascii_lowercase()))
        };
        let fields = ["product_serial", "chassis_serial", "board_serial", "product_uuid"];
        Self {
            cards: sorted_dir(net).unwrap_or_default().iter().filter_map(card).collect(),
            serials: fields.iter().filter_map(|field| text(&dmi.join(field))).collect(),
        }
    }

    fn shown(&self) -> String {
        let cards = self.cards.iter().map(|(name, mac)| format!("\n  {name}: {mac}"));
        let serials = self.serials.iter().map(|serial| format!("\n  serial: {serial}"));
        let all: String = cards.chain(serials).collect();
        if all.is_empty() { "\n  nothing: no card has a driver, and SMBIOS has no number".to_string() } else { all }
    }
}

/// The machine of the site that this hardware is: by MAC address, then by serial number or UUID, or the one that somebody has named
/// on the kernel's command line.
///
/// # Errors
/// There is none, with what was looked at; or one that is named and does not exist.
pub fn find<'a>(machines: &'a [Machine], hardware: &Hardware, named: Option<&str>) -> Result<&'a Machine> {
    if let Some(name) = named {
        let found = machines.iter().find(|machine| machine.node == name);
        return found.ok_or_else(|| {
            Error::new(format!("{NODE_ARGUMENT}={name}: the site has no such node")).next("correct the kernel's command line")
        });
    }
    let has_card = |machine: &&Machine| machine.macs.iter().any(|mac| hardware.cards.iter().any(|(_, own)| own == mac));
    let has_serial = |machine: &&Machine| {
        let same = |serial: &String| hardware.serials.iter().any(|own| own.eq_ignore_ascii_case(serial));
        machine.serial.as_ref().is_some_and(same)
    };
    machines.iter().find(has_card).or_else(|| machines.iter().find(has_serial)).ok_or_else(|| {
        Error::new(format!("this machine is no node of the site; it has{}", hardware.shown()))
            .next("write its mac or serial into site.toml, and make the tree again")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(node: &str, mac: &str, serial: Option<&str>) -> Machine {
        Machine {
            node: node.into(),
            role: "controller".into(),
            macs: vec![mac.into()],
            serial: serial.map(str::to_string),
            address: ([172, 16, 0, 1].into(), 16),
            gateway: None,
            disk: None,
        }
    }

    fn site() -> Vec<Machine> {
        vec![
            machine("controller01", "52:54:00:00:00:01", Some("4c4c4544-0042")),
            machine("controller02", "52:54:00:00:00:02", None),
        ]
    }

    fn hardware(mac: &str, serial: &str) -> Hardware {
        Hardware { cards: vec![("eth0".into(), mac.into())], serials: vec![serial.into()] }
    }

    #[test]
    fn a_machine_is_known_by_its_card_and_else_by_its_number() {
        let name = |hardware: &Hardware| find(&site(), hardware, None).unwrap().node.clone();
        assert_eq!(name(&hardware("52:54:00:00:00:02", "x")), "controller02");
        assert_eq!(name(&hardware("52:54:00:00:00:03", "4C4C4544-0042")), "controller01");
        // A board that was moved into another machine: the card is what the switch sees.
        assert_eq!(name(&hardware("52:54:00:00:00:02", "4C4C4544-0042")), "controller02");
    }

    #[test]
    fn a_stranger_is_told_what_was_looked_at() {
        assert_eq!(
            find(&site(), &hardware("52:54:00:00:00:09", "S1"), None).unwrap_err().to_string(),
            "this machine is no node of the site; it has\n  eth0: 52:54:00:00:00:09\n  serial: S1\n  \
             next: write its mac or serial into site.toml, and make the tree again"
        );
    }

    #[test]
    fn a_name_on_the_command_line_is_somebodys_word() {
        assert_eq!(find(&site(), &Hardware::default(), Some("controller02")).unwrap().node, "controller02");
        assert_eq!(
            find(&site(), &Hardware::default(), Some("x")).unwrap_err().to_string(),
            "ostack.node=x: the site has no such node\n  next: correct the kernel's command line"
        );
    }

    #[test]
    fn what_firmware_has_not_filled_in_is_no_number() {
        let folder = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("net/eth0/address", "52:54:00:AA:00:01\n");
        put("net/eth0/device/vendor", "");
        put("net/lo/address", "00:00:00:00:00:00\n");
        put("dmi/product_serial", "To be filled by O.E.M.\n");
        put("dmi/product_uuid", "4c4c4544\n");
        assert_eq!(
            Hardware::read(&folder.path().join("net"), &folder.path().join("dmi")),
            Hardware { cards: vec![("eth0".into(), "52:54:00:aa:00:01".into())], serials: vec!["4c4c4544".into()] }
        );
    }
}
