//! The lint: whether the layers that packages make hold anything that a release forbids, such as keys that scripts have drawn, which would be the
//! same on all nodes and others in the next build.
//!
//! It reads the layers as they are stored, so that a stricter rule asks for no layer to be built again: it has a key of its own, of the
//! rules and of the packages. Layers of overlays are not looked at. What is in them somebody has written, and not a script drawn.

use super::step::{Runner, Watch};
use crate::base::digest::Digest;
use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use crate::base::path::RelPath;
use crate::layer::erofs;
use crate::layer::mounted::Mounted;
use crate::layer::owners::Owners;
use crate::layer::rpm;
use crate::layer::sandbox::Sandbox;
use crate::layer::tree::{Kind, Tree};
use crate::model::release::{Forbidden, Release, Rpm};
use crate::plan::{Key, RolePlan};
use crate::store::{Record, Store};
use regex::bytes::Regex;
use std::path::{Path, PathBuf};

/// How much of a file is looked at, in bytes: headers and keys stand at its beginning.
const LOOKED_AT: u64 = 8192;
/// How many files an error names.
const NAMED: usize = 20;

/// Looks at a role's layers, if the store has no result of it.
pub struct Lint<'a> {
    /// Where results go.
    pub store: &'a Store,
    /// What is built.
    pub plan: &'a RolePlan,
    /// Its release.
    pub release: &'a Release,
    /// The image's layers of packages, the lowest first: name and digest.
    pub layers: Vec<(&'a str, Digest)>,
    /// Who hears of it.
    pub watch: &'a dyn Watch,
}

/// A rule, ready.
struct Rule<'a> {
    pattern: glob::Pattern,
    /// What the pattern begins and ends with, literally: most paths are none of a rule's by that alone.
    ends: (&'a str, &'a str),
    expression: Option<Regex>,
    why: &'a str,
}

/// A file that no layer may hold.
struct Found<'a> {
    layer: &'a str,
    path: RelPath,
    why: &'a str,
}

impl Lint<'_> {
    /// Refuses what the release forbids.
    ///
    /// # Errors
    /// A layer holds such a file: with whose it is, and what to do. Or one cannot be read.
    pub fn run(&self, key: &Key, tools: &dyn Fn() -> Result<PathBuf>) -> Result<()> {
        Runner { store: self.store, watch: self.watch }.run(key, || {
            let rules = Rule::all(&self.release.forbidden)?;
            let mut trees = Vec::new();
            let mut found = Vec::new();
            for (name, digest) in &self.layers {
                let tree = erofs::tree(&self.store.path(digest))?;
                let all = forbidden(&tree, &rules).doing(|| format!("reading the layer {name}"))?;
                found.extend(all.into_iter().map(|(path, why)| Found { layer: name, path, why }));
                trees.push(tree);
            }
            if found.is_empty() {
                return Ok(Record::default());
            }
            let origins = self.origins(&found, &trees, tools)?;
            Err(self.refusal(&found, &origins))
        })?;
        Ok(())
    }

    /// Whose the files are that an error names.
    fn origins(&self, found: &[Found<'_>], trees: &[Tree], tools: &dyn Fn() -> Result<PathBuf>) -> Result<Vec<String>> {
        let named = found.iter().take(NAMED).map(|one| &one.path);
        if let Some(spec) = &self.release.rpm {
            return self.rpm_origins(spec, named, &tools()?);
        }
        let owners = Owners::of(&trees.iter().collect::<Vec<_>>())?;
        Ok(named.map(|path| owners.origin(path)).collect())
    }

    /// Whose files are, as the layers' own database of rpm packages says.
    fn rpm_origins<'a>(&self, spec: &Rpm, paths: impl Iterator<Item = &'a RelPath>, tools: &Path) -> Result<Vec<String>> {
        let mut roots = Mounted::new(&self.store.scratch().join(format!("lint-{}", self.plan.role)))?;
        let mut stack = Vec::new();
        for (name, digest) in &self.layers {
            stack.insert(0, roots.layer(name, &self.store.path(digest))?);
        }
        let [upper, work, root] = ["upper", "work", "root"].map(|name| roots.folder().join("database").join(name));
        for folder in [&upper, &work, &root] {
            fs::create_dir_all(folder)?;
        }
        let sandbox = Sandbox::new(&root).stack(stack, &upper, &work);
        paths.map(|path| rpm::owner(spec, &sandbox, tools, path)).collect()
    }

    fn refusal(&self, found: &[Found<'_>], origins: &[String]) -> Error {
        let mut words = String::new();
        for (one, origin) in found.iter().zip(origins) {
            words.push_str(&format!("\n  {} ({origin}; layer {}): {}", one.path, one.layer, one.why));
        }
        if found.len() > origins.len() {
            words.push_str(&format!("\n  and {} more", found.len() - origins.len()));
        }
        let files = if found.len() == 1 { "1 file".to_string() } else { format!("{} files", found.len()) };
        Error::new(format!("packages of {} leave {files} that no layer may hold:{words}", self.plan.role)).next(format!(
            "take each out by a line under [clean] of recipes/releases/{}.toml; what a node must have and keep, an overlay declares as \
             [[state]] or [[secret]]",
            self.plan.release
        ))
    }
}

impl<'a> Rule<'a> {
    fn all(forbidden: &'a [Forbidden]) -> Result<Vec<Self>> {
        let special = |c| "*?[]".contains(c);
        let mut rules = Vec::new();
        for one in forbidden {
            let expression = one.expression()?;
            for (path, pattern) in one.patterns()? {
                let prefix = path.find(special).map_or(path, |at| &path[..at]);
                let suffix = path.rfind(special).map_or("", |at| &path[at + 1..]);
                rules.push(Self { pattern, ends: (prefix, suffix), expression: expression.clone(), why: &one.why });
            }
        }
        Ok(rules)
    }

    fn is_about(&self, path: &str) -> bool {
        let options = glob::MatchOptions { require_literal_separator: true, ..glob::MatchOptions::new() };
        path.starts_with(self.ends.0) && path.ends_with(self.ends.1) && self.pattern.matches_with(path, options)
    }
}

/// The files that rules are about, in order, each with the first rule's reason.
fn forbidden<'a>(tree: &Tree, rules: &[Rule<'a>]) -> Result<Vec<(RelPath, &'a str)>> {
    let mut found = Vec::new();
    for (path, entry) in tree.iter() {
        let kind = match &entry.kind {
            Kind::HardLink(first) => tree.get(first).map(|entry| &entry.kind),
            kind => Some(kind),
        };
        let Some(Kind::File(content)) = kind else { continue };
        let text = path.to_string();
        let mut beginning = None;
        for rule in rules.iter().filter(|rule| rule.is_about(&text)) {
            if let Some(expression) = &rule.expression {
                let bytes = match &beginning {
                    Some(bytes) => bytes,
                    None => beginning.insert(content.part(0, content.size().min(LOOKED_AT))?),
                };
                if !expression.is_match(bytes) {
                    continue;
                }
            }
            found.push((path.clone(), rule.why));
            break;
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::tree::{Content, Entry};

    #[test]
    fn a_file_is_found_by_its_path_and_by_what_it_begins_with() {
        let checked = [b"\xf3\x0d\x0d\x0a\0\0\0\0time".as_slice(), b"\xf3\x0d\x0d\x0a\x01\0\0\0hash"];
        let mut tree = Tree::new(0);
        let mut add = |path: &str, kind: Kind| tree.insert(path.parse().unwrap(), Entry::new(kind, 0o644, 0));
        for (path, content) in [
            ("etc/machine-id", b"".as_slice()),
            ("etc/ssh/host_rsa", b"x"),
            ("etc/ssh/deeper/host_rsa", b"x"),
            ("usr/a/b.pyc", checked[0]),
            ("usr/b.pyc", checked[1]),
            ("var/log/a", b"\n"),
            ("var/log/b/c", b"x"),
            ("var/log/b/empty", b""),
        ] {
            add(path, Kind::File(Content::Bytes(content.to_vec())));
        }
        add("var/log/link", Kind::Symlink("a".to_string()));
        add("var/log/other", Kind::HardLink("var/log/b/c".parse().unwrap()));
        let rule = |path: &str, content: Option<&str>, why: &str| Forbidden {
            paths: vec![path.to_string()],
            content: content.map(str::to_string),
            why: why.to_string(),
        };
        let rules = [
            rule("/etc/machine-id", Some("."), "an identity"),
            rule("/etc/ssh/host_*", None, "a key"),
            rule("/**/*.pyc", Some(r"\A.{4}\x00{4}"), "a time"),
            rule("/var/log/**", Some("."), "a log"),
            rule("/var/log/a", None, "never: the first one counts"),
        ];
        let found = forbidden(&tree, &Rule::all(&rules).unwrap()).unwrap();
        let said: Vec<String> = found.iter().map(|(path, why)| format!("{path}: {why}")).collect();
        assert_eq!(
            said,
            [
                "/etc/ssh/host_rsa: a key",
                "/usr/a/b.pyc: a time",
                "/var/log/a: a log",
                "/var/log/b/c: a log",
                "/var/log/other: a log"
            ]
        );
    }
}
