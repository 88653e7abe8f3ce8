//! The lab's cables: a bridge for each network, and from each interface of a node a veth to its bridge; a virtual machine's
//! interfaces are taps on it.
//!
//! Bridges are in the holder's network namespace, which has no other interface: nothing that a node sends leaves it.

use super::machine::Machine;
use crate::base::error::{Context, Result};
use crate::base::tool::Tool;
use std::path::Path;

/// Where `ip netns` keeps the names of namespaces.
const NAMES: &str = "/run/netns";

/// The namespace of a node, as a path.
pub fn namespace(node: &str) -> String {
    format!("{NAMES}/{node}")
}

/// Makes the bridges that the node's cables need and are not there yet, its namespace, and its cables; a virtual machine needs
/// no namespace.
///
/// # Errors
/// `ip` is missing or refuses.
pub fn plug(machine: &Machine) -> Result<()> {
    let node = machine.node.as_str();
    unplug(machine)?;
    let mut lines = Vec::new();
    for interface in &machine.interfaces {
        let bridge = &interface.bridge;
        let add = format!("link add {bridge} type bridge stp_state 0 forward_delay 0");
        if !made(bridge)? && !lines.contains(&add) {
            lines.extend([add, format!("link set {bridge} up")]);
        }
    }
    if machine.vm.is_none() {
        lines.push(format!("netns add {node}"));
    }
    for (number, interface) in machine.interfaces.iter().enumerate() {
        let end = end(machine, number);
        let mac = interface.mac.as_ref().map(|mac| format!("address {mac} ")).unwrap_or_default();
        lines.push(match machine.vm {
            // QEMU gives its card the address.
            Some(_) => format!("tuntap add dev {end} mode tap"),
            None => format!("link add {end} type veth peer name {} {mac}netns {node}", interface.name),
        });
        lines.push(format!("link set {end} master {} up", interface.bridge));
    }
    ip(&lines).doing(|| format!("plugging the cables of {node}"))
}

/// Takes a node's namespace and its cables away; what is not there is well.
///
/// # Errors
/// `ip` is missing or refuses.
pub fn unplug(machine: &Machine) -> Result<()> {
    let mut lines = Vec::new();
    // The kernel takes cables away with the namespace, but when it likes: the names must be free at once.
    for number in 0..machine.interfaces.len() {
        if made(&end(machine, number))? {
            lines.push(format!("link delete {}", end(machine, number)));
        }
    }
    if Path::new(&namespace(machine.node.as_str())).exists() {
        lines.push(format!("netns delete {}", machine.node));
    }
    ip(&lines).doing(|| format!("unplugging {}", machine.node))
}

/// Lets a node's cables carry nothing, or carry again.
///
/// # Errors
/// `ip` is missing or refuses.
pub fn carry(machine: &Machine, on: bool) -> Result<()> {
    let state = if on { "up" } else { "down" };
    let lines: Vec<String> =
        (0..machine.interfaces.len()).map(|number| format!("link set {} {state}", end(machine, number))).collect();
    ip(&lines).doing(|| format!("cutting the cables of {}", machine.node))
}

/// The bridge's end of a node's cable. Names of interfaces have 15 characters at most.
pub fn end(machine: &Machine, number: usize) -> String {
    format!("lab{}-{number}", machine.place)
}

/// Whether there is such an interface.
fn made(name: &str) -> Result<bool> {
    // Not by /sys: that of this mount namespace shows the network namespace in which it was mounted.
    Ok(Tool::new("ip")
        .package("iproute2")
        .args(["-brief", "link"])
        .run()?
        .text()
        .lines()
        .any(|line| line.split_whitespace().next().and_then(|word| word.split('@').next()) == Some(name)))
}

fn ip(lines: &[String]) -> Result<()> {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    Tool::new("ip").package("iproute2").args(["-batch", "-"]).stdin(text).run().map(|_| ())
}
