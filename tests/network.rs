//! Adapters, bonds and VLANs as files of each release, and what systemd's own networkd makes of them.

mod harness;

use harness::Test;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The shipped site wired as many are: computes with everything tagged on one bond, known by names that all of them have, and
/// an adapter for the provider network; storage01 with a bond known by addresses; the rest with adapters by address.
fn wired() -> Test {
    let storage = "\nmanagement_interface = \"bond0\"\nbonds = [{ name = \"bond0\", mode = \"active-backup\", primary = \
                   \"52:54:00:B5:01:15\", members = [\"52:54:00:b5:02:f0\", \"52:54:00:B5:01:15\"] }]\n";
    let serial = "mac = \"52:54:00:b5:01:15\"\n";
    Test::shipped()
        .replace(
            "site.toml",
            "vip = \"172.16.181.30\"\n",
            "vip = \"172.16.181.30\"\nvlan = 181\nmtu = 9000\ngateway = \"172.16.0.1\"\n",
        )
        .replace("site.toml", "subnet = \"10.181.0.0/16\"\n", "subnet = \"10.181.0.0/16\"\nvlan = 10\n")
        .replace("site.toml", serial, &format!("{serial}{storage}"))
        .append(
            "site.toml",
            "\n[interfaces.compute]\nbonds = [{ name = \"bond0\", mode = \"802.3ad\", members = [\"eno1\", \"eno2\"] }]\n\
             management = \"bond0\"\nexternal = \"bond0\"\nprovider = \"eno3\"\n",
        )
}

/// The folder of a node's network files.
fn rendered(test: &Test, release: &str, node: &str) -> PathBuf {
    let out = format!("{release}-{node}");
    test.run(["--release", release, "render", node, "--out", &out]).succeeds();
    let folder = if release == "train-centos7" { "etc/sysconfig/network-scripts" } else { "etc/systemd/network" };
    test.project().join(out).join(folder)
}

/// All files of a folder as one text.
fn shown(folder: &Path) -> String {
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    let one = |name: &std::ffi::OsString| {
        format!("==== {}\n{}", name.to_string_lossy(), fs::read_to_string(folder.join(name)).unwrap())
    };
    names.iter().map(one).collect()
}

#[test]
fn bonds_and_tags_are_rendered_for_both_releases() {
    let test = wired();
    let mut wrong = String::new();
    for release in ["epoxy-debian13", "train-centos7"] {
        for node in ["controller01", "compute01", "storage01"] {
            let file = format!("tests/fixtures/network/{release}.{node}.txt");
            let text = shown(&rendered(&test, release, node));
            if std::env::var_os("OVERWRITE").is_some() {
                fs::write(&file, &text).unwrap();
            }
            if fs::read_to_string(&file).unwrap_or_default() != text {
                wrong.push_str(&format!("{file} is not what is rendered:\n{text}\n"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}(OVERWRITE=1 takes what is rendered)");
}

/// What networkd says and does with a folder of files, in name spaces of its own: nothing that it starts or sets outlives it.
/// `prepare` makes adapters; the end is when `until` succeeds.
fn networkd(folder: &Path, prepare: &str, until: &str) -> (String, String) {
    harness::must_be_root();
    let script = format!(
        "set -e\n\
         mount -t tmpfs none /run\n\
         mkdir -p /run/systemd\n\
         mount -t sysfs -o ro none /sys # as in a container: nobody waits for udev\n\
         mount --bind {} /etc/systemd/network\n\
         {prepare}\n\
         SYSTEMD_LOG_LEVEL=info /usr/lib/systemd/systemd-networkd 2>/run/log &\n\
         for try in $(seq 300); do if {until}; then break; fi; sleep 0.1; done\n\
         ip -brief -4 address | sed 's/ *$//'\n\
         cat /run/log >&2\n",
        folder.display()
    );
    let mut unshare = Command::new("unshare");
    unshare.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", &script]);
    let output = unshare.output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{log}");
    (String::from_utf8(output.stdout).unwrap(), log)
}

#[test]
fn networkd_gives_adapters_known_by_their_mac_addresses_the_sites_addresses() {
    let test = Test::shipped();
    let folder = rendered(&test, "epoxy-debian13", "controller01");
    let prepare = "ip link add card0 address 52:54:00:b5:01:1f type veth peer name switch0\n\
                   ip link add card1 address 52:54:00:b5:02:1f type veth peer name switch1";
    let (addresses, log) =
        networkd(&folder, prepare, "ip -br -4 a show card0 | grep -q /16 && ip -br -4 a show card1 | grep -q /16");
    let addresses: Vec<Vec<&str>> = addresses.lines().map(|line| line.split_whitespace().collect()).collect();
    let found: Vec<(&str, &[&str])> = addresses.iter().map(|line| (line[0], &line[2..])).collect();
    assert_eq!(found, [("card0@switch0", &["172.16.181.31/16"][..]), ("card1@switch1", &["10.181.0.31/16"][..])], "{log}");
}

#[test]
fn networkd_knows_every_word_of_bonds_and_tags() {
    let test = wired();
    for node in ["compute01", "storage01"] {
        let folder = rendered(&test, "epoxy-debian13", node);
        // The kernel may have no bonds: then networkd says so and goes on.
        let (_, log) = networkd(&folder, "true", "grep -q 'Enumeration completed' /run/log");
        let complaints: Vec<&str> = log.lines().filter(|line| line.starts_with("/etc/systemd/network")).collect();
        assert!(log.contains("Enumeration completed") && complaints.is_empty(), "{node}: {log}");
    }
}
