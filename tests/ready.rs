//! Who gets work: a controller that says that it is ready, and no other one.

mod harness;

use harness::Test;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The files of the first controller, with the test that they end with.
fn controller(release: &str) -> (Test, PathBuf) {
    let test = Test::shipped();
    test.run(["--release", release, "render", "controller01", "--out", "tree"]).succeeds();
    let tree = test.project().join("tree");
    (test, tree)
}

/// What the load balancer asks each listener's servers, one listener a line.
fn asked(tree: &Path) -> String {
    let text = std::fs::read_to_string(tree.join("etc/haproxy/haproxy.cfg")).unwrap();
    let mut shown = String::new();
    for section in text.split("\nlisten ").skip(1).filter(|section| section.contains("\n    server ")) {
        let asks = section.lines().filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["http-check", "connect", "port", port] => Some(format!("at {port}")),
                ["http-check", "connect", "default"] => Some("at its own port".to_string()),
                ["http-check", "send", "meth", "GET", "uri", uri, ..] | ["option", "httpchk", "GET", uri, ..] => {
                    Some(uri.to_string())
                }
                _ => None,
            }
        });
        let name = section.lines().next().unwrap();
        shown += &format!("{name}: {}\n", asks.collect::<Vec<_>>().join(" "));
    }
    shown
}

#[test]
fn the_node_is_asked_before_each_of_its_pages_and_galera_has_a_check_of_its_own() {
    let (_test, tree) = controller("epoxy-debian13");
    assert_eq!(
        asked(&tree),
        "dashboard_cluster: at 9290 /ready at its own port /auth/login/\n\
         galera_cluster: /\n\
         rabbitmq_cluster: \n\
         glance_api_cluster: at 9290 /ready at its own port /healthcheck\n\
         keystone_public_cluster: at 9290 /ready at its own port /healthcheck\n\
         nova_compute_api_cluster: at 9290 /ready at its own port /\n\
         nova_placement_cluster: at 9290 /ready at its own port /\n\
         nova_metadata_api_cluster: at 9290 /ready at its own port /healthcheck\n\
         nova_vncproxy_cluster: at 9290 /ready at its own port /vnc_lite.html\n\
         neutron_api_cluster: at 9290 /ready at its own port /healthcheck\n\
         cinder_api_cluster: at 9290 /ready at its own port /healthcheck\n"
    );
}

#[test]
fn the_older_releases_load_balancer_cannot_ask_twice_and_asks_the_page() {
    let (_test, tree) = controller("train-centos7");
    assert!(!asked(&tree).contains("/ready"), "{}", asked(&tree));
    assert!(asked(&tree).contains("keystone_public_cluster: /healthcheck\n"), "{}", asked(&tree));
}

#[test]
fn what_every_service_needs_makes_a_controller_ready() {
    let (_test, tree) = controller("epoxy-debian13");
    let mut marked = Vec::new();
    for file in std::fs::read_dir(tree.join("usr/share/ostack/steps")).unwrap().map(|entry| entry.unwrap().path()) {
        let steps: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        for step in steps.iter().filter(|step| step["ready"] == true) {
            marked.push(format!("{} every {} s", step["name"].as_str().unwrap(), step["again"]));
        }
    }
    marked.sort();
    assert_eq!(marked, ["keystone/start every 10 s", "mariadb/start every 10 s", "rabbitmq/start every 10 s"]);
}
