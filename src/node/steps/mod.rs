//! Steps of a living node: `engine` carries them out, `command` runs their programs, `board` has how far they are, `status`
//! shows it, `ready` tells whether the node is ready, `listen` says all of it over HTTP.
//!
//! The image's layers hold the steps (`model::step`); the engine is a service that never ends. What it knows is in
//! `/run/ostack/steps.json`, written anew at every change.

mod board;
mod command;
mod engine;
mod listen;
mod ready;
mod status;

pub(super) use command::program as run_program;
pub use command::{NOT_YET, Outcome};
pub use engine::{apply, run};
pub use status::show;

use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use crate::model::step::{FOLDER, Step};
use std::path::Path;

/// The steps below a root, by name.
///
/// # Errors
/// A file is no list of steps.
fn load(root: &Path) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    let folder = root.join(FOLDER);
    if !folder.is_dir() {
        return Ok(steps);
    }
    for file in fs::sorted_dir(&folder)? {
        let text = fs::read_text(&file)?;
        let list: Vec<Step> =
            serde_json::from_str(&text).map_err(|error| Error::new(error).at(&file, None)).doing(|| "reading steps")?;
        steps.extend(list);
    }
    steps.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::step::StepScope;

    /// A step whose programs are lines of a shell.
    pub(super) fn step(name: &str, check: &str, apply: &str) -> Step {
        let shell = |text: &str| ["sh", "-c", text].map(str::to_string).to_vec();
        Step {
            name: name.into(),
            scope: StepScope::Node,
            after: Vec::new(),
            needs: Vec::new(),
            check: shell(check),
            apply: shell(apply),
            user: "root".to_string(),
            timeout: 10,
            again: 30,
            ready: false,
        }
    }
}
