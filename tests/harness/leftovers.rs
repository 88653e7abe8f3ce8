//! What a build could leave on the machine: mounts, processes, loop devices, namespaces.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Everything on this machine that still has to do with `folder`, in words; waits a little for dying processes.
pub fn of(folder: &Path) -> Vec<String> {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        let found = now(folder);
        if found.is_empty() || Instant::now() > end {
            return found;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn now(folder: &Path) -> Vec<String> {
    let folder = folder.display().to_string();
    let mut found = Vec::new();
    for process in processes() {
        let file = |name: &str| fs::read_to_string(format!("/proc/{process}/{name}")).unwrap_or_default();
        let link = |name: &str| fs::read_link(format!("/proc/{process}/{name}")).map(|to| to.display().to_string());
        // A mount namespace lives as long as a process is in it, so these lists are every mount there is.
        if let Some(line) = file("mountinfo").lines().find(|line| line.contains(&folder)) {
            found.push(format!("process {process} has the mount {line}"));
        }
        let command = file("cmdline").replace('\0', " ");
        let inside = ["cwd", "root", "exe"].iter().any(|name| link(name).is_ok_and(|to| to.starts_with(&folder)));
        if process != std::process::id() && (inside || command.contains(&folder)) {
            found.push(format!("process {process} runs: {command}"));
        }
    }
    for device in fs::read_dir("/sys/block").unwrap().map(|entry| entry.unwrap().path()) {
        let file = fs::read_to_string(device.join("loop/backing_file")).unwrap_or_default();
        if file.contains(&folder) {
            found.push(format!("{} is attached to {file}", device.display()));
        }
    }
    found
}

fn processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// A process and all that it started, each as pid and start time, so that a number used again is not taken for it.
pub fn family(parent: u32) -> BTreeSet<(u32, u64)> {
    let all: Vec<(u32, u32, u64)> = processes().into_iter().filter_map(stat).collect();
    let mut family: BTreeSet<(u32, u64)> =
        all.iter().filter(|(pid, _, _)| *pid == parent).map(|(pid, _, start)| (*pid, *start)).collect();
    loop {
        let more: BTreeSet<(u32, u64)> = all
            .iter()
            .filter(|(_, parent, _)| family.iter().any(|(pid, _)| pid == parent))
            .map(|(pid, _, start)| (*pid, *start))
            .chain(family.iter().copied())
            .collect();
        if more == family {
            return family;
        }
        family = more;
    }
}

/// Those of a family that still live; waits a little for dying ones.
pub fn alive(family: &BTreeSet<(u32, u64)>) -> Vec<u32> {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        let still = |(pid, start): &&(u32, u64)| stat(*pid).is_some_and(|(_, _, now)| now == *start);
        let found: Vec<u32> = family.iter().filter(still).map(|(pid, _)| *pid).collect();
        if found.is_empty() || Instant::now() > end {
            return found;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Pid, parent and start time of a process that is no zombie.
fn stat(pid: u32) -> Option<(u32, u32, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before the last parenthesis may hold anything; the state is field 3, the parent 4, the start 22.
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
    (fields[0] != "Z").then_some((pid, fields[1].parse().ok()?, fields[19].parse().ok()?))
}

/// The names of network namespaces that somebody has pinned.
pub fn named_namespaces() -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir("/run/netns") else { return BTreeSet::new() };
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}
