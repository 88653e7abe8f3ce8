//! dnf's solver, by its Python library, in a folder of its own: it sees the release's verified repositories and an empty
//! system, and nothing else: no network, no other dnf's configuration.
//!
//! The library and not the program, because the program prints tables for people, and what it would install is only in
//! those. `solve.py` beside this file is what runs.

use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use crate::base::name::{PackageName, Word};
use crate::base::tool::Tool;
use crate::lock::solver::Root;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Debian's own Python, for which Debian's dnf library is: another one before it in PATH does not have it.
const PYTHON: &str = "/usr/bin/python3";

const SCRIPT: &str = include_str!("solve.py");

/// A repository to solve with.
#[derive(Debug, Serialize)]
pub(super) struct Repository {
    pub id: String,
    /// A folder, as dnf sees it.
    pub path: PathBuf,
    pub priority: u32,
    pub exclude: Vec<String>,
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
    pub sets: BTreeMap<Word, BTreeSet<String>>,
    pub packages: Vec<Found>,
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

/// Has dnf solve every set. `folder` is the question's as this process sees it.
///
/// # Errors
/// Python is missing or the script breaks. What dnf itself refuses is the inner result.
pub(super) fn solve(question: &Question<'_>, folder: &Path, root: &dyn Root) -> Result<std::result::Result<Answer, Refusal>> {
    fs::write_atomic(&folder.join("question.json"), &serde_json::to_vec(question).doing(|| "writing a question to dnf")?)?;
    fs::write_atomic(&folder.join("solve.py"), SCRIPT.as_bytes())?;
    let seen = |name: &str| root.sees(folder).join(name).display().to_string();
    let (script, asked, answered) = (seen("solve.py"), seen("question.json"), seen("answer.json"));
    let home = root.sees(folder).display().to_string();
    let (success, words) = root
        .run(folder, &[PYTHON, "-I", "-B", &script, &asked, &answered], &[("LC_ALL", "C.UTF-8"), ("HOME", &home)])
        .doing(|| "asking dnf")?;
    if !success {
        return Err(Error::new(format!("its script ended early:\n{}", words.trim_end())).doing("asking dnf"));
    }
    let output = fs::read(&folder.join("answer.json"))?;
    let said: Said = serde_json::from_slice(&output).doing(|| "reading dnf's answer")?;
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

/// This machine itself, where a release names no solver.
pub(super) struct Machine;

/// The version of this machine's dnf.
///
/// # Errors
/// It has none.
pub(super) fn version() -> Result<String> {
    let script = "import dnf.const; print(dnf.const.VERSION)";
    let ended = Tool::new(PYTHON).package("python3-dnf").args(["-I", "-c", script]).clear_env().run_to_any_end()?;
    match ended.code {
        Some(0) => Ok(ended.output.text().trim().to_string()),
        _ => {
            let words = ended.output.last_words();
            Err(Error::new(words.lines().last().unwrap_or_default()))
        }
    }
}

impl Root for Machine {
    fn sees(&self, folder: &Path) -> PathBuf {
        folder.to_path_buf()
    }

    fn run(&self, folder: &Path, command: &[&str], env: &[(&str, &str)]) -> Result<(bool, String)> {
        let tool = Tool::new(command[0]).package("python3-dnf").args(&command[1..]).clear_env();
        let tool = env.iter().fold(tool, |tool, (name, value)| tool.env(name, value));
        let log = folder.join("said");
        let output = tool.start(&log)?.wait().doing(|| "waiting for dnf")?.status.success();
        Ok((output, String::from_utf8_lossy(&fs::read(&log)?).into_owned()))
    }
}
