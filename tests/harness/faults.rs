//! What may break in a cloud, each as a check: it comes back by itself, and nothing that was acknowledged is missing.

use super::cloud::{CONTROLLERS, Cloud};
use super::probe::{Probe, now};
use super::table::{Seen, Table, until};
use std::time::Duration;

/// How long a cloud may take to be whole again, on two cores that may be slow ones: patience, and no claim.
pub const BACK: Duration = Duration::from_secs(25 * 60);
/// How long APIs may be gone when the controller with the VIP loses its power, in seconds.
const GAP: f64 = 30.0;

/// A fault, from breaking it to everything being well again. The row says the longest gaps, too.
pub fn fault(cloud: &Cloud, probe: &Probe<'_>, table: &mut Table, what: &str, breaks: impl FnOnce() -> Seen) -> bool {
    let begin = now();
    table.check(what, || {
        let said = breaks()?;
        cloud.becomes_ready(BACK)?;
        until(Duration::from_secs(120), || whole(cloud))?;
        // The probe has seen it as well.
        until(Duration::from_secs(60), || {
            let (row, user) = probe.gaps(now() - 5.0);
            if row < 4.0 && user < 4.0 { Ok(()) } else { Err(format!("clients still fail: {}", probe.last_error(begin))) }
        })?;
        let there = probe.nothing_missing()?;
        let (row, user) = probe.gaps(begin);
        Ok(format!("{said}{there}; longest gap {row:.0} s of the database, {user:.0} s of Keystone"))
    })
}

/// Every member is in its cluster.
fn whole(cloud: &Cloud) -> Result<(), String> {
    let size = cloud.on(CONTROLLERS[0], "mariadb -N -B -e \"SHOW GLOBAL STATUS LIKE 'wsrep_cluster_size'\" | cut -f2")?;
    let etcd =
        cloud.on(CONTROLLERS[0], ". /etc/ostack/etcdctl; etcdctl endpoint health --cluster 2>&1 | grep -c 'is healthy'")?;
    let brokers = cloud.rabbitmqctl("eval 'length(rabbit_nodes:list_running()).'")?;
    let held = cloud.holders().len();
    let seen = format!("{} databases, {} members of etcd, {} brokers, {held} VIP", size.trim(), etcd.trim(), brokers.trim());
    if seen == "3 databases, 3 members of etcd, 3 brokers, 1 VIP" { Ok(()) } else { Err(seen) }
}

/// The controller that has the VIP.
pub fn holder(cloud: &Cloud) -> Result<&'static str, String> {
    cloud.holders().first().copied().ok_or_else(|| "no controller has the VIP".to_string())
}

/// A controller is shut down in order, and switched on again.
pub fn reboot(cloud: &Cloud, probe: &Probe<'_>, table: &mut Table, node: &str) {
    fault(cloud, probe, table, &format!("reboot of {node}"), || {
        cloud.on(node, "systemctl poweroff").ok();
        until(Duration::from_secs(180), || cloud.on(node, "true").err().map_or(Err(format!("{node} still runs")), |_| Ok(())))?;
        cloud.lab(&["start", node, "--timeout", "600"])
    });
}

/// The controller with the VIP loses its power.
pub fn power_of_the_holder(cloud: &Cloud, probe: &Probe<'_>, table: &mut Table) {
    let begin = now();
    fault(cloud, probe, table, "power cut of the controller with the VIP", || {
        let node = holder(cloud)?;
        cloud.lab(&["kill", node])?;
        std::thread::sleep(Duration::from_secs(60));
        let (row, user) = probe.gaps(begin);
        if row > GAP || user > GAP {
            return Err(format!("{node}: gap of {row:.0} s of the database, {user:.0} s of Keystone"));
        }
        cloud.lab(&["start", node, "--timeout", "600"])?;
        Ok(format!("{node}; "))
    });
}

/// A program of a controller's is killed.
pub fn kill(cloud: &Cloud, probe: &Probe<'_>, table: &mut Table, node: &str, program: &str) {
    fault(cloud, probe, table, &format!("kill -9 of {program} on {node}"), || {
        cloud.on(node, &format!("pkill -9 -x {program}"))?;
        // What it was is gone; that steps look again takes a while.
        std::thread::sleep(Duration::from_secs(15));
        Ok(String::new())
    });
}

/// A controller's cables are out for three minutes.
pub fn cut_network(cloud: &Cloud, probe: &Probe<'_>, table: &mut Table) {
    fault(cloud, probe, table, "network of the controller with the VIP cut for 3 minutes", || {
        let node = holder(cloud)?;
        cloud.lab(&["cut", node])?;
        std::thread::sleep(Duration::from_secs(90));
        let held = cloud.holders();
        std::thread::sleep(Duration::from_secs(90));
        cloud.lab(&["heal", node])?;
        if held.len() != 1 || held[0] == node {
            Err(format!("{node} was cut off, and {held:?} had the VIP"))
        } else {
            Ok(format!("{node}; "))
        }
    });
}

/// All controllers lose their power at once.
pub fn power_of_all(cloud: &Cloud, probe: &Probe<'_>, table: &mut Table) {
    fault(cloud, probe, table, "power cut of all three controllers at once", || {
        cloud.lab(&[&["kill"], &CONTROLLERS[..]].concat())?;
        std::thread::sleep(Duration::from_secs(10));
        cloud.lab(&[&["start", "--timeout", "900"], &CONTROLLERS[..]].concat())
    });
}

/// All lose their power, and one does not come back.
pub fn power_of_all_but_one_comes_back(cloud: &Cloud, probe: &Probe<'_>, table: &mut Table) {
    let [first, second, lost] = CONTROLLERS;
    fault(cloud, probe, table, "the same with one left off: they wait for it, and go on when told to", || {
        cloud.lab(&[&["kill"], &CONTROLLERS[..]].concat())?;
        std::thread::sleep(Duration::from_secs(10));
        cloud.lab(&["start", "--timeout", "900", first, second])?;
        let words = until(Duration::from_secs(300), || {
            let words = cloud.on(first, "ostack-node status")?;
            let line = words.lines().find(|line| line.starts_with("mariadb/start") && line.contains(lost)).map(str::to_string);
            line.ok_or(words)
        })?;
        // Time changes nothing.
        std::thread::sleep(Duration::from_secs(60));
        if cloud.on(first, "systemctl is-active mariadb").is_ok() {
            return Err(format!("the database runs, although nobody knows what {lost} has"));
        }
        cloud.on(first, &format!("ostack-node recover --exclude {lost} --accept-loss"))?;
        until(BACK, || {
            let token = cloud.on(first, "openstack --os-cloud admin token issue -f value -c id")?;
            if token.is_empty() { Err("no token".to_string()) } else { Ok(()) }
        })?;
        cloud.lab(&["start", "--timeout", "900", lost])?;
        Ok(format!("it said: {words}; "))
    });
}

/// A controller gets its image anew, and keeps its state: it takes only what it missed.
pub fn reimage_with_state(cloud: &Cloud, probe: &Probe<'_>, table: &mut Table, node: &str) {
    fault(cloud, probe, table, &format!("reimage of {node}, state kept: it takes what it missed (IST)"), || {
        cloud.lab(&["reimage", node, "--timeout", "600"])?;
        cloud.becomes_ready(BACK)?;
        // The server's own words. Those of the programs that it starts are lost where they ended before the journal looked whose they
        // were.
        let words = cloud.on(
            node,
            "journalctl -b -u mariadb -o cat | sed -n \
             's/.*Local state: .*:/had /p; s/.*Receiving IST: .* seqnos \\([0-9]*\\)-.*/received \\1/p' | tail -n 2",
        )?;
        let number = |name: &str| words.lines().find_map(|line| line.strip_prefix(name)?.parse::<u64>().ok());
        // With a copy it would go on behind the copy, and not behind what it had.
        match (number("had "), number("received ")) {
            (Some(had), Some(first)) if first == had + 1 => Ok(String::new()),
            _ => Err(format!("it went on by something else: {words:?}")),
        }
    });
}

/// A controller gets its image anew, and has lost its state: all members take it in again.
pub fn reimage_without_state(cloud: &Cloud, probe: &Probe<'_>, table: &mut Table, node: &str) {
    let member =
        || cloud.on(CONTROLLERS[0], &format!(". /etc/ostack/etcdctl; etcdctl member list | grep ' {node},' | cut -d, -f1"));
    fault(cloud, probe, table, &format!("reimage of {node}, state wiped: all clusters take it in again (SST)"), || {
        let before = member()?;
        cloud.lab(&["reimage", node, "--wipe-state", "--timeout", "600"])?;
        cloud.becomes_ready(BACK)?;
        let after = member()?;
        if after.is_empty() || before == after {
            return Err(format!("etcd's member was {}, and is {}", before.trim(), after.trim()));
        }
        Ok(String::new())
    });
}

/// The compute node gets its image anew; its server is there again.
pub fn reimage_of_the_compute(cloud: &Cloud, probe: &Probe<'_>, table: &mut Table) {
    fault(cloud, probe, table, "reimage of compute01, its server kept", || {
        let of = |key: &str| cloud.openstack("server show first").map(|server| server[key].to_string());
        let id = cloud.on("compute01", "cat /var/lib/nova/compute_id")?;
        let before = of("id")?;
        cloud.lab(&["reimage", "compute01", "--timeout", "600"])?;
        cloud.becomes_ready(BACK)?;
        until(Duration::from_secs(300), || match of("status")?.as_str() {
            "\"ACTIVE\"" => Ok(()),
            other => Err(other.to_string()),
        })?;
        until(Duration::from_secs(120), || {
            let running = cloud.on("compute01", "virsh list --state-running --name")?;
            if running.trim().is_empty() { Err("no server runs".to_string()) } else { Ok(()) }
        })?;
        let (after, same) = (of("id")?, cloud.on("compute01", "cat /var/lib/nova/compute_id")?);
        if before != after || id != same { Err(format!("{before} {id} is {after} {same}")) } else { Ok(String::new()) }
    });
}
