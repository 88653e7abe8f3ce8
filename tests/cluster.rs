//! The acceptance of a whole site: five blank nodes become a cloud by themselves, and the cloud does what clouds are for.
//!
//! `make test-cluster` runs it: it needs 20 GiB of memory, Chromium, and half an hour on two cores, so that `make test` leaves it
//! out. Each check is a row of a table. With `OSTACK_ACCEPTANCE=genesis` it ends when the cloud is there (`benches/genesis.sh`).

mod harness;

use harness::cloud::{CONTROLLERS, Cloud, VIP};
use harness::faults;
use harness::guest::Guest;
use harness::probe::Probe;
use harness::table::{Seen, Table, until};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How long five nodes may take from blank to all steps done, on two cores.
const GENESIS: Duration = Duration::from_secs(20 * 60);
/// How long one of the cloud's own jobs may take.
const JOB: Duration = Duration::from_secs(300);
/// What the three controllers may use of the machine's memory, in MiB.
const MEMORY: u64 = 14 * 1024;

#[test]
fn five_blank_nodes_become_a_cloud_that_works() {
    let mut table = Table::default();
    let cloud = Cloud::new("cloud");
    let formed = forms(&cloud, &mut table);
    if formed && std::env::var("OSTACK_ACCEPTANCE").is_ok_and(|part| part == "genesis") {
        println!("the cloud is there");
    } else if formed {
        stands(&cloud, &mut table);
        works(&cloud, &mut table);
        table.check("dashboard: a login by a browser, with a screenshot", || dashboard(&cloud));
        returns(&cloud, &mut table);
    } else {
        println!("{}", cloud.lab(&["status"]).unwrap_or_else(|error| error));
    }
    drop(cloud);
    table.end("acceptance");
}

/// From blank to ready, without a word from anybody.
fn forms(cloud: &Cloud, table: &mut Table) -> bool {
    table.check("images of three roles", || cloud.build().map(|text| lines(&text).to_string() + " lines"));
    let begin = Instant::now();
    let powered = table.check("all nodes boot, no unit fails", || cloud.up());
    let ready = powered
        && table.check("every step is done without input", || cloud.becomes_ready(GENESIS.saturating_sub(begin.elapsed())));
    if ready {
        println!("{}", cloud.times().unwrap_or_else(|error| error));
        table.check("no step's check was true before somebody had done the step", || found(cloud));
        table.check("blank to ready within 20 minutes", || {
            let seconds = begin.elapsed().as_secs();
            must(seconds <= GENESIS.as_secs(), format!("{seconds} s"))
        });
        table.check("the controllers' memory is within 14 GiB", || {
            let used: Vec<u64> = CONTROLLERS.iter().map(|node| cloud.memory(node)).collect();
            must(used.iter().sum::<u64>() <= MEMORY, format!("{used:?} MiB"))
        });
    }
    ready
}

/// Steps that a blank cloud has nothing to do for, and why.
const NOTHING_TO_DO: [(&str, &str); 4] = [
    ("keystone/fernet-keys", "the first keys are the seed's"),
    ("keystone/fernet-rotation", "its keys have just been drawn"),
    ("nova/hosts", "no compute has come yet"),
    ("rabbitmq/queues", "it has no queues yet"),
];

/// What the first check of every step found: a node's own steps were open on every node, the cluster's on one of them at least.
fn found(cloud: &Cloud) -> Seen {
    let (mut open, mut closed) = (BTreeSet::new(), BTreeSet::new());
    for node in json(&cloud.lab(&["status", "--json"])?)?.as_array().ok_or("no list of nodes")? {
        let name = node["node"].as_str().unwrap_or_default();
        let lists = cloud.on(name, "cat /usr/share/ostack/steps/*.json")?;
        let lists = serde_json::Deserializer::from_str(&lists).into_iter::<Vec<Value>>();
        let scopes: Vec<Value> = lists.flat_map(|list| list.unwrap_or_default()).collect();
        for (step, status) in node["steps"].as_object().ok_or("no steps")? {
            let entry =
                scopes.iter().find(|one| one["name"] == step.as_str()).ok_or_else(|| format!("no step {step} on {name}"))?;
            // One that only waits does nothing that its check could see.
            if entry["check"] == entry["apply"] {
                continue;
            }
            let own = entry["scope"] == "node";
            // Whoever comes second to a step of the cluster finds it done.
            let what = if own { format!("{step} on {name}") } else { step.clone() };
            (if status["found_done"] == false { &mut open } else { &mut closed }).insert(what);
        }
    }
    let excused = |what: &&&String| NOTHING_TO_DO.iter().any(|(step, _)| what.split(' ').next() == Some(step));
    let never: Vec<&String> = closed.difference(&open).filter(|what| !excused(&what)).collect();
    must(never.is_empty(), format!("{} steps were open; never: {never:?}", open.len()))
}

/// Every part has the members that it must have.
fn stands(cloud: &Cloud, table: &mut Table) {
    table.check("Galera: three are synced, with one history", || {
        let script = "mariadb -N -B -e \"SHOW GLOBAL STATUS WHERE Variable_name IN ('wsrep_cluster_size', \
                      'wsrep_cluster_state_uuid', 'wsrep_cluster_status', 'wsrep_local_state_comment', 'wsrep_ready')\" | cut -f2";
        let said: BTreeSet<String> = everywhere(cloud, script)?.into_iter().collect();
        let said: Vec<&String> = said.iter().collect();
        must(said.len() == 1 && said[0].starts_with("Synced\n3\n") && said[0].ends_with("\nPrimary\nON\n"), format!("{said:?}"))
    });
    table.check("RabbitMQ: three run, no partition, all queues are replicated", || {
        let status: Value = json(&cloud.rabbitmqctl("cluster_status --formatter json")?)?;
        let running = status["running_nodes"].as_array().map_or(0, Vec::len);
        let whole = status["partitions"].as_object().is_some_and(serde_json::Map::is_empty);
        let queues = cloud.rabbitmqctl("list_queues name type --no-table-headers")?;
        let other: Vec<&str> = queues.lines().filter(|line| !line.ends_with("\tquorum") && !line.ends_with("\tstream")).collect();
        must(
            running == 3 && whole && other.is_empty() && lines(&queues) > 0,
            format!("{running} run, {} queues; {other:?}", lines(&queues)),
        )
    });
    table.check("etcd: three are healthy", || {
        let health = cloud.on(CONTROLLERS[0], ". /etc/ostack/etcdctl; etcdctl endpoint health --cluster 2>&1")?;
        let healthy = health.lines().filter(|line| line.contains("is healthy")).count();
        let members = cloud.on(CONTROLLERS[0], ". /etc/ostack/etcdctl; etcdctl member list")?;
        let started = members.lines().filter(|line| line.contains(", started,") && line.ends_with(", false")).count();
        must(healthy == 3 && started == 3 && lines(&members) == 3, format!("{healthy} healthy, {started} voting members"))
    });
    table.check("Pacemaker: quorate, and its configuration is well", || {
        let quorate = everywhere(cloud, "corosync-quorumtool -s | grep '^Quorate'; crm_verify -L 2>&1")?;
        must(quorate.iter().all(|said| said == "Quorate:          Yes\n"), format!("{quorate:?}"))
    });
    table.check("the VIP is on one controller", || {
        let held = cloud.holders();
        must(held.len() == 1, format!("{held:?}"))
    });
    table.check("a token of one controller is good on the others", || {
        let token = cloud.on(CONTROLLERS[0], "openstack --os-cloud admin token issue -f value -c id")?;
        let mut said = Vec::new();
        for other in &CONTROLLERS[1..] {
            // By standard input: arguments are seen by everybody. uWSGI ends TLS without a word, which curl calls an error.
            let ask = format!(
                "curl -s -o /dev/null -w '%{{http_code}}' --cacert /etc/ostack/site-ca.pem -K - https://{other}:5000/v3/auth/tokens <<'END'\n\
                 header = \"X-Auth-Token: {0}\"\nheader = \"X-Subject-Token: {0}\"\nEND\ntrue",
                token.trim()
            );
            said.push(cloud.on(CONTROLLERS[0], &ask)?);
        }
        must(said == ["200", "200"], format!("{said:?}"))
    });
    table.check("every endpoint of the catalog answers at the VIP, by TLS", || endpoints(cloud));
    table.check("compute services are up", || up(cloud, "compute service list", "State", "up", 7));
    table.check("the compute takes servers", || {
        until(Duration::from_secs(120), || {
            let hosts = cloud.openstack("hypervisor list")?;
            must(hosts.as_array().is_some_and(|hosts| hosts.len() == 1 && hosts[0]["State"] == "up"), hosts.to_string())
        })
    });
    table.check("network agents are up", || up(cloud, "network agent list", "Alive", "true", 4));
    table.check("volume services are up", || up(cloud, "volume service list", "State", "up", 9));
}

/// What a user does on the first day.
fn works(cloud: &Cloud, table: &mut Table) {
    let run = |words: &str| cloud.openstack(words).map(|value| value["id"].as_str().unwrap_or_default().to_string());
    table.check("an image is uploaded", || {
        Guest::upload(cloud)?;
        let status = cloud.openstack("image show guest")?["status"].to_string();
        must(status == "\"active\"", status)
    });
    table.check("a network, a subnet, a router and a provider network are made", || {
        run("network create inner")?;
        run("subnet create --network inner --subnet-range 10.77.0.0/24 inner")?;
        run("network create --external --provider-network-type flat --provider-physical-network provider outer")?;
        run("subnet create --network outer --subnet-range 10.78.0.0/24 --no-dhcp outer")?;
        run("router create way")?;
        cloud.on(CONTROLLERS[0], "openstack --os-cloud admin router add subnet way inner")?;
        cloud.on(CONTROLLERS[0], "openstack --os-cloud admin router set --external-gateway outer way")
    });
    table.check("a volume is made", || {
        run("volume create --size 1 data")?;
        until(JOB, || is(&cloud.openstack("volume show data")?["status"], "available"))
    });
    let booted = table.check("a server boots", || {
        run("flavor create --ram 192 --disk 1 --vcpus 1 small")?;
        run("server create --image guest --flavor small --network inner first")?;
        let server = until(JOB, || match cloud.openstack("server show first")? {
            server if server["status"] == "BUILD" => Err("it is being built".to_string()),
            server => Ok(server),
        })?;
        must(server["status"] == "ACTIVE", format!("{} {} {}", server["status"], server["addresses"], server["fault"]))
    });
    if booted {
        table.check("it has its address by DHCP", || Guest::says(cloud, "GUEST address 10.77.0."));
        table.check("it has its name by the metadata service", || Guest::says(cloud, "GUEST metadata first"));
        table.check("the volume is attached, and the server writes and reads it", || {
            cloud.on(CONTROLLERS[0], "openstack --os-cloud admin server add volume first data")?;
            Guest::says(cloud, "acknowledged")
        });
    }
    table.check("all of it is deleted", || {
        let script = "export OS_CLOUD=admin; openstack server delete --wait first; openstack router unset --external-gateway way; \
            openstack router remove subnet way inner; openstack router delete way; openstack network delete inner outer; \
            openstack image delete guest guest-kernel guest-initrd; openstack flavor delete small; \
            n=0; until openstack volume delete data; do n=$((n + 1)); [ $n -lt 20 ] || exit 1; sleep 3; done";
        cloud.on(CONTROLLERS[0], &format!("set -e; {script}"))?;
        until(JOB, || {
            let left = cloud.on(
                CONTROLLERS[0],
                "export OS_CLOUD=admin; for what in server volume router network image flavor; do openstack $what list -f value; done",
            )?;
            must(left.is_empty(), left)
        })
    });
}

/// The two faults that matter most; all of them are in `tests/faults.rs`.
fn returns(cloud: &Cloud, table: &mut Table) {
    match Probe::start(cloud) {
        Ok(probe) => {
            faults::reimage_with_state(cloud, &probe, table, CONTROLLERS[1]);
            faults::power_of_all(cloud, &probe, table);
        }
        Err(words) => {
            table.check("a client that writes once a second", || Err(words));
        }
    }
}

/// Horizon by a headless browser in a node's network; the screenshot stays.
fn dashboard(cloud: &Cloud) -> Seen {
    let folder = cloud.folder().join("browser");
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    std::fs::write(folder.join("password"), cloud.password()?).map_err(|error| error.to_string())?;
    cloud.authority(&folder.join("ca.pem"))?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/cluster/dashboard.py");
    cloud.via("compute01", &format!("exec python3 {script} https://{VIP}/ {}", folder.display()))
}

/// What every controller says.
fn everywhere(cloud: &Cloud, script: &str) -> Result<Vec<String>, String> {
    CONTROLLERS.iter().map(|node| cloud.on(node, script)).collect()
}

fn endpoints(cloud: &Cloud) -> Seen {
    let catalog = cloud.openstack("endpoint list --interface public")?;
    let mut said = Vec::new();
    for endpoint in catalog.as_array().ok_or("the catalog is no list")? {
        let url = endpoint["URL"].as_str().unwrap_or_default();
        let root = url.split("%(").next().unwrap_or_default().split("/AUTH").next().unwrap_or_default();
        let name = endpoint["Service Name"].as_str().unwrap_or_default();
        if !root.starts_with(&format!("https://{VIP}:")) {
            return Err(format!("{name} is at {url}"));
        }
        let code = cloud
            .on("compute01", &format!("curl -s -o /dev/null -w '%{{http_code}}' --cacert /etc/ostack/site-ca.pem {root}"))?;
        // 401: it is there, and wants a token.
        if !["200", "300", "401"].contains(&code.as_str()) {
            return Err(format!("{name} at {root} answers {code}"));
        }
        said.push(format!("{name} {code}"));
    }
    must(said.len() == 6, said.join(", "))
}

/// Whether at least so many services are in a list, and all are up.
fn up(cloud: &Cloud, list: &str, column: &str, good: &str, least: usize) -> Seen {
    until(Duration::from_secs(120), || {
        let services = cloud.openstack(list)?;
        let services = services.as_array().ok_or("no list")?;
        let text = |one: &Value, key: &str| one[key].to_string().trim_matches('"').to_string();
        let down: Vec<String> = services
            .iter()
            .filter(|one| text(one, column) != good)
            .map(|one| text(one, "Binary") + " on " + &text(one, "Host"))
            .collect();
        must(down.is_empty() && services.len() >= least, format!("{} services; down: {down:?}", services.len()))
    })
}

fn is(value: &Value, wanted: &str) -> Seen {
    must(value == wanted, value.to_string())
}

fn must(holds: bool, words: String) -> Seen {
    if holds { Ok(words) } else { Err(words) }
}

fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("{error}: {text}"))
}

fn lines(text: &str) -> usize {
    text.lines().count()
}
