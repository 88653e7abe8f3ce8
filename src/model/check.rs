//! `[[check]]` of an overlay: how the component's own program judges its files before an image has them.

use super::Source;
use crate::base::error::Result;
use crate::base::name::Word;
use serde::{Deserialize, Serialize};
use toml::Spanned;

/// A check, in a root that has the role's packages and the overlay's files: without network, with dummy secrets.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CheckEntry {
    /// Unique in the overlay; elsewhere it is `OVERLAY/NAME`.
    pub name: Spanned<Word>,
    /// Program and arguments; may be templates of the role.
    pub run: Vec<String>,
    /// The account that runs it.
    #[serde(default = "root")]
    pub user: String,
    /// Files of other overlays that the check sees beside the overlay's own (absolute, shell patterns). It sees no others, so a
    /// change of others does not ask for it again.
    #[serde(default)]
    pub reads: Vec<String>,
    /// Lines of the output that are errors though the program ends with 0: regular expressions.
    #[serde(default)]
    pub fail: Vec<String>,
    /// Lines that are errors no more, only warnings: regular expressions.
    #[serde(default)]
    pub warn: Vec<String>,
    /// Lines that say nothing: regular expressions.
    #[serde(default)]
    pub ignore: Vec<String>,
    /// The program's exit code means nothing; only `fail` decides.
    #[serde(default)]
    pub any_exit: bool,
    /// Seconds after which the program is ended, which is an error.
    #[serde(default = "a_minute")]
    pub timeout: u64,
    /// Only in this release.
    pub release: Option<Word>,
    /// Only where this tera expression is true.
    pub when: Option<String>,
}

fn root() -> String {
    "root".to_string()
}

fn a_minute() -> u64 {
    60
}

/// Refuses checks that cannot be carried out.
///
/// # Errors
/// With file and line: nothing to run, a name that is there twice, a pattern or an expression that is none, a timeout out of
/// range, a check that nothing can fail.
pub(super) fn check(source: &Source<'_>, checks: &[CheckEntry]) -> Result<()> {
    for (index, check) in checks.iter().enumerate() {
        let error = |cause: &str, next: &str| {
            Err(source.error(&check.name.span(), format!("the check {} {cause}", check.name.get_ref())).next(next))
        };
        if check.run.is_empty() {
            return error("runs nothing", "write run = [\"program\", \"argument\"]");
        }
        if checks[..index].iter().any(|other| other.name == check.name && other.release == check.release) {
            return error("is there twice", "give each check its own name");
        }
        for (key, expressions) in [("fail", &check.fail), ("warn", &check.warn), ("ignore", &check.ignore)] {
            for expression in expressions {
                if let Err(why) = regex::Regex::new(expression) {
                    let why = why.to_string();
                    let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ");
                    return error(
                        &format!("has `{expression}` in {key}, which is no regular expression: {why}"),
                        "write one such as '^ERROR', between single quotes",
                    );
                }
            }
        }
        for pattern in &check.reads {
            if !pattern.starts_with('/') || glob::Pattern::new(pattern).is_err() {
                return error(
                    &format!("reads `{pattern}`, which is no absolute path or pattern"),
                    "write one such as \"/etc/apache2/**\"",
                );
            }
        }
        if check.any_exit && check.fail.is_empty() {
            return error("can fail by nothing: it has any_exit and no fail", "write fail = ['…'], or take any_exit out");
        }
        if !(1..=3600).contains(&check.timeout) {
            return error("has a timeout out of range", "write 1 to 3600 seconds");
        }
    }
    Ok(())
}
