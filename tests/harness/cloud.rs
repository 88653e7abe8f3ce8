//! A whole site in a lab: three controllers, one compute and one storage node, from blank.

use super::PROGRAM;
use super::table::until;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The controllers, by name.
pub const CONTROLLERS: [&str; 3] = ["controller01", "controller02", "controller03"];

/// The site's VIP.
pub const VIP: &str = "172.16.181.30";

/// A lab of the site in `tests/fixtures/cluster`; it ends with the value.
pub struct Cloud {
    folder: PathBuf,
}

impl Cloud {
    /// A blank one. What a run before it has left is removed.
    pub fn new(name: &str) -> Self {
        super::must_be_root();
        let cloud = Self { folder: Path::new(env!("CARGO_TARGET_TMPDIR")).join(name) };
        cloud.lab(&["down", "--wipe"]).unwrap();
        let _ = std::fs::remove_dir_all(&cloud.folder);
        std::fs::create_dir_all(&cloud.folder).unwrap();
        cloud
    }

    /// The one that an earlier run has kept, if it was told to; else a blank one.
    pub fn kept(name: &str) -> Self {
        let kept = Self { folder: Path::new(env!("CARGO_TARGET_TMPDIR")).join(name) };
        if keep() && kept.lab(&["exec", CONTROLLERS[0], "--", "true"]).is_ok() {
            return kept;
        }
        // Its end must not be that of the new one.
        std::mem::forget(kept);
        Self::new(name)
    }

    /// Starts all nodes, the storage node with a disk for Ceph.
    pub fn up(&self) -> Result<String, String> {
        self.lab(&["up", "--disk", "storage01:/dev/disk/by-id/virtio-osd:8G", "--timeout", "900"]).map(|_| String::new())
    }

    /// Where the test keeps things.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Builds the images of all roles.
    pub fn build(&self) -> Result<String, String> {
        let out = self.folder.join("out");
        let built = self.program(&["build", "--all", "--relock", "--out", out.to_str().unwrap()]);
        // Containers need no disks.
        let _ = std::fs::remove_dir_all(&out);
        built
    }

    /// `ostack-image lab ARGS…`.
    pub fn lab(&self, args: &[&str]) -> Result<String, String> {
        let folder = self.folder.join("lab");
        self.program(&[&["lab", "--lab", folder.to_str().unwrap()], args].concat())
    }

    fn program(&self, args: &[&str]) -> Result<String, String> {
        output(self.command(args).stdin(Stdio::null()))
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(["-C", env!("CARGO_MANIFEST_DIR"), "--site"]);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/cluster/site.toml")).args(args);
        command
    }

    fn exec(&self, node: &str, script: &str) -> Command {
        let folder = self.folder.join("lab");
        self.command(&["lab", "--lab", folder.to_str().unwrap(), "exec", node, "--", "sh", "-c", script])
    }

    /// What a shell script says on a node.
    pub fn on(&self, node: &str, script: &str) -> Result<String, String> {
        output(self.exec(node, script).stdin(Stdio::null()))
    }

    /// The controllers that have the VIP.
    pub fn holders(&self) -> Vec<&'static str> {
        let has = |node: &&'static str| self.on(node, &format!("ip -4 -o address | grep ' {VIP}/'")).is_ok();
        CONTROLLERS.into_iter().filter(has).collect()
    }

    /// What `rabbitmqctl` says on the first controller.
    pub fn rabbitmqctl(&self, words: &str) -> Result<String, String> {
        let account = "setpriv --reuid=rabbitmq --regid=rabbitmq --init-groups";
        self.on(CONTROLLERS[0], &format!("{account} rabbitmqctl --silent {words}"))
    }

    /// The cloud administrator's password.
    pub fn password(&self) -> Result<String, String> {
        self.on(CONTROLLERS[0], ". /root/.admin-openrc; printf %s \"$OS_PASSWORD\"")
    }

    /// Puts the certificate of the site's CA into a file.
    pub fn authority(&self, file: &Path) -> Result<(), String> {
        let text = self.on(CONTROLLERS[0], "cat /etc/ostack/site-ca.pem")?;
        std::fs::write(file, text).map_err(|error| error.to_string())
    }

    /// Like [`Self::on`], as bytes.
    pub fn bytes(&self, node: &str, script: &str) -> Result<Vec<u8>, String> {
        let output = self.exec(node, script).stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
        match output.status.success() {
            true => Ok(output.stdout),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// Like [`Self::on`], with a file as standard input.
    pub fn feed(&self, node: &str, script: &str, file: File) -> Result<String, String> {
        output(self.exec(node, script).stdin(file))
    }

    /// What a shell script of this machine says in a node's network.
    pub fn via(&self, node: &str, script: &str) -> Result<String, String> {
        output(self.command_via(node, script).stdin(Stdio::null()))
    }

    /// A shell script of this machine in a node's network, not started yet.
    pub fn command_via(&self, node: &str, script: &str) -> Command {
        let folder = self.folder.join("lab");
        self.command(&["lab", "--lab", folder.to_str().unwrap(), "via", node, "--", "sh", "-c", script])
    }

    /// What the OpenStack client says on the first controller, as JSON.
    pub fn openstack(&self, words: &str) -> Result<Value, String> {
        let text = self.on(CONTROLLERS[0], &format!("openstack --os-cloud admin {words} -f json"))?;
        serde_json::from_str(&text).map_err(|error| format!("{words}: {error}: {text}"))
    }

    /// Whether every step of every node is done; else those that are not, without what only waits for them.
    pub fn ready(&self) -> Result<String, String> {
        let text = self.lab(&["status", "--json"])?;
        let nodes: Vec<Value> = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let (mut done, mut left, mut causes) = (0, 0, Vec::new());
        for node in &nodes {
            let name = node["node"].as_str().unwrap_or_default();
            if node["system"] != "running" || node["failed"].as_array().is_none_or(|failed| !failed.is_empty()) {
                return Err(format!("{name} is {}, failed: {}", node["system"], node["failed"]));
            }
            let steps = node["steps"].as_object().ok_or_else(|| format!("{name} says nothing of its steps"))?;
            // A step that waits for others says nothing of why; those that it waits for do.
            let open = |step: &str| steps.get(step).is_some_and(|state| state["state"] != "done");
            let begins = |state: &Value| !state["words"].as_str().unwrap_or_default().split([' ', ',']).any(open);
            causes.extend(
                steps
                    .iter()
                    .filter(|(step, state)| open(step) && begins(state))
                    .map(|(step, state)| format!("{name}: {step} is {} {}", state["state"], state["words"])),
            );
            left += steps.keys().filter(|step| open(step)).count();
            done += steps.len();
        }
        if left > 0 {
            return Err(format!("{left} of {done} steps are open, because of\n{}", causes.join("\n")));
        }
        Ok(format!("{done} steps on {} nodes", nodes.len()))
    }

    /// When the steps were done, the last node's time of each: seconds since the first step of all began to wait.
    pub fn times(&self) -> Result<String, String> {
        let text = self.lab(&["status", "--json"])?;
        let nodes: Vec<Value> = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let mut times: BTreeMap<&str, u64> = BTreeMap::new();
        for (name, step) in nodes.iter().filter_map(|node| node["steps"].as_object()).flatten() {
            let time = times.entry(name).or_default();
            *time = (*time).max(step["since"].as_u64().unwrap_or_default());
        }
        let mut sorted: Vec<(u64, &str)> = times.into_iter().map(|(name, time)| (time, name)).collect();
        sorted.sort_unstable();
        let Some((first, _)) = sorted.first().copied() else { return Ok(String::new()) };
        let mut shown = "    seconds since the first step was done, on the last of its nodes\n".to_string();
        sorted.iter().for_each(|(time, name)| shown.push_str(&format!("    {:6}  {name}\n", time - first)));
        Ok(shown)
    }

    /// What the processes of a node use of the machine's memory, in MiB; what several share is divided among them.
    pub fn memory(&self, node: &str) -> u64 {
        let group = format!("/{node}");
        let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
        let own = processes.filter(|path| {
            let groups = std::fs::read_to_string(path.join("cgroup")).unwrap_or_default();
            groups
                .lines()
                .any(|line| line.contains("ostack-lab-") && (line.contains(&format!("{group}/")) || line.ends_with(&group)))
        });
        let share = |path: PathBuf| -> u64 {
            let text = std::fs::read_to_string(path.join("smaps_rollup")).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
            line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
        };
        own.map(share).sum::<u64>() / 1024
    }

    /// Waits until [`Self::ready`]. In vain, it also says what the nodes do instead.
    pub fn becomes_ready(&self, patience: Duration) -> Result<String, String> {
        until(patience, || self.ready()).map_err(|words| {
            let script = "systemctl status --no-pager --full --lines=12 --state=activating,reloading,deactivating | cut -c 1-200
                systemctl status --no-pager --full --lines=0 ostack-steps | cut -c 1-200";
            let busy = CONTROLLERS.into_iter().filter(|node| words.contains(&format!("\n{node}: ")));
            let does = |node| format!("\n{node} does:\n{}", self.on(node, script).unwrap_or_else(|error| error));
            words.clone() + &busy.map(does).collect::<String>()
        })
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        if !keep() {
            let _ = self.lab(&["down", "--wipe"]);
        }
    }
}

/// Whether labs stay, for whoever wants to look at what failed.
fn keep() -> bool {
    std::env::var_os("OSTACK_KEEP_LAB").is_some()
}

/// Standard output of a program that ends well; else what it says of why not.
pub fn output(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(format!("{}\n{}{}", output.status, text(&output.stderr), text(&output.stdout)).trim_end().to_string()),
    }
}
