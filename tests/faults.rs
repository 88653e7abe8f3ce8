//! What a cloud survives: every fault under a client that writes and reads once a second, in a table.
//!
//! `make test-faults` runs it, for two hours on two cores. `OSTACK_FAULTS=reboot,all` runs only those whose short name is there;
//! with `OSTACK_KEEP_LAB` set the lab stays for whoever wants to look, and the next such run goes on with it, also with that of the
//! acceptance.

mod harness;

use harness::cloud::{CONTROLLERS, Cloud};
use harness::faults;
use harness::guest::Guest;
use harness::probe::Probe;
use harness::table::Table;
use std::time::Duration;

/// From blank to all steps done.
const GENESIS: Duration = Duration::from_secs(25 * 60);

#[test]
fn a_cloud_comes_back_by_itself_and_has_lost_nothing() {
    let mut table = Table::default();
    let cloud = Cloud::kept("cloud");
    let formed = table.check("five blank nodes become a cloud", || {
        cloud.build()?;
        cloud.up()?;
        cloud.becomes_ready(GENESIS)
    });
    let served = formed && table.check("a server boots", || Guest::serve(&cloud));
    if served {
        let probe = Probe::start(&cloud).unwrap();
        let wanted = std::env::var("OSTACK_FAULTS").ok();
        let (cloud, probe, table) = (&cloud, &probe, &mut table);
        let on = |name: &str| wanted.as_ref().is_none_or(|list| list.split(',').any(|one| one == name));
        if on("reboot") {
            CONTROLLERS.iter().for_each(|node| faults::reboot(cloud, probe, table, node));
        }
        if on("holder") {
            faults::power_of_the_holder(cloud, probe, table);
        }
        if on("kill") {
            for program in ["mariadbd", "beam.smp", "haproxy", "etcd"] {
                faults::kill(cloud, probe, table, CONTROLLERS[0], program);
            }
        }
        if on("cut") {
            faults::cut_network(cloud, probe, table);
        }
        if on("all") {
            faults::power_of_all(cloud, probe, table);
        }
        if on("one-off") {
            faults::power_of_all_but_one_comes_back(cloud, probe, table);
        }
        if on("kept") {
            faults::reimage_with_state(cloud, probe, table, CONTROLLERS[1]);
        }
        if on("wiped") {
            faults::reimage_without_state(cloud, probe, table, CONTROLLERS[2]);
        }
        if on("compute") {
            faults::reimage_of_the_compute(cloud, probe, table);
        }
    }
    drop(cloud);
    table.end("faults");
}
