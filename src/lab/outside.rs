//! A lab as the command line sees it: which of its nodes run, and commands in them.

use super::holder::Holder;
use crate::base::error::{Error, Result};
use crate::base::tool::Tool;
use std::path::Path;

/// The host's number of a node's systemd; none when the node does not run.
///
/// systemd-nspawn is a child of the holder, because whoever started it has ended, and systemd is a child of nspawn.
pub fn leader(holder: Holder, node: &str) -> Option<i32> {
    let machine = format!("--machine={node}");
    let processes = processes();
    let child = |parent: i32, fits: &dyn Fn(i32) -> bool| {
        processes.iter().find(|(pid, of)| *of == parent && fits(*pid)).map(|(pid, _)| *pid)
    };
    let nspawn = child(holder.pid, &|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == machine.as_bytes())
    })?;
    child(nspawn, &|_| true)
}

/// Every process of this machine and its parent.
fn processes() -> Vec<(i32, i32)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let stat = |pid: i32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name before the last parenthesis may hold anything; the parent is field 4: proc(5).
        let parent = text.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
        Some((pid, parent))
    };
    entries.filter_map(|entry| stat(entry.file_name().to_str()?.parse().ok()?)).collect()
}

/// The node's systemd, once it is a place to be.
fn inside(holder: Holder, node: &str) -> Result<i32> {
    let leader = leader(holder, node).filter(|pid| {
        // nspawn's child is systemd only after it has changed its root; until then it is not a place to be.
        std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with("systemd"))
    });
    leader.ok_or_else(|| Error::new(format!("{node} does not run")).next(format!("start it with: ostack-image lab start {node}")))
}

/// A program of this machine in a node's network.
///
/// # Errors
/// The node does not run.
pub fn in_network(holder: Holder, node: &str, program: &str) -> Result<Tool> {
    let target = format!("--target={}", inside(holder, node)?);
    Ok(Tool::new("nsenter").package("util-linux").arg(target).args(["--net", "--"]).arg(program))
}

/// A program in a node, as root; its output is the caller's.
///
/// # Errors
/// The node does not run.
pub fn program(holder: Holder, node: &str, program: &str) -> Result<Tool> {
    let leader = inside(holder, node)?;
    let namespaces = ["--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup"];
    let terminal = std::env::var("TERM").unwrap_or_else(|_| "dumb".to_string());
    let environment = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", "HOME=/root", "LC_ALL=C.UTF-8"];
    Ok(Tool::new("nsenter")
        .package("util-linux")
        .arg(format!("--target={leader}"))
        .args(namespaces)
        .args(["--", "/usr/bin/env", "--ignore-environment"])
        .args(environment)
        .arg(format!("TERM={terminal}"))
        .arg(program))
}

/// An action of [`super::inside`], for a node.
pub fn action(holder: Holder, folder: &Path, action: &str, node: &str) -> Result<()> {
    let program = std::env::current_exe().map_err(|error| Error::new(error).doing("finding this program's own file"))?;
    holder.enter(program).args([super::holder::VERB, action]).arg(folder).arg(node).run().map(|_| ()).map_err(|error| {
        // Its own words say it all; the command line that entered the namespaces says nothing to anybody.
        let said = error.cause().split_once("):\n").map_or_else(|| error.cause().to_string(), |(_, said)| said.to_string());
        Error::new(said.trim_start_matches("error: ")).doing(format!("{action} {node}"))
    })
}
