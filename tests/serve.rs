//! `serve`: what it gives out, to whom, and what it shows. In a network of the test's own, with the site's own address.

mod harness;

use harness::Test;
use harness::network::within;
use harness::server::{self, SERVER, Server};
use serde_json::{Value, json};
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PASSPHRASE: &str = "a passphrase of the test";

/// The shipped project with a server and secrets, and a tree with one file and one node's script.
fn project() -> Test {
    let test = Test::shipped()
        .replace("site.toml", "[dns]\n", &format!("[provision]\nserver = \"{SERVER}\"\n\n[dns]\n"))
        .env("OSTACK_PASSPHRASE", PASSPHRASE);
    test.run(["secrets", "init"]).succeeds();
    let files: [(&str, &str); 4] = [
        ("file", "0123456789"),
        ("boot/mac-a.ipxe", "#!ipxe\nkernel x ostack.install=missing\n"),
        ("boot/mac-a.ipxe.disk", "#!ipxe\nexit\n"),
        ("boot/scripts.json", "{\"boot/mac-a.ipxe\":\"controller01\"}"),
    ];
    let mut test = test;
    let mut sums = String::new();
    for (path, text) in files {
        test = test.write(&format!("out/netboot/{path}"), text);
        sums.push_str(&format!("{}  {path}\n", ostack_image::base::digest::Digest::of(text).hex()));
    }
    test.write("out/netboot/SHA256SUMS", sums)
}

fn serve(test: &Test) -> Server {
    server::serve(test, &[], 8443)
}

/// What curl says: the status, then the body.
fn curl(args: &[&str]) -> String {
    let output =
        Command::new("curl").args(["--silent", "--show-error", "--write-out", "\n%{http_code}"]).args(args).output().unwrap();
    if !output.status.success() {
        return String::from_utf8(output.stderr).unwrap();
    }
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    format!("{status} {body}")
}

fn url(path: &str) -> String {
    format!("http://{SERVER}:8080{path}")
}

fn arm(test: &Test, args: &[&str]) {
    test.run([&["arm", "controller01"], args].concat()).succeeds();
}

#[test]
fn a_file_is_given_whole_or_in_the_range_that_was_asked_for() {
    let test = project();
    within(&format!("{SERVER}/16"), || {
        let _server = serve(&test);
        let file = url("/file");
        assert_eq!(curl(&[&file]), "200 0123456789");
        assert_eq!(curl(&["--range", "4-", &file]), "206 456789");
        assert_eq!(curl(&["--range", "2-3", &file]), "206 23");
        assert_eq!(curl(&["--range", "-1", &file]), "206 9");
        assert_eq!(curl(&["--range", "10-", &file]), "416 the file has 10 bytes\n");
        let head = curl(&["--head", "--range", "4-", &file]).to_lowercase();
        assert!(head.contains("content-length: 6\r\n") && head.contains("content-range: bytes 4-9/10\r\n"), "{head}");
        assert_eq!(curl(&[&url("/absent")]), "404 there is no such thing here\n");
        assert_eq!(curl(&["--path-as-is", &url("/../provision/journal.jsonl")]), "404 there is no such thing here\n");
        assert_eq!(curl(&["--data", "x", &file]), "405 there is nothing to write here\n");
    });
}

#[test]
fn many_clients_at_once_each_get_the_whole_file() {
    let bytes: Vec<u8> = (0..20 << 20).map(|at: u32| (at % 251) as u8).collect();
    let digest = ostack_image::base::digest::Digest::of(&bytes);
    let test = project().write("out/netboot/large", &bytes);
    within(&format!("{SERVER}/16"), || {
        let _server = serve(&test);
        let clients: Vec<Child> = (0..40)
            .map(|_| {
                Command::new("sh")
                    .args(["-c", &format!("curl -sS {} | sha256sum", url("/large"))])
                    .stdout(Stdio::piped())
                    .spawn()
                    .unwrap()
            })
            .collect();
        for client in clients {
            let said = String::from_utf8(client.wait_with_output().unwrap().stdout).unwrap();
            assert_eq!(said, format!("{}  -\n", digest.hex()));
        }
    });
}

#[test]
fn a_nodes_script_starts_its_disk_until_the_node_is_armed() {
    let test = project();
    within(&format!("{SERVER}/16"), || {
        let _server = serve(&test);
        let script = url("/boot/mac-a.ipxe");
        assert_eq!(curl(&[&script]), "200 #!ipxe\nexit\n");
        arm(&test, &[]);
        assert_eq!(curl(&[&script]), "200 #!ipxe\nkernel x ostack.install=armed\n");
        arm(&test, &["--off"]);
        assert_eq!(curl(&[&script]), "200 #!ipxe\nexit\n");
    });
}

#[test]
fn a_seed_goes_to_the_first_machine_that_claims_it_and_only_by_tls() {
    let test = project();
    let authority = test.folder().join("ca.pem");
    let shown = test.run(["render", "controller01", "--secrets", "--out", &test.folder().join("rendered").display().to_string()]);
    shown.succeeds();
    fs::copy(test.folder().join("rendered/etc/ostack/site-ca.pem"), &authority).unwrap();
    test.run(["seed", "controller01"]).succeeds();
    let seed = fs::read(test.project().join("out/controller01.seed.img")).unwrap();
    within(&format!("{SERVER}/16"), || {
        let _server = serve(&test);
        let door = |path: &str| format!("https://{SERVER}:8443/v1/{path}");
        let ca = authority.display().to_string();
        let ask = |args: &[&str]| curl(&[&["--cacert", ca.as_str()], args].concat());
        let (first, second) = ("a".repeat(32), "b".repeat(32));
        assert_eq!(ask(&[&door("armed/controller01")]), "404 controller01 is not expected\n");
        assert_eq!(ask(&["--data", &first, &door("seed/controller01")]), "404 controller01 is not expected\n");
        arm(&test, &["--wipe-state"]);
        assert_eq!(ask(&[&door("armed/controller01")]), "200 {\"wipe_state\":true}");
        assert_eq!(ask(&["--data", "short", &door("seed/controller01")]), "400 a claim has 32 hexadecimal digits\n");

        let out = test.folder().join("seed.img").display().to_string();
        for _ in 0..2 {
            assert_eq!(ask(&["--data", &first, "--output", &out, &door("seed/controller01")]), "200 ");
            let given = fs::read(&out).unwrap();
            // On a disk of its own a seed is rounded up.
            assert!(seed.starts_with(&given) && seed[given.len()..].iter().all(|byte| *byte == 0));
        }
        assert_eq!(
            ask(&["--data", &second, &door("seed/controller01")]),
            "409 another machine has the seed of controller01: arm it anew if this is the one\n"
        );
        assert_eq!(ask(&["--data", &second, &door("done/controller01")]), "409 controller01 was not expected with this claim\n");
        assert_eq!(ask(&["--data", &first, &door("done/controller01")]), "200 good\n");
        assert_eq!(ask(&[&door("armed/controller01")]), "404 controller01 is not expected\n");
        // Who does not know the authority gets nothing, and by HTTP there is nothing.
        let refused = curl(&[&door("armed/controller01")]);
        assert!(refused.starts_with("curl: (60) "), "{refused}");
        assert_eq!(curl(&["--data", &first, &url("/v1/seed/controller01")]), "405 there is nothing to write here\n");
    });
    let happened: Vec<String> = fs::read_to_string(test.project().join("out/provision/journal.jsonl"))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["what"].as_str().unwrap().to_string())
        .collect();
    assert_eq!(happened, ["armed", "seed", "seed", "refused", "disarmed"]);
}

#[test]
fn the_page_shows_every_node_and_what_each_machine_said_last() {
    let test = project();
    within(&format!("{SERVER}/16"), || {
        let _server = serve(&test);
        arm(&test, &[]);
        let said = json!({
            "node": "controller01", "stage": "failed", "image": null, "done": 52_428_800, "total": 104_857_600,
            "error": "eth0 has no carrier after 45 s",
        });
        assert_eq!(curl(&["--data", &said.to_string(), &url("/v1/progress")]), "200 heard\n");
        let stranger = said.to_string().replace("controller01", "<b>x</b>");
        assert_eq!(curl(&["--data", &stranger, &url("/v1/progress")]), "404 the site has no node `<b>x</b>`\n");

        let profile = test.folder().join("chromium").display().to_string();
        let page = Command::new("chromium")
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=4000", "--dump-dom"])
            .arg(format!("--user-data-dir={profile}"))
            .arg(url("/"))
            .output()
            .expect("chromium: run scripts/setup test");
        let page = String::from_utf8(page.stdout).unwrap();
        let row = |node: &str| {
            let begin = page.find(&format!("<tr id=\"node-{node}\">")).unwrap_or_else(|| panic!("{page}"));
            page[begin..begin + page[begin..].find("</tr>").unwrap()].to_string()
        };
        let first = row("controller01");
        for shown in ["<td class=\"armed\">yes</td>", "failed<div>eth0 has no carrier after 45 s</div>", "50 of 100 MiB"] {
            assert!(first.contains(shown), "{shown}: {first}");
        }
        assert!(row("storage03").contains("<td>storage</td>"));
        assert!(page.contains("Provisioning of the site <span id=\"site\">guide</span>"));
    });
}

#[test]
fn a_tree_that_is_damaged_is_not_given_out() {
    let test = project().write("out/netboot/file", "0123456780");
    let found = ostack_image::base::digest::Digest::of("0123456780").hex();
    let ran = test.run(["serve", "--listen", "127.0.0.1"]);
    assert_eq!(ran.output.status.code(), Some(1));
    assert!(
        ran.stderr().ends_with(&format!(
            "error: TEST/project/out/netboot/file is damaged: its sha256 is {found}\n  \
             next: remove it and make the tree again: ostack-image netboot\n"
        )),
        "{}",
        ran.stderr()
    );
}

/// Who has this process for a parent.
fn children(parent: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

#[test]
fn dnsmasq_ends_with_the_server_even_one_that_was_killed() {
    harness::must_be_root();
    let settings = "port=0\ndhcp-range=172.16.0.0,static,255.255.0.0,5m\n";
    let test = project().write("out/netboot/dnsmasq.conf", settings);
    within(&format!("{SERVER}/16"), || {
        let mut server = server::serve(&test, &["--dhcp", harness::network::BRIDGE], 8443);
        let dnsmasq = children(server.0.id());
        let name = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        assert_eq!(dnsmasq.iter().map(name).collect::<Vec<_>>(), ["dnsmasq\n"]);
        server.0.kill().unwrap();
        server.0.wait().unwrap();
        let begin = Instant::now();
        while name(&dnsmasq[0]) == "dnsmasq\n" {
            assert!(begin.elapsed() < Duration::from_secs(20), "dnsmasq still runs");
            std::thread::sleep(Duration::from_millis(50));
        }
    });
}
