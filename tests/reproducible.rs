//! Bit identity of the largest image: a controller is built from empty stores in two worlds of which nothing is the same, the clock of
//! the one two years before the other's; and by a user who has one id. `variations.rs` and `rebuild.rs` do the same with small roles.

mod harness;

use harness::Test;
use harness::role::{default_store, lock_of, put_packages, remove_at_exit};
use harness::user::User;
use harness::variation::{Reference, Variation};
use harness::world::{World, YEAR};
use std::fs;
use std::sync::OnceLock;

const COMMANDS: [&[&str]; 2] = [&["build", "controller", "--format", "qcow2,raw"], &["netboot", "controller"]];

fn project() -> Test {
    Test::shipped().replace("site.toml", "[dns]\n", "[provision]\nserver = \"172.16.0.2\"\n\n[dns]\n")
}

/// The image in the first world. What no mirror has any more is locked anew.
fn reference() -> &'static Test {
    static REFERENCE: OnceLock<Test> = OnceLock::new();
    REFERENCE.get_or_init(|| {
        harness::must_be_root();
        let test = project();
        remove_at_exit(test.folder());
        put_packages(&test, &default_store(), &lock_of(&test, "epoxy-debian13"));
        let world = World { clock: YEAR, order: Some(11), core: None };
        for command in COMMANDS {
            let output = world.run(&mut test.command(command.iter().chain([&"--relock"])));
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        test
    })
}

#[test]
fn a_controller_has_the_same_bytes_in_two_worlds() {
    let test = reference();
    let (project, lock) = (test.project(), lock_of(test, "epoxy-debian13"));
    let commands = COMMANDS.map(|command| command.join(" ")).join("\n");
    let reference =
        Reference { project: &project, store: test.store(), lock: &lock, role: "controller", commands: &commands, mirror: "" };
    let variation =
        Variation { name: "controller", world: World { clock: -YEAR, order: Some(12), core: Some(0) }, ..Variation::ELSEWHERE };
    assert_eq!(variation.wrong(&reference), None);
}

#[test]
fn a_controller_has_the_same_bytes_where_a_user_has_one_id() {
    let reference = reference();
    let test = project().write("ostack.lock", fs::read(reference.project().join("ostack.lock")).unwrap());
    put_packages(&test, reference.store(), &lock_of(&test, "epoxy-debian13"));
    let command = [COMMANDS[0], &["--offline", "--json"]].concat();
    let expected = reference.run(&command).json();
    let output = User::new("", test).run_well(&command);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let bytes = |json: &serde_json::Value| {
        let artifacts = json["artifacts"].as_array().unwrap().iter().map(|artifact| artifact["digest"].clone());
        (json["layers"].clone(), json["image"].clone(), artifacts.collect::<Vec<_>>())
    };
    assert_eq!(bytes(&json), bytes(&expected));
}
