//! An operator's word that a cluster is to go on without a node, and without what that node alone has.
//!
//! After a power cut members wait for each other, because any of them may have the newest data. Only a person can know that one
//! of them will not come back. What the word means for a cluster, programs of overlays know.

use super::steps::run_program;
use crate::base::error::{Error, Result};
use crate::base::fs;
use std::path::Path;

/// Where overlays have programs that are told the name of a node to go on without.
const FOLDER: &str = "/usr/lib/ostack/recover.d";
/// Seconds that one of them may take.
const TIMEOUT: u64 = 60;

/// `recover --exclude NODE --accept-loss`, in any order.
///
/// # Errors
/// The arguments are others, or a program of an overlay refuses.
pub fn run(args: &[&str]) -> Result<()> {
    let node = excluded(args)?;
    let programs = fs::sorted_dir(Path::new(FOLDER))?;
    if programs.is_empty() {
        return Err(Error::new("nothing on this node waits for others").next("run it on a controller"));
    }
    programs.iter().try_for_each(|program| run_program(program, node, TIMEOUT))
}

fn excluded<'a>(args: &[&'a str]) -> Result<&'a str> {
    let usage = "write: ostack-node recover --exclude NODE --accept-loss";
    let node = match args {
        ["--exclude", node] | ["--exclude", node, "--accept-loss"] | ["--accept-loss", "--exclude", node] => *node,
        _ => return Err(Error::new("recover takes the name of one node").next(usage)),
    };
    if !args.contains(&"--accept-loss") {
        let cause = format!("what {node} alone has will be lost");
        return Err(Error::new(cause).next("start it if that is possible; else add --accept-loss"));
    }
    Ok(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_given_up_only_by_who_accepts_the_loss() {
        let said = |args: &[&'static str]| excluded(args).map_err(|error| error.to_string());
        assert_eq!(said(&["--exclude", "controller03", "--accept-loss"]), Ok("controller03"));
        assert_eq!(said(&["--accept-loss", "--exclude", "controller03"]), Ok("controller03"));
        assert_eq!(
            said(&["--exclude", "controller03"]).unwrap_err(),
            "what controller03 alone has will be lost\n  next: start it if that is possible; else add --accept-loss"
        );
        assert_eq!(
            said(&["--accept-loss"]).unwrap_err(),
            "recover takes the name of one node\n  next: write: ostack-node recover --exclude NODE --accept-loss"
        );
    }
}
