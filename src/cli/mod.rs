//! The command line: clap types here, one file per verb beside it. Nothing else of the crate prints.
//!
//! Progress and messages go to stderr, results to stdout. Exit code 0: done; 1: failed, with what to do next; 2: wrong usage.

mod arm;
mod boot;
mod build;
mod check;
mod diff;
mod fetch;
mod inspect;
mod kickstart;
mod lab;
mod lock;
mod media;
mod netboot;
mod plan;
mod render;
mod report;
mod secrets;
mod seed;
mod serve;
mod session;
mod store;
mod terminal;
mod unlock;

use crate::base::error::{Error, Result};
use crate::base::name::Word;
use crate::cli::terminal::{note, out};
use crate::lab::holder;
use crate::layer::sandbox;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Turns one site.toml into the bootable images of a whole OpenStack
#[derive(Parser)]
#[command(name = "ostack-image", version, max_term_width = 100, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

/// Options that every verb takes.
#[derive(Args, Clone)]
pub(crate) struct Global {
    /// Folder with recipes/, overlays/ and ostack.lock
    #[arg(short = 'C', long, value_name = "DIR", global = true, default_value = ".")]
    project: PathBuf,
    /// Site file; by default site.toml in the project folder
    #[arg(long, value_name = "FILE", global = true)]
    site: Option<PathBuf>,
    /// Release to build for; by default the site's
    #[arg(long, value_name = "NAME", global = true)]
    release: Option<Word>,
    /// Store; by default in the user's cache folder
    #[arg(long, value_name = "DIR", global = true, env = "OSTACK_STORE", hide_env_values = true)]
    store: Option<PathBuf>,
    /// Folder for artifacts; by default out in the project folder
    #[arg(long, value_name = "DIR", global = true)]
    out: Option<PathBuf>,
    /// Debian mirror; by default the site's, or that of this machine's apt
    #[arg(long, value_name = "URL", global = true)]
    mirror: Option<String>,
    /// Never use the network
    #[arg(long, global = true)]
    offline: bool,
    /// Print the result as one JSON document
    #[arg(long, global = true)]
    json: bool,
    /// Say more
    #[arg(short, long, global = true)]
    verbose: bool,
}

#[derive(Subcommand)]
enum Verb {
    /// Build what is missing of a role's image and write its artifacts
    Build(build::Options),
    /// Have each service judge its own files, in the image's root
    Check(check::Options),
    /// Show what would be built, and why
    Plan(plan::Options),
    /// Resolve packages and write ostack.lock
    Lock(lock::Options),
    /// Write the files of a node, as its image and seed would give it, to a folder
    Render(render::Options),
    /// Write the seeds that make a role's image one node each
    Seed(seed::Options),
    /// Write what Anaconda installs nodes from: a kickstart file each, and what they fetch
    Kickstart(kickstart::Options),
    /// Write the tree that blank machines start from by network
    Netboot(netboot::Options),
    /// Give that tree and the seeds out
    Serve(serve::Options),
    /// Have nodes installed at their next start by network
    Arm(arm::Options),
    /// Draw the site's passwords, keys and certificates into an encrypted file
    #[command(subcommand)]
    Secrets(secrets::Verb),
    /// Show an image: layers, packages, files, sizes
    Inspect(inspect::Options),
    /// Show what changed between two images, packages and settings first
    Diff(diff::Options),
    /// Start an image in QEMU
    Boot(boot::Options),
    /// The site on this machine: every node a container over its image's layers
    Lab(lab::Options),
    /// List, check and clean the store
    #[command(subcommand)]
    Store(store::Verb),
}

/// The program.
pub fn main() -> ExitCode {
    // Maintainer scripts inherit it, and what they create with it reaches the image.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    match args.split_first() {
        Some((first, rest)) if first == sandbox::VERB => return sandboxed(rest.first().map(PathBuf::from)),
        Some((first, rest)) if first == holder::VERB => return lab::hidden(rest),
        _ => {}
    }
    let cli = Cli::parse();
    match run(&cli).and_then(|()| terminal::written()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            note!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    match &cli.verb {
        Verb::Build(options) => build::run(&cli.global, options),
        Verb::Check(options) => check::run(&cli.global, options),
        Verb::Plan(options) => plan::run(&cli.global, options),
        Verb::Lock(options) => lock::run(&cli.global, options),
        Verb::Render(options) => render::run(&cli.global, options),
        Verb::Seed(options) => seed::run(&cli.global, options),
        Verb::Kickstart(options) => kickstart::run(&cli.global, options),
        Verb::Netboot(options) => netboot::run(&cli.global, options),
        Verb::Serve(options) => serve::run(&cli.global, options),
        Verb::Arm(options) => arm::run(&cli.global, options),
        Verb::Secrets(verb) => secrets::run(&cli.global, verb),
        Verb::Inspect(options) => inspect::run(&cli.global, options),
        Verb::Diff(options) => diff::run(&cli.global, options),
        Verb::Boot(options) => boot::run(&cli.global, options),
        Verb::Lab(options) => lab::run(&cli.global, options),
        Verb::Store(verb) => store::run(&cli.global, verb),
    }
}

/// The hidden verb: this process becomes the sandbox's first.
fn sandboxed(spec: Option<PathBuf>) -> ExitCode {
    let entered = spec.ok_or_else(|| Error::new("the sandbox has no description")).and_then(|spec| sandbox::enter(&spec));
    match entered {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(error) => {
            note!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints a result as JSON on stdout.
fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Error::new(error).doing("writing JSON"))?;
    out!("{text}");
    Ok(())
}
