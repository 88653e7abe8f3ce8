//! `[[step]]` of an overlay: what a living node must do that no unit file can say, because it has to wait for peers.

use super::Source;
use crate::base::error::Result;
use crate::base::name::Word;
use serde::{Deserialize, Serialize};
use toml::Spanned;

/// Where an overlay's layer has its steps, as a JSON list of [`Step`]: a file of the overlay's name with `.json`.
pub const FOLDER: &str = "usr/share/ostack/steps";

/// A step as `overlay.toml` writes it. Its texts may be templates of the role.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct StepEntry {
    /// Unique in the overlay; elsewhere it is `OVERLAY/NAME`.
    pub name: Spanned<Word>,
    /// Whether every node does it for itself, or one for all.
    #[serde(default)]
    pub scope: StepScope,
    /// Steps that must be done before: `OVERLAY/NAME`, or `NAME` of this overlay. One whose overlay or conditions are not in
    /// the role is no hindrance.
    #[serde(default)]
    pub after: Vec<String>,
    /// What must answer before `apply` makes sense.
    #[serde(default)]
    pub needs: Vec<Need>,
    /// Ends with 0 when the step is done, with 75 when that cannot be known yet: its last line says what it waits for.
    pub check: Vec<String>,
    /// Does it. Ends with 75 when it has to wait: its last line says for what. Runs only when `check` says that it is to be done, and may be cut off at any moment.
    pub apply: Vec<String>,
    /// The account that runs both.
    #[serde(default = "root")]
    pub user: String,
    /// Seconds after which `apply` is ended.
    #[serde(default = "five_minutes")]
    pub timeout: u64,
    /// Seconds until a step that is done is checked again; by default 30 on a node, 3600 for the cluster's, whose checks ask
    /// services.
    pub again: Option<u64>,
    /// Whether the node is not ready before this step is done: whoever sends work to the node's services then passes it over.
    #[serde(default)]
    pub ready: bool,
    /// Only in this release.
    pub release: Option<Word>,
    /// Only where this tera expression is true.
    pub when: Option<String>,
}

/// Who carries a step out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StepScope {
    /// Every node of the role.
    #[default]
    Node,
    /// One node of the role at a time: whoever gets the cluster's lock. The others find it done.
    Cluster,
}

/// A service that must answer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Need {
    /// For people: "the database".
    pub name: String,
    /// `ADDRESS:PORT`, TCP; of several, with commas between them, one is enough.
    pub at: String,
}

/// A step as the node reads it: everything rendered, `after` with full names.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Step {
    /// `OVERLAY/NAME`.
    pub name: String,
    /// Who carries it out.
    pub scope: StepScope,
    /// Full names of the steps before it.
    pub after: Vec<String>,
    /// What must answer.
    pub needs: Vec<Need>,
    /// Ends with 0 when the step is done.
    pub check: Vec<String>,
    /// Does it.
    pub apply: Vec<String>,
    /// The account that runs both.
    pub user: String,
    /// Seconds for `apply`.
    pub timeout: u64,
    /// Seconds until it is checked again once it is done.
    pub again: u64,
    /// Whether the node is not ready before it is done. Not written where it is false, so that layers stay as they were.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ready: bool,
}

fn root() -> String {
    "root".to_string()
}

fn five_minutes() -> u64 {
    300
}

/// Refuses steps that cannot be carried out.
///
/// # Errors
/// With file and line: an empty command, a name that is there twice, seconds out of range.
pub(super) fn check(source: &Source<'_>, steps: &[StepEntry]) -> Result<()> {
    for (index, step) in steps.iter().enumerate() {
        let error = |cause: &str, next: &str| {
            Err(source.error(&step.name.span(), format!("the step {} {cause}", step.name.get_ref())).next(next))
        };
        for (what, command) in [("check", &step.check), ("apply", &step.apply)] {
            if command.is_empty() {
                return error(&format!("has an empty {what}"), &format!("write {what} = [\"program\", \"argument\"]"));
            }
        }
        if steps[..index].iter().any(|other| other.name == step.name && other.release == step.release) {
            return error("is there twice", "give each step its own name");
        }
        if !(1..=86_400).contains(&step.timeout) {
            return error("has a timeout out of range", "write 1 to 86400 seconds");
        }
        if !step.again.is_none_or(|again| (1..=86_400).contains(&again)) {
            return error("has `again` out of range", "write 1 to 86400 seconds");
        }
    }
    Ok(())
}
