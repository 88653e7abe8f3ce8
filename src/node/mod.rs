//! What runs on a node: the initrd's init, and the report after boot.
//!
//! `init` tells the story of a boot in order; each step has its file: `modules` (kernel modules), `disks` (which
//! device is what), `loops` and `stack` (layers to a root), `seed`, `state` (the partition that outlives a reboot), `binds` (its
//! paths in the root), `activate` (secrets into files), `copy` (trees with owners and attributes), `console` (what people see). `install` comes before all
//! that on a machine that is no node yet. `report` and
//! `steps` run later, in the booted system. Nothing here knows a service by name: all it needs is in the partition's index and the seed.

pub mod activate;
pub mod binds;
pub mod console;
pub mod copy;
pub mod disks;
pub mod init;
pub mod install;
pub mod loops;
pub mod modules;
pub mod recover;
pub mod report;
pub mod seed;
pub mod stack;
pub mod state;
pub mod steps;

use crate::base::error::{Context, Error, Result};
use crate::base::tool::Tool;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use steps::Outcome;

/// Where this program is in the initrd; running processes find it there as well.
const SELF: &str = "/proc/self/exe";

/// The program's entry: `args` begin with the program's name. Gives the exit code.
///
/// As pid 1 it boots. As `modprobe` it serves the kernel's requests. Else: `report`; `activate`, which puts secrets into files
/// again; `fill ROOT OWN`, which does so in a root that another installer has made; `steps [--listen ADDRESS:PORT]`, the engine;
/// `apply STEP`; `status [--json]`, how far it is; `recover --exclude NODE --accept-loss`, an operator's word that nobody is to wait
/// for a node; or `in ROOT PROGRAM ARGS…`, which runs a program inside a root.
pub fn main(args: &[OsString]) -> i32 {
    let words: Vec<String> = args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let name = words.first().and_then(|name| name.rsplit('/').next()).unwrap_or_default();
    let result = match &words[..] {
        [_, "apply", step] => return say_how_it_ended(steps::apply(step)),
        _ if std::process::id() == 1 => init::run(),
        [_, rest @ ..] if name == "modprobe" => modules::modprobe(rest),
        [_, "report"] => report::run(),
        [_, "activate"] => activate::run(),
        [_, "fill", root, own] => activate::run_in(Path::new(root), Path::new(own)),
        [_, "steps"] => steps::run(None),
        [_, "steps", "--listen", at] => steps::run(Some(at)),
        [_, "status"] => steps::show(false),
        [_, "status", "--json"] => steps::show(true),
        [_, "recover", rest @ ..] => recover::run(rest),
        [_, "in", root, program, rest @ ..] => enter(Path::new(root), program, rest),
        _ => Err(Error::new("this program takes no such arguments").next("run `ostack-node status`, `report` or `steps`")),
    };
    say_how_it_ended(result.map(|()| Outcome::Done))
}

fn say_how_it_ended(result: Result<Outcome>) -> i32 {
    match result {
        Ok(Outcome::Done) => 0,
        Ok(Outcome::NotYet(words)) => {
            console::error(&words);
            steps::NOT_YET
        }
        Err(error) => {
            console::error(&format!("ostack-node: {error}"));
            1
        }
    }
}

/// A tool that will run inside a root, by way of this program: [`Tool`] itself cannot change the root.
fn tool_in(root: &Path, program: &str) -> Tool {
    Tool::new(SELF).arg("in").arg(root).arg(program)
}

fn enter(root: &Path, program: &str, args: &[&str]) -> Result<()> {
    rustix::process::chroot(root).doing(|| format!("entering {}", root.display()))?;
    std::env::set_current_dir("/").doing(|| "entering the root")?;
    let error = std::process::Command::new(program).args(args).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").exec();
    let error = Error::new(error).next(format!("put the package that has {program} into the image"));
    Err(error.doing(format!("running {program}")))
}
