//! `ostack-image boot`: an image in QEMU, for people or as a check.

use super::session::Session;
use super::{Global, print_json, unlock};
use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use crate::base::name::Role;
use crate::cli::terminal::{note, out};
use crate::image::manifest;
use crate::lab::qemu::{self, Disk, Firmware, Machine, Spec};
use crate::model::site::Node;
use crate::secrets::{Held, draw};
use clap::Args;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[derive(Args)]
pub(super) struct Options {
    /// Role whose image to start
    role: Role,
    /// Node to be; without one the image waits for a seed
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// Seed to attach; by default one is made for this boot
    #[arg(long, value_name = "FILE", requires = "node")]
    seed: Option<PathBuf>,
    #[command(flatten)]
    secrets: unlock::From,
    /// Wait for the report: exit 0 once it is up and no unit has failed
    #[arg(long, requires = "node")]
    check: bool,
    /// Start by BIOS instead of UEFI
    #[arg(long)]
    bios: bool,
    /// Memory in MiB
    #[arg(long, value_name = "MIB", default_value_t = 4096)]
    memory: u32,
    /// Keep the machine's disk and logs in this folder, and use them again
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Forward this port of 127.0.0.1 to the node's SSH
    #[arg(long, value_name = "PORT")]
    ssh_port: Option<u16>,
    /// How many seconds --check waits
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout: u64,
}

pub(super) fn run(global: &Global, options: &Options) -> Result<()> {
    let session = Session::open(global)?;
    let node = options.node.as_deref().map(|name| session.site.node(name)).transpose()?;
    if let Some(node) = node
        && node.role != options.role
    {
        return Err(
            Error::new(format!("{} is a {}, not a {}", node.name, node.role, options.role)).next(format!("boot {}", node.role))
        );
    }
    let store = session.store()?;
    let image = manifest::read(&store, options.role.as_str())?;
    let disk = session.out.join(format!("{}.qcow2", options.role));
    let build = format!("ostack-image build {}", options.role);
    fs::must_exist(&disk, "the disk", &format!("run: {build}"))?;
    let temporary = tempfile::tempdir().doing(|| "creating a folder for the machine")?;
    let folder = options.keep.clone().unwrap_or_else(|| temporary.path().to_path_buf());
    let folder = std::path::absolute(&folder).doing(|| format!("finding {}", folder.display()))?;
    fs::create_dir_all(&folder)?;
    let seed = options.seed.clone().unwrap_or_else(|| folder.join("seed.img"));
    if let Some(node) = node.filter(|_| options.seed.is_none()) {
        let held = secrets(&session, options, node)?;
        super::seed::write_to(&session, &session.release_lock()?, node, Some(&seed), Some(&held))?;
    }
    let kernel = store.path(&image.kernel.digest);
    let spec = Spec {
        disk: Disk::Over(disk, 20),
        seed: node.is_some().then_some(seed),
        disks: Vec::new(),
        firmware: if options.bios { Firmware::Bios } else { Firmware::Uefi },
        start: qemu::Start::default(),
        memory: options.memory,
        cpus: 2,
        cards: node.map(|node| qemu::isolated(&session.site, node, options.ssh_port)).unwrap_or_default(),
        kernel: Some(kernel),
    };
    if options.check { check(global, options, &spec, &folder) } else { interactive(&spec, &folder) }
}

/// The site's secrets; where there are none, ones that this boot alone will know.
fn secrets(session: &Session, options: &Options, node: &Node) -> Result<Held> {
    if let Some(held) = options.secrets.held(session)? {
        return Ok(held);
    }
    let mut held = Held::new(session.site.name.as_str());
    let wanted = unlock::wanted(session, Some(node))?;
    if !draw::missing(&mut held, &wanted)?.is_empty() {
        note!("  there are no secrets of this site: drawing some for this boot alone");
    }
    Ok(held)
}

fn check(global: &Global, options: &Options, spec: &Spec, folder: &Path) -> Result<()> {
    let begin = Instant::now();
    let _ = std::fs::remove_file(folder.join("report"));
    note!("  starting {} …", options.role);
    let mut machine = Machine::start(spec, folder)?;
    let report = machine.wait_for_report(1, Duration::from_secs(options.timeout))?;
    let seconds = begin.elapsed().as_secs_f64();
    if global.json {
        print_json(
            &json!({ "node": report.node, "role": report.role, "image": report.image, "state": report.state, "failed": report.failed, "seconds": seconds }),
        )?;
    } else {
        out!(
            "{} is up after {seconds:.0} s: image {}, system {}, {} failed units",
            report.node,
            report.image,
            report.state,
            report.failed.len()
        );
    }
    if report.failed.is_empty() {
        return Ok(());
    }
    Err(Error::new(format!("units failed on {}: {}", report.node, report.failed.join(", ")))
        .next("keep the machine with --keep DIR and read its journal"))
}

fn interactive(spec: &Spec, folder: &Path) -> Result<()> {
    let machine = qemu::tool_on_terminal(spec, folder)?;
    note!("  Ctrl-a x ends the machine");
    match machine.run_visible()? {
        0 => Ok(()),
        code => Err(Error::new(format!("QEMU ended with exit code {code}")).next("read its message above")),
    }
}
