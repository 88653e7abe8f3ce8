//! Bit identity of the largest image: a controller is built from empty stores in two worlds of which nothing is the same, the clock of
//! the one two years before the other's. `variations.rs` does the same with small and smaller roles.

mod harness;

use harness::Test;
use harness::role::{default_store, lock_of, put_packages};
use harness::variation::{Reference, Variation};
use harness::world::{World, YEAR};

#[test]
fn a_controller_has_the_same_bytes_in_two_worlds() {
    harness::must_be_root();
    let test = Test::shipped().replace("site.toml", "[dns]\n", "[provision]\nserver = \"172.16.0.2\"\n\n[dns]\n");
    let lock = lock_of(&test, "epoxy-debian13");
    put_packages(&test, &default_store(), &lock);
    let commands = "build controller --format qcow2,raw\nnetboot controller";
    let world = World { clock: YEAR, order: Some(11), core: None };
    for line in commands.lines() {
        let output = world.run(&mut test.command(line.split(' ').chain(["--relock"])));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    // What no mirror has any more was locked anew.
    let (project, lock) = (test.project(), lock_of(&test, "epoxy-debian13"));
    let reference = Reference { project: &project, store: test.store(), lock: &lock, role: "controller", commands, mirror: "" };
    let variation =
        Variation { name: "controller", world: World { clock: -YEAR, order: Some(12), core: Some(0) }, ..Variation::ELSEWHERE };
    assert_eq!(variation.wrong(&reference), None);
}
