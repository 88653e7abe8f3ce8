//! From what a program says about its files to the place where a person wrote it.
//!
//! In: a program's words (`/etc/x.conf:12: unknown option "y"`) and the files that it saw. Out: the template, the file or the
//! entry of `overlay.toml` that the line comes from. Two steps: which line of which file do the words mean, and what wrote that
//! line. Both may find nothing; a place that is only near is still better than none, so the answer falls back from the line to
//! the file's entry.

use super::checks::CheckStep;
use super::context::Values;
use super::files::{FileKind, Prepared};
use super::planner::Planner;
use crate::base::error::Place;
use crate::base::path::RelPath;
use crate::model::load::LoadedOverlay;
use crate::model::overlay::{FileEntry, Scope};
use regex::Regex;
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// A file that a check saw, and where in it the words point.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Spot {
    path: RelPath,
    line: Option<usize>,
}

/// `line 12`, `line: 12`, `lines 12`.
static LINE: LazyLock<Regex> = LazyLock::new(|| expression(r"(?i)\blines?:? #?(\d+)"));
/// Right behind a path: `:12`, `(12)`, `: 12`.
static BEHIND: LazyLock<Regex> = LazyLock::new(|| expression(r#"^['"\]]?(?::|\(|: )(\d+)"#));
/// An absolute path to a file with an ending.
static PATH: LazyLock<Regex> = LazyLock::new(|| expression(r"(?:/[A-Za-z0-9_.@+-]+)+\.[A-Za-z0-9]+"));
/// What programs put into quotes.
static QUOTED: LazyLock<Regex> = LazyLock::new(|| expression(r#"['"`‘“]([^'"`’”]{2,})['"`’”]"#));
/// What may be an option's name.
static WORD: LazyLock<Regex> = LazyLock::new(|| expression(r"[A-Za-z][A-Za-z0-9_./-]*[A-Za-z0-9]"));

/// The least length of a word without quotes that is taken for an option's name.
const SHORTEST_WORD: usize = 5;

fn expression(text: &str) -> Regex {
    Regex::new(text).unwrap_or_else(|_| unreachable!("the expressions of this file are tested"))
}

impl Planner<'_> {
    /// The place that a check's words are about; the check's own where nothing better is found.
    pub fn place(&mut self, check: &CheckStep, words: &[String]) -> Place {
        let seen = check.files();
        let texts: BTreeMap<&RelPath, &str> = seen
            .iter()
            .filter_map(|(path, (_, file))| match &file.kind {
                FileKind::Regular(bytes) => Some((*path, std::str::from_utf8(bytes).ok()?)),
                _ => None,
            })
            .collect();
        let spot = spot(words, &check.run.command, &texts);
        let found = spot.and_then(|spot| {
            let (layer, _) = seen.get(&spot.path)?;
            self.origin(layer.overlay.as_str(), layer.of_node, &spot)
        });
        found.unwrap_or_else(|| Place { file: check.file.clone(), line: Some(check.line) })
    }

    fn origin(&mut self, overlay: &str, of_node: bool, spot: &Spot) -> Option<Place> {
        let index = self.overlays.iter().position(|prepared| prepared.overlay.name.as_str() == overlay)?;
        if of_node {
            let node = self.inputs.site.of_role(self.inputs.role).next()?;
            let mut planner = self.nodes();
            let values = planner.values_of(node, index);
            return origin(&self.overlays[index], Scope::Node, spot, values);
        }
        let prepared = &self.overlays[index];
        self.values.set("param", &prepared.parameters);
        origin(prepared, Scope::Role, spot, &mut self.values)
    }
}

fn origin(prepared: &Prepared<'_>, scope: Scope, spot: &Spot, values: &mut Values) -> Option<Place> {
    let overlay = prepared.overlay;
    let Some(entry) = prepared.entry(&spot.path, scope, values) else {
        return overlay_place(overlay, prepared.implied_line(&spot.path)?);
    };
    let line = overlay.line(entry.path.span());
    let written = spot.line.and_then(|at| written(prepared, entry, at, values));
    written.or_else(|| overlay_place(overlay, line))
}

fn overlay_place(overlay: &LoadedOverlay, line: usize) -> Option<Place> {
    Some(Place { file: overlay.file.clone(), line: Some(line) })
}

/// What wrote a line of a file.
fn written(prepared: &Prepared<'_>, entry: &FileEntry, at: usize, values: &Values) -> Option<Place> {
    let overlay = prepared.overlay;
    if let Some(name) = &entry.template {
        let (file, line) = prepared.templates().origin(name, values, at)?;
        return Some(Place { file, line: Some(line) });
    }
    if let Some(name) = &entry.source {
        return Some(Place { file: overlay.file.with_file_name("files").join(name), line: Some(at) });
    }
    let index = overlay.overlay.files.iter().position(|one| std::ptr::eq(one, entry))?;
    let key = overlay.lines().of(&["file", &index.to_string(), "content"])?;
    let opens = overlay.text.lines().nth(key - 1)?.trim_end();
    // The newline after the opening quotes is no part of the content.
    let first = if opens.ends_with("\"\"\"") || opens.ends_with("'''") { key + 1 } else { key };
    overlay_place(overlay, first + at - 1)
}

/// The line of a file that the words mean. A path with a number is the best there is; then an option's name.
fn spot(words: &[String], command: &[String], texts: &BTreeMap<&RelPath, &str>) -> Option<Spot> {
    let named = |path: &RelPath| command.iter().any(|word| word.contains(&path.to_string()));
    // The files that the command names first: a word of the message may be an option of any other.
    let (given, others): (Vec<&RelPath>, Vec<&RelPath>) = texts.keys().copied().partition(|path| named(path));
    let likely: Vec<&RelPath> = given.iter().chain(&others).copied().collect();
    let mut file_only = None;
    for line in words {
        if let Some((path, at)) = mentioned(line, texts) {
            let in_file = |at: &usize| (1..=texts[path].lines().count()).contains(at);
            if let Some(at) = at.filter(in_file) {
                return Some(Spot { path: path.clone(), line: Some(at) });
            }
            if let Some(at) = names(line).iter().find_map(|name| line_of(texts[path], name)) {
                return Some(Spot { path: path.clone(), line: Some(at) });
            }
            file_only.get_or_insert_with(|| Spot { path: path.clone(), line: None });
        }
    }
    if let Some(spot) = file_only {
        // Another line may name an option of the same file.
        let at = words.iter().flat_map(|line| names(line)).find_map(|name| line_of(texts[&spot.path], &name));
        return Some(Spot { line: at, ..spot });
    }
    for line in words {
        let names = names(line);
        for paths in [&given, &others] {
            for (name, path) in names.iter().flat_map(|name| paths.iter().map(move |path| (name, *path))) {
                if let Some(at) = line_of(texts[path], name) {
                    return Some(Spot { path: path.clone(), line: Some(at) });
                }
            }
        }
        // A number without a file: only where there is no choice.
        let mut only = texts.keys().filter(|path| named(path));
        let only = only.next().filter(|_| only.next().is_none()).or_else(|| texts.keys().next().filter(|_| texts.len() == 1));
        if let (Some(path), Some(at)) = (only, LINE.captures(line).and_then(|found| found[1].parse().ok())) {
            return Some(Spot { path: (*path).clone(), line: Some(at) });
        }
    }
    // Not an option's name, but its value.
    let quoted = words.iter().flat_map(|line| QUOTED.captures_iter(line).map(|found| found[1].to_string()).collect::<Vec<_>>());
    quoted.filter(|value| value.len() >= SHORTEST_WORD).find_map(|value| {
        let has = |path: &&&RelPath| {
            texts[**path].lines().position(|line| line.contains(&value) && !line.trim_start().starts_with('#'))
        };
        likely.iter().find_map(|path| has(&path).map(|at| Spot { path: (*path).clone(), line: Some(at + 1) }))
    })
}

/// The first known path in a line, the longest where one begins like another, and the number that goes with it.
fn mentioned<'a>(line: &str, texts: &BTreeMap<&'a RelPath, &str>) -> Option<(&'a RelPath, Option<usize>)> {
    let found = texts.keys().filter_map(|path| {
        let name = path.to_string();
        let at = line.find(&name)?;
        let rest = &line[at + name.len()..];
        // Not the beginning of another file's name.
        let ends = !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_' || c == '/' || c == '-')
            && !rest.strip_prefix('.').is_some_and(|rest| rest.starts_with(char::is_alphanumeric));
        ends.then_some((at, std::cmp::Reverse(name.len()), *path, rest))
    });
    let (_, _, path, rest) = found.min_by_key(|(at, length, _, _)| (*at, *length)).or_else(|| by_name(line, texts))?;
    let number = BEHIND.captures(rest).or_else(|| LINE.captures(line));
    Some((path, number.and_then(|number| number[1].parse().ok())))
}

/// The file of a path that leads to it by a link: the only one of that name.
fn by_name<'a, 'l>(
    line: &'l str,
    texts: &BTreeMap<&'a RelPath, &str>,
) -> Option<(usize, std::cmp::Reverse<usize>, &'a RelPath, &'l str)> {
    PATH.find_iter(line).find_map(|found| {
        let name = found.as_str().rsplit('/').next().unwrap_or_default();
        let mut same = texts.keys().filter(|path| path.name() == name);
        let path = same.next().filter(|_| same.next().is_none())?;
        Some((found.start(), std::cmp::Reverse(0), *path, &line[found.end()..]))
    })
}

/// What in a line may be an option's name, the likeliest first: what is in quotes, then words, the longest first. A short
/// word is more likely one of the sentence's own: "no name for this host".
fn names(line: &str) -> Vec<String> {
    let mut names: Vec<String> = QUOTED.captures_iter(line).map(|found| found[1].to_string()).collect();
    let words = WORD.find_iter(line).map(|word| word.as_str().to_string());
    let mut words: Vec<String> =
        words.filter(|word| word.len() >= SHORTEST_WORD || word.contains(['_', '-', '.', '/'])).collect();
    words.sort_by_key(|word| std::cmp::Reverse(word.len()));
    names.extend(words);
    names
}

/// The first line that sets an option: `name = …`, `name: …`, `name …`, `--name=…`. `GROUP/NAME` is looked for in its group.
fn line_of(text: &str, name: &str) -> Option<usize> {
    let name = name.split('=').next().unwrap_or_default().trim();
    let (group, name) = name.rsplit_once('/').map_or((None, name), |(group, name)| (Some(group), name));
    let plain = |text: &str| text.trim_start_matches('-').replace('-', "_").to_ascii_lowercase();
    let wanted = plain(name);
    if wanted.len() < 2 {
        return None;
    }
    let mut here = "DEFAULT";
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[') {
            here = header.split(']').next().unwrap_or_default();
        }
        let key = line.split(|c: char| c == '=' || c == ':' || c.is_whitespace()).next().unwrap_or_default();
        if plain(key.trim_matches(['"', '\''])) == wanted && group.is_none_or(|group| group.ends_with(here)) {
            return Some(index + 1);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where words lead, in these files, as `PATH:LINE`.
    fn leads(words: &str, command: &str, files: &[(&str, &str)]) -> String {
        let paths: Vec<RelPath> = files.iter().map(|(path, _)| path.parse().unwrap()).collect();
        let texts = paths.iter().zip(files).map(|(path, (_, text))| (path, *text)).collect();
        let words: Vec<String> = words.lines().map(str::to_string).collect();
        let command: Vec<String> = command.split(' ').map(str::to_string).collect();
        match spot(&words, &command, &texts) {
            Some(Spot { path, line: Some(line) }) => format!("{path}:{line}"),
            Some(Spot { path, line: None }) => path.to_string(),
            None => "nowhere".to_string(),
        }
    }

    #[test]
    fn a_path_with_a_number_is_taken_in_every_spelling() {
        let files = [("/etc/a.conf", "1\n2\n3\n4\n"), ("/etc/a.conf.d/b.conf", "1\n2\n3\n4\n")];
        for words in [
            "[ALERT] parsing [/etc/a.conf:3] : unknown keyword",
            "/etc/a.conf: line 3: Bad configuration option",
            "Syntax error on line 3 of /etc/a.conf:",
            "Invalid directive at line 3 in file /etc/a.conf",
            "error during parsing file /etc/a.conf, on or before line 3: invalid",
            "  File \"/etc/a.conf\", line 3, in <module>",
            "/etc/a.conf:3:5-9: Error: syntax error",
        ] {
            assert_eq!(leads(words, "x", &files), "/etc/a.conf:3", "{words}");
        }
        assert_eq!(leads("/etc/a.conf.d/b.conf:2: x", "x", &files), "/etc/a.conf.d/b.conf:2");
        assert_eq!(leads("/etc/other.conf:2: x", "x", &files), "nowhere");
        assert_eq!(leads("Syntax error on line 3 of /enabled/b.conf:", "x", &files), "/etc/a.conf.d/b.conf:3");
    }

    #[test]
    fn an_option_is_looked_for_in_its_group_and_first_in_the_file_that_the_command_names() {
        let files = [("/etc/a.ini", "[one]\nkey = 1\n[two]\nkey = 2\n"), ("/etc/b.ini", "[two]\nother = 1\nkey = 3\n")];
        assert_eq!(leads("ERROR:root:two/key not found", "check /etc/b.ini", &files), "/etc/b.ini:3");
        assert_eq!(leads("ERROR:root:two/key not found", "check /etc/a.ini", &files), "/etc/a.ini:4");
        assert_eq!(leads("unknown variable 'other=1'", "check", &files), "/etc/b.ini:2");
        assert_eq!(leads("unrecognized option '--other'", "check", &files), "/etc/b.ini:2");
        assert_eq!(leads("something is wrong", "check", &files), "nowhere");
        assert_eq!(leads("cannot parse /etc/b.ini\nno such other", "check /etc/a.ini", &files), "/etc/b.ini:2");
        assert_eq!(leads("cannot parse /etc/b.ini", "check /etc/a.ini", &files), "/etc/b.ini");
    }

    #[test]
    fn a_value_in_quotes_is_looked_for_where_no_option_is_named() {
        let files = [("/etc/a.conf", "# \"modulo\"\nmodule(load=\"modulo\")\n")];
        assert_eq!(leads("could not load module 'modulo'", "check", &files), "/etc/a.conf:2");
    }

    /// Every line of every file that the shipped site renders, and what cannot be traced to a line of a template.
    #[test]
    fn every_line_of_the_shipped_templates_is_traced() {
        use crate::model::load::Project;
        let project = Project { root: env!("CARGO_MANIFEST_DIR").into() };
        let site_file = project.root.join("site.toml");
        let site = Project::site(&site_file).unwrap();
        let (options, _) = crate::model::options::of_site(&project.options().unwrap(), &site, &site_file).unwrap();
        let mut lost = Vec::new();
        for release_name in ["epoxy-debian13", "train-centos7"].map(|name| name.parse().unwrap()) {
            let release = project.release(&release_name).unwrap();
            for role in project.roles() {
                let recipe = project.recipe(role).unwrap();
                let recipe_file = project.recipe_path(role);
                let overlays = project.overlays(&recipe, &recipe_file).unwrap();
                let secrets = crate::plan::secrets::declared(overlays.iter()).unwrap();
                let inputs = crate::plan::Inputs {
                    site: &site,
                    site_file: &site_file,
                    role,
                    recipe: &recipe,
                    recipe_file: &recipe_file,
                    overlays: &overlays,
                    release_name: &release_name,
                    release: &release,
                    options: &options,
                    secrets: &secrets,
                };
                let planner = Planner::new(inputs).unwrap();
                let mut nodes = planner.nodes();
                let node = site.of_role(role).next().unwrap();
                for (index, prepared) in planner.overlays.iter().enumerate() {
                    let of_node = nodes.values_of(node, index);
                    let mut of_role = planner.values.only(|_| true);
                    of_role.set("param", &prepared.parameters);
                    for (scope, values) in [(Scope::Node, of_node), (Scope::Role, &mut of_role)] {
                        for path in prepared.files(scope, &planner.accounts, &secrets, values).unwrap().into_keys() {
                            let Some(name) = prepared.entry(&path, scope, values).and_then(|entry| entry.template.as_deref())
                            else {
                                continue;
                            };
                            let text = prepared.templates().render(name, values).unwrap();
                            let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
                            let untraced = |at: usize| prepared.templates().origin(name, values, at).is_none();
                            lost.extend(
                                lines
                                    .filter(|(at, _)| untraced(at + 1))
                                    .map(|(_, line)| format!("{}/{name}: {line}", prepared.overlay.name)),
                            );
                        }
                    }
                }
            }
        }
        assert_eq!(lost, Vec::<String>::new());
    }

    #[test]
    fn a_number_without_a_file_counts_only_where_there_is_one_file() {
        let one = [("/etc/a.conf", "x\ny\n")];
        assert_eq!(leads("parser error: line 2: unexpected brace", "check", &one), "/etc/a.conf:2");
        let two = [one[0], ("/etc/b.conf", "x\ny\n")];
        assert_eq!(leads("parser error: line 2: unexpected brace", "check", &two), "nowhere");
        assert_eq!(leads("parser error: line 2: unexpected brace", "check /etc/b.conf", &two), "/etc/b.conf:2");
    }
}
