//! A network of a test's own: a thread in a new namespace, with a bridge that has the server's address, and taps for machines.
//!
//! Whatever the thread starts is in the namespace, too. It ends with the last process in it: nothing has to be taken away, and
//! nothing that is said in it reaches this machine or another one.

use ostack_image::base::tool::Tool;

/// The bridge: the provisioning network.
pub const BRIDGE: &str = "br0";
/// The tap of the only machine.
pub const TAP: &str = "tap0";

/// Runs `work` in a namespace beside that of [`within`], as another machine of the same network, while the value lives.
pub struct Beside {
    stop: std::sync::mpsc::Sender<()>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Beside {
    /// A machine with this address (with the prefix's length); `work` starts what runs on it, and that ends with what it gives.
    pub fn new<T>(address: &str, work: impl FnOnce() -> T + Send + 'static) -> Self {
        let (tell, told) = std::sync::mpsc::channel();
        let (stop, stopped) = std::sync::mpsc::channel();
        let (plug, plugged) = std::sync::mpsc::channel();
        let address = address.to_string();
        let thread = std::thread::spawn(move || {
            unshare();
            tell.send(rustix::thread::gettid().as_raw_nonzero()).unwrap();
            plugged.recv().unwrap();
            ip(&["link set lo up", &format!("address add {address} dev beside1"), "link set beside1 up"]);
            let running = work();
            tell.send(rustix::thread::gettid().as_raw_nonzero()).unwrap();
            let _ = stopped.recv();
            drop(running);
        });
        let other = told.recv().unwrap();
        ip(&[
            "link add beside0 type veth peer name beside1",
            &format!("link set beside0 master {BRIDGE} up"),
            &format!("link set beside1 netns {other}"),
        ]);
        plug.send(()).unwrap();
        told.recv().expect("what is to run beside has started");
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = self.stop.send(());
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

fn unshare() {
    // SAFETY: a thread's network namespace is its own; no file descriptor changes.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.expect("a namespace: run this as root");
}

fn ip(lines: &[&str]) {
    Tool::new("ip").package("iproute2").args(["-batch", "-"]).stdin(lines.join("\n") + "\n").run().unwrap();
}

/// Runs `work` in a network where this machine has `address` (with the prefix's length).
pub fn within<T: Send>(address: &str, work: impl FnOnce() -> T + Send) -> T {
    let inside = || {
        unshare();
        ip(&[
            "link set lo up",
            &format!("link add {BRIDGE} type bridge stp_state 0 forward_delay 0"),
            &format!("address add {address} dev {BRIDGE}"),
            &format!("link set {BRIDGE} up"),
            &format!("tuntap add dev {TAP} mode tap"),
            &format!("link set {TAP} master {BRIDGE} up"),
        ]);
        work()
    };
    std::thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
