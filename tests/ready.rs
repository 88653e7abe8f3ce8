//! Who gets work: a controller that says that it is ready, and no other one.

mod harness;

use harness::Test;
use serde_json::Value;
use std::path::PathBuf;

/// The files of the first controller, with the test that they end with.
fn controller(release: &str) -> (Test, PathBuf) {
    let test = Test::shipped();
    test.run(["--release", release, "render", "controller01", "--out", "tree"]).succeeds();
    let tree = test.project().join("tree");
    (test, tree)
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
