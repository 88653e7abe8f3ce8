//! `ostack-image arm`: which nodes are to be installed when they start by network the next time.

use super::serve::state;
use super::session::Session;
use super::{Global, print_json};
use crate::base::error::Result;
use crate::cli::terminal::out;
use crate::deploy::arming::Arming;
use clap::Args;
use serde_json::json;

#[derive(Args)]
pub(super) struct Options {
    /// Nodes to expect
    #[arg(value_name = "NODE", required_unless_present = "all")]
    nodes: Vec<String>,
    /// Expect all nodes of the site
    #[arg(long, conflicts_with = "nodes")]
    all: bool,
    /// Give up what the node keeps: its state is wiped
    #[arg(long)]
    wipe_state: bool,
    /// Expect them no more: they start from their disks
    #[arg(long, conflicts_with = "wipe_state")]
    off: bool,
}

pub(super) fn run(global: &Global, options: &Options) -> Result<()> {
    let session = Session::open(global)?;
    let all = session.site.nodes.iter().map(|node| node.name.to_string());
    let nodes: Vec<String> = if options.all { all.collect() } else { options.nodes.clone() };
    // All names are good before any node is armed.
    nodes.iter().try_for_each(|name| session.site.node(name).map(|_| ()))?;
    let arming = Arming::new(&state(&session));
    let mut lines = Vec::new();
    for node in &nodes {
        let line = if !options.off {
            arming.arm(node, options.wipe_state)?;
            if options.wipe_state {
                "installed at its next start by network, its state wiped"
            } else {
                "installed at its next start by network"
            }
        } else if arming.disarm(node, "by an operator")? {
            "starts from its disk"
        } else {
            "was not expected"
        };
        lines.push((node, line));
    }
    if global.json {
        return print_json(&json!({ "nodes": nodes, "armed": !options.off, "wipe_state": options.wipe_state }));
    }
    for (node, line) in lines {
        out!("{node}  {line}");
    }
    Ok(())
}
