//! Who may use whom, and who may do what: the order that `src/lib.rs` documents, read from the code.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Module -> the modules that it may use. `node` is a branch of its own: only what prepares or starts it knows it.
const BELOW: [(&str, &[&str]); 11] = [
    ("base", &[]),
    ("model", &["base"]),
    ("node", &["base", "model"]),
    ("plan", &["base", "model"]),
    ("secrets", &["base", "model", "plan"]),
    ("lock", &["base", "model", "plan"]),
    ("store", &["base", "model", "plan"]),
    ("layer", &["base", "model", "plan", "lock", "store"]),
    ("image", &["base", "model", "plan", "secrets", "lock", "store", "layer"]),
    ("deploy", &["base", "model", "plan", "secrets", "lock", "store", "layer", "image"]),
    ("lab", &["base", "model", "node", "plan", "secrets", "lock", "store", "layer", "image", "deploy"]),
];

/// A line of the program; comments and unit tests are left out.
struct Line {
    file: String,
    number: usize,
    text: String,
}

fn sources() -> Vec<Line> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files: Vec<PathBuf> = walkdir::WalkDir::new(&root)
        .into_iter()
        .map(|entry| entry.unwrap().into_path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .filter(|path| path.file_name().is_some_and(|name| name != "tests.rs"))
        .collect();
    files.sort();
    let mut lines = Vec::new();
    for path in files {
        let file = path.strip_prefix(&root).unwrap().display().to_string();
        let text = fs::read_to_string(&path).unwrap();
        // Unit tests end a file, and may use what they like.
        let program = text.split("\n#[cfg(test)]\n").next().unwrap();
        for (index, line) in program.lines().enumerate() {
            if !line.trim_start().starts_with("//") {
                lines.push(Line { file: file.clone(), number: index + 1, text: line.to_string() });
            }
        }
    }
    assert!(lines.len() > 5000, "the sources were not found");
    lines
}

fn module(file: &str) -> &str {
    file.split(['/', '.']).next().unwrap()
}

/// The modules of this crate that a line names: every `crate::NAME`.
fn used(line: &str) -> Vec<&str> {
    line.match_indices("crate::")
        .filter(|(at, _)| !line[..*at].ends_with(|c: char| c == '$' || c.is_alphanumeric() || c == '_'))
        .map(|(at, name)| &line[at + name.len()..])
        .map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap())
        .filter(|name| name.chars().next().is_some_and(char::is_lowercase))
        .collect()
}

#[test]
fn a_module_uses_only_those_below_it() {
    let below: BTreeMap<&str, &[&str]> = BELOW.into_iter().collect();
    let mut wrong = Vec::new();
    for line in sources() {
        let own = module(&line.file);
        // Macros of the crate live at its root; `cli` is on top.
        let Some(allowed) = below.get(own) else { continue };
        for name in used(&line.text) {
            if name != own && name != "bail" && !allowed.contains(&name) {
                wrong.push(format!("src/{}:{}: {own} uses {name}", line.file, line.number));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_module_has_its_place() {
    let mut found: Vec<String> = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().is_dir() && entry.file_name() != "bin")
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    found.sort();
    let mut known: Vec<&str> = BELOW.iter().map(|(module, _)| *module).chain(["cli"]).collect();
    known.sort_unstable();
    assert_eq!(found, known);
}

/// Where lines hold one of `words` but may not.
fn outside(words: &[&str], allowed: impl Fn(&str) -> bool) -> String {
    let found = |line: &Line| words.iter().any(|word| holds(&line.text, word)) && !allowed(&line.file);
    let places =
        sources().into_iter().filter(found).map(|line| format!("src/{}:{}: {}\n", line.file, line.number, line.text.trim()));
    places.collect()
}

/// Whether a line has the word, not as the end of a longer one (`println!` is no `eprintln!`).
fn holds(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

#[test]
fn only_the_command_lines_terminal_and_the_nodes_console_print() {
    let words = ["println!", "eprintln!", "print!", "eprint!", "io::stdout()", "io::stderr()"];
    // The report asks whether somebody looks on; the lab passes on what a command in a node says.
    assert_eq!(
        outside(&words, |file| ["cli/terminal.rs", "cli/report.rs", "node/console.rs", "lab/outside.rs"].contains(&file)),
        ""
    );
}

#[test]
fn only_the_one_door_starts_processes() {
    // The sandbox and the node replace themselves by the program they were made for.
    let allowed = |file: &str| file == "base/tool.rs" || file == "layer/sandbox.rs" || module(file) == "node";
    assert_eq!(outside(&["Command::new", "process::Command", "duct::cmd"], allowed), "");
}

#[test]
fn what_makes_bytes_starts_no_program_that_the_machine_happens_to_have() {
    // The sandbox starts this very program; ids are given by newuidmap; the machine's dnf is asked where a release says so by
    // naming no solver, and the command line tells. The rest runs images and writes none.
    let apart = ["base/tool.rs", "layer/sandbox.rs", "layer/user_namespace.rs", "lock/rpm/dnf.rs", "cli/serve.rs"];
    assert_eq!(outside(&["Tool::new"], |file| apart.contains(&file) || ["lab", "node"].contains(&module(file))), "");
}

#[test]
fn only_the_lock_opens_the_network_and_a_node_asks_its_peers() {
    let words = ["ureq::", "TcpStream", "TcpListener", "UdpSocket"];
    assert_eq!(outside(&words, |file| ["lock", "deploy", "node"].contains(&module(file))), "");
}

#[test]
fn a_violation_would_be_found() {
    assert_eq!(used("use crate::cli::main; // and pub(crate) fn f(x: crate::store::Blob)"), ["cli", "store"]);
    assert_eq!(used("use $crate::base::x; pub(crate) use super::y"), Vec::<&str>::new());
    assert!(holds("    println!(\"x\")", "println!") && !holds("    eprintln!(\"x\")", "println!"));
}
