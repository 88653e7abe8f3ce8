//! The build machine's dnf, by its Python library, in a folder of its own: it sees the release's repositories, the
//! site's keys and an empty system, and nothing of the machine's own dnf or rpm configuration.
//!
//! The library and not the program, because the program prints tables for people, and what it would install is only in
//! those. `solve.py` beside this file is what runs.

use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use crate::base::name::{PackageName, Word};
use crate::base::tool::Tool;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Debian's own Python, for which Debian's dnf library is: another one before it in PATH does not have it.
const PYTHON: &str = "/usr/bin/python3";

const SCRIPT: &str = include_str!("solve.py");

/// What of the caller's environment dnf sees: where to find programs (gpg) and proxies.
const ENVIRONMENT: [&str; 7] = ["PATH", "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"];

/// How long a server may take to say whether metadata is signed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A repository to solve with.
#[derive(Debug, Serialize)]
pub(super) struct Repository {
    pub id: String,
    pub url: String,
    pub priority: u32,
    pub exclude: Vec<String>,
    /// Whether `repomd.xml` has a signature, which then must be one of `keys`.
    pub signed: bool,
    pub keys: Vec<PathBuf>,
}

/// What `solve.py` is asked.
#[derive(Serialize)]
pub(super) struct Question<'a> {
    pub folder: &'a Path,
    pub architecture: &'a Word,
    pub repositories: &'a [Repository],
    pub sets: &'a BTreeMap<Word, BTreeSet<PackageName>>,
    /// Name -> version, architecture and sha256 of packages to keep.
    pub locked: BTreeMap<&'a PackageName, (&'a str, &'a str, String)>,
    /// Of those, the ones that shall change.
    pub update: BTreeSet<&'a PackageName>,
}

/// What it answers.
#[derive(Deserialize)]
pub(super) struct Answer {
    pub repositories: BTreeMap<String, Metadata>,
    pub sets: BTreeMap<Word, BTreeSet<String>>,
    pub packages: Vec<Found>,
}

/// A repository's verified metadata.
#[derive(Deserialize)]
pub(super) struct Metadata {
    pub repomd: PathBuf,
    /// Seconds since 1970.
    pub time: u64,
}

/// A package that dnf would install.
#[derive(Deserialize)]
pub(super) struct Found {
    pub name: String,
    /// `[epoch:]version-release`.
    pub version: String,
    pub arch: String,
    pub size: u64,
    /// Kind and hexadecimal digits.
    pub checksum: (String, String),
    /// Below the repository.
    pub path: String,
    pub repository: String,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Refusal {
    NoDnf(String),
    Repository(String),
    Missing(Vec<Missing>),
    /// `kept`: also not when locked versions that stand in the way may change.
    Solution {
        set: String,
        words: String,
        kept: bool,
    },
}

/// A package asked for that no repository has.
#[derive(Debug, Deserialize)]
pub(super) struct Missing {
    pub set: String,
    pub name: String,
    pub providers: Vec<String>,
}

#[derive(Deserialize)]
#[serde(tag = "refused", content = "said", rename_all = "kebab-case")]
enum Refused {
    NoDnf(String),
    Repository(String),
    Missing(Vec<Missing>),
    Solution { set: String, words: String },
    KeptSolution { set: String, words: String },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Said {
    Refused(Refused),
    Answer(Answer),
}

/// Has dnf solve every set.
///
/// # Errors
/// Python is missing or the script breaks. What dnf itself refuses is the inner result.
pub(super) fn solve(question: &Question<'_>) -> Result<std::result::Result<Answer, Refusal>> {
    let file = question.folder.join("question.json");
    fs::write_atomic(&file, &serde_json::to_vec(question).doing(|| "writing a question to dnf")?)?;
    let mut tool = Tool::new(PYTHON).package("python3-dnf").clear_env();
    for name in ENVIRONMENT {
        if let Some(value) = std::env::var_os(name) {
            tool = tool.env(name, value);
        }
    }
    // gpg, which verifies signatures, keeps what it knows below HOME.
    tool = tool.env("LC_ALL", "C.UTF-8").env("HOME", question.folder);
    let output = tool.arg("-I").arg("-").arg(&file).stdin(SCRIPT).run().doing(|| "asking dnf")?;
    let said: Said = serde_json::from_slice(&output.stdout).doing(|| "reading dnf's answer")?;
    Ok(match said {
        Said::Answer(answer) => Ok(answer),
        Said::Refused(refused) => Err(match refused {
            Refused::NoDnf(said) => Refusal::NoDnf(said),
            Refused::Repository(said) => Refusal::Repository(said),
            Refused::Missing(missing) => Refusal::Missing(missing),
            Refused::Solution { set, words } => Refusal::Solution { set, words, kept: false },
            Refused::KeptSolution { set, words } => Refusal::Solution { set, words, kept: true },
        }),
    })
}

/// Whether a repository's metadata has a signature. Who takes it away gains nothing: each package must be signed then.
///
/// # Errors
/// The server cannot be reached or answers neither yes nor no.
pub(super) fn has_signature(url: &str) -> Result<bool> {
    let url = format!("{url}/repodata/repomd.xml.asc");
    if let Some(path) = url.strip_prefix("file://") {
        return Ok(Path::new(path).exists());
    }
    let config = ureq::Agent::config_builder()
        .proxy(ureq::Proxy::try_from_env())
        .http_status_as_error(false)
        .user_agent(concat!("ostack-image/", env!("CARGO_PKG_VERSION")))
        .timeout_global(Some(PATIENCE))
        .build();
    let next = "check the archive's URL below [mirror] in site.toml";
    let response = config.new_agent().get(&url).call().map_err(|error| Error::new(format!("{url}: {error}")).next(next))?;
    match response.status().as_u16() {
        200 => Ok(true),
        // Some servers that keep files as objects say "forbidden" of what they do not have.
        403 | 404 | 410 => Ok(false),
        status => Err(Error::new(format!("{url}: the server answered {status}")).next(next)),
    }
}
