//! A network of a test's own: a thread in a new namespace, with a bridge that has the server's address, and taps for machines.
//!
//! Whatever the thread starts is in the namespace, too. It ends with the last process in it: nothing has to be taken away, and
//! nothing that is said in it reaches this machine or another one.

use ostack_image::base::tool::Tool;

/// The bridge: the provisioning network.
pub const BRIDGE: &str = "br0";
/// The tap of the only machine.
pub const TAP: &str = "tap0";

/// Runs `work` in a network where this machine has `address` (with the prefix's length).
pub fn within<T: Send>(address: &str, work: impl FnOnce() -> T + Send) -> T {
    let inside = || {
        // SAFETY: a thread's network namespace is its own; no file descriptor changes.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.expect("a namespace: run this as root");
        let lines = [
            "link set lo up".to_string(),
            format!("link add {BRIDGE} type bridge stp_state 0 forward_delay 0"),
            format!("address add {address} dev {BRIDGE}"),
            format!("link set {BRIDGE} up"),
            format!("tuntap add dev {TAP} mode tap"),
            format!("link set {TAP} master {BRIDGE} up"),
        ];
        Tool::new("ip").package("iproute2").args(["-batch", "-"]).stdin(lines.join("\n") + "\n").run().unwrap();
        work()
    };
    std::thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
