//! A lab as the command line sees it: which of its nodes run, and commands in them.

use super::agent::{Agent, Answer};
use super::holder::Holder;
use super::machine::Folder;
use super::vm;
use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use crate::base::tool::Tool;
use std::io::{IsTerminal, Read, Write};
use std::path::Path;
use std::time::Duration;

/// What a program in a node has of an environment, besides `TERM`.
const ENVIRONMENT: [&str; 3] = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", "HOME=/root", "LC_ALL=C.UTF-8"];
/// How long a virtual machine may take to take a command: longer than another one keeps its agent to itself.
const AGENT: Duration = Duration::from_secs(30);

/// The host's number of the process that is a node: its systemd, or its QEMU; none when the node does not run.
///
/// systemd-nspawn and QEMU are children of the holder, because whoever started them has ended; systemd is a child of nspawn.
pub fn leader(holder: Holder, node: &str) -> Option<i32> {
    let (container, machine) = (format!("--machine={node}"), vm::word(node));
    let processes = processes();
    let child = |parent: i32, fits: &dyn Fn(i32) -> bool| {
        processes.iter().find(|(pid, of)| *of == parent && fits(*pid)).map(|(pid, _)| *pid)
    };
    let has = |pid: i32, word: &str| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|one| one == word.as_bytes())
    };
    if let Some(qemu) = child(holder.pid, &|pid| has(pid, &machine)) {
        return Some(qemu);
    }
    let nspawn = child(holder.pid, &|pid| has(pid, &container))?;
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
    leader.ok_or_else(|| off(node))
}

/// A program of this machine in a container's network.
///
/// # Errors
/// The node does not run, or its network is a virtual machine's.
pub fn in_network(folder: &Folder, holder: Holder, node: &str, program: &str) -> Result<Tool> {
    if folder.read(node)?.vm.is_some() {
        return Err(Error::new(format!("{node} is a virtual machine, whose network no program of this machine can enter"))
            .next("use a node that is a container"));
    }
    let target = format!("--target={}", inside(holder, node)?);
    Ok(Tool::new("nsenter").package("util-linux").arg(target).args(["--net", "--"]).arg(program))
}

/// Runs a program in a node, as root, with the caller's input and output; gives its exit code. What a virtual machine's program
/// says comes when it has ended.
///
/// # Errors
/// The node does not run, or its agent does not answer.
pub fn exec(folder: &Folder, holder: Holder, node: &str, command: &[String]) -> Result<i32> {
    let term = format!("TERM={}", std::env::var("TERM").unwrap_or_else(|_| "dumb".to_string()));
    if folder.read(node)?.vm.is_none() {
        return entered(holder, node)?.arg(term).args(command).run_visible();
    }
    let mut input = Vec::new();
    let mut stdin = std::io::stdin();
    if !stdin.is_terminal() {
        stdin.read_to_end(&mut input).doing(|| "reading standard input")?;
    }
    let answer = in_machine(folder, holder, node, &[&[term], command].concat(), &input, AGENT)?;
    let shown = std::io::stdout().write_all(&answer.stdout).and_then(|()| std::io::stderr().write_all(&answer.stderr));
    shown.doing(|| "writing output")?;
    Ok(i32::try_from(answer.code).unwrap_or(1))
}

/// What a program in a node says on its standard output, if it ends well and the node takes it at once.
pub fn says(folder: &Folder, holder: Holder, node: &str, command: &[&str]) -> Option<String> {
    if folder.read(node).ok()?.vm.is_none() {
        return Some(entered(holder, node).ok()?.args(command).run().ok()?.text());
    }
    let words: Vec<String> = command.iter().map(|word| (*word).to_string()).collect();
    let answer = in_machine(folder, holder, node, &words, b"", Duration::ZERO).ok()?;
    (answer.code == 0).then(|| String::from_utf8_lossy(&answer.stdout).into_owned())
}

/// `env` in a container, about to be told more of the environment and the program.
fn entered(holder: Holder, node: &str) -> Result<Tool> {
    let leader = inside(holder, node)?;
    let namespaces = ["--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup"];
    Ok(Tool::new("nsenter")
        .package("util-linux")
        .arg(format!("--target={leader}"))
        .args(namespaces)
        .args(["--", "/usr/bin/env", "--ignore-environment"])
        .args(ENVIRONMENT))
}

fn in_machine(folder: &Folder, holder: Holder, node: &str, words: &[String], input: &[u8], patience: Duration) -> Result<Answer> {
    leader(holder, node).ok_or_else(|| off(node))?;
    let args: Vec<&str> =
        ["--ignore-environment"].into_iter().chain(ENVIRONMENT).chain(words.iter().map(String::as_str)).collect();
    let mut agent = Agent::connect(&vm::agent(folder, node), patience)
        .map_err(|error| error.next(format!("it starts in the middle of the boot: read {}", folder.console(node).display())))?;
    agent.run("/usr/bin/env", &args, input, None)
}

fn off(node: &str) -> Error {
    Error::new(format!("{node} does not run")).next(format!("start it with: ostack-image lab start {node}"))
}

/// Why a node that is a virtual machine has ended: the last words of QEMU.
///
/// # Errors
/// It was never started.
pub fn last_words(folder: &Folder, node: &str) -> Result<String> {
    let said = fs::read_text(&folder.node(node).join(vm::LOG))?;
    Ok(said.trim().lines().last().unwrap_or_default().to_string())
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
