//! The packet filter of a controller, loaded into the kernel and asked: who reaches which port?
//!
//! Both ends are network namespaces of this test's thread, joined by two pairs of virtual adapters, one for each network of
//! the site. They end with the thread. Nothing listens on the controller's side: what the filter lets through is refused by
//! the kernel, what it drops is not answered.

mod harness;

use harness::Test;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use std::fs::File;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const NODE: &str = "172.16.181.31";
const VIP: &str = "172.16.181.30";

/// How long an answer may take that comes, and how long one is awaited that must not come.
const ANSWER: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_millis(700);

/// Who asks: a name, its own address, and the controller's network adapter behind which it is.
const CLIENTS: [(&str, &str, &str); 5] = [
    ("controller02", "172.16.181.32", "mgmt"),
    ("compute01", "172.16.181.34", "mgmt"),
    ("a printer", "172.16.200.1", "mgmt"),
    ("a user", "10.181.0.99", "ext"),
    ("a liar", "172.16.181.32", "ext"),
];

/// A network namespace, entered by this thread.
struct Namespace(File);

impl Namespace {
    fn new() -> Self {
        // Safe: only this thread changes its namespace, and it shares no file table that could care.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
        let namespace = Self(File::open("/proc/thread-self/ns/net").unwrap());
        run("ip link set lo up");
        namespace
    }

    fn enter(&self) {
        move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// Runs a command in the thread's namespace.
#[track_caller]
fn run(line: &str) {
    let mut words = line.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Whether the filter lets a client's packet through: the kernel says that nothing listens there.
fn passes(protocol: &str, to: &str, wait: Duration) -> bool {
    let to: SocketAddr = to.parse().unwrap();
    let refused = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::ConnectionRefused => true,
        std::io::ErrorKind::TimedOut | std::io::ErrorKind::WouldBlock => false,
        _ => panic!("asking {to}: {error}"),
    };
    if protocol == "tcp" {
        return refused(TcpStream::connect_timeout(&to, wait).expect_err("nothing listens there"));
    }
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(wait)).unwrap();
    socket.send(b"?").unwrap();
    refused(socket.recv(&mut [0]).expect_err("nothing listens there"))
}

/// Who of [`CLIENTS`] reaches what, one line for each port.
fn reached(ruleset: &Path, reverse_path: bool, expected: &str) -> String {
    let node = Namespace::new();
    let peers = Namespace::new();
    for adapter in ["mgmt", "ext"] {
        run(&format!("ip link add {adapter} type veth peer name {adapter} netns {}", node.path()));
        run(&format!("ip link set {adapter} up"));
    }
    for (_, address, adapter) in CLIENTS.iter().filter(|(name, ..)| *name != "a liar") {
        run(&format!("ip address add {address}/16 dev {adapter}"));
    }
    node.enter();
    for (address, adapter) in [(NODE, "mgmt"), (VIP, "mgmt"), ("10.181.0.31", "ext")] {
        run(&format!("ip address add {address}/16 dev {adapter}"));
    }
    run("ip link set mgmt up");
    run("ip link set ext up");
    // The namespace's own: /proc/sys/net is that of whoever opens it. CentOS 7 has 1 in /usr/lib/sysctl.d.
    std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", if reverse_path { "1" } else { "0" }).unwrap();
    // Twice: a reload replaces the table, it does not add to it.
    run(&format!("nft -f {}", ruleset.display()));
    run(&format!("nft -f {}", ruleset.display()));
    peers.enter();

    let mut shown = String::new();
    for line in expected.lines() {
        let (what, says) = line.split_once(": ").unwrap();
        let (protocol, to) = what.split_once(' ').unwrap();
        let address = to.replace("node", NODE).replace("vip", VIP);
        let mut who = Vec::new();
        for (name, own, adapter) in CLIENTS {
            let via = if adapter == "ext" { " via 10.181.0.31" } else { "" };
            run(&format!("ip route replace 172.16.181.30/31{via} dev {adapter} src {own}"));
            let wait = if says.split(", ").any(|one| one == name) { ANSWER } else { SILENCE };
            if passes(protocol, &address, wait) {
                who.push(name);
            }
        }
        let who = if who.is_empty() { "nobody".to_string() } else { who.join(", ") };
        shown.push_str(&format!("{what}: {who}\n"));
    }
    shown
}

#[track_caller]
fn filter_lets_through(release: &'static str, file: &str, expected: &'static str) {
    harness::must_be_root();
    let test = Test::shipped();
    test.run(["--release", release, "render", "controller01", "--out", "tree"]).succeeds();
    let ruleset = test.project().join("tree").join(file);
    let shown = std::thread::spawn(move || reached(&ruleset, release == "train-centos7", expected)).join().unwrap();
    assert_eq!(shown, expected);
}

#[test]
fn a_port_is_open_to_those_that_its_overlay_names_and_to_nobody_else() {
    filter_lets_through(
        "epoxy-debian13",
        "etc/nftables.conf",
        "tcp node:22: controller02, compute01, a printer\n\
         tcp node:2379: controller02, compute01\n\
         tcp node:2380: controller02\n\
         tcp node:3306: controller02\n\
         tcp vip:3306: controller02, compute01\n\
         tcp node:5000: controller02\n\
         tcp vip:5000: controller02, compute01, a printer, a user\n\
         tcp node:8080: nobody\n\
         tcp node:9290: controller02, compute01, a printer\n\
         udp node:123: controller02, compute01, a printer\n\
         udp node:5405: controller02\n\
         udp node:4789: nobody\n",
    );
}

#[test]
fn the_older_release_does_the_same_with_its_kernels_own_reverse_path_filter() {
    filter_lets_through(
        "train-centos7",
        "etc/sysconfig/nftables.conf",
        "tcp node:22: controller02, compute01, a printer\n\
         tcp node:3306: controller02\n\
         tcp vip:5000: controller02, compute01, a printer, a user\n\
         tcp node:8080: nobody\n\
         udp node:5404: controller02\n",
    );
}
