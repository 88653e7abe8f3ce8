//! `--help` of every verb: fits a terminal, and leaves no option without words.

mod harness;

use harness::PROGRAM;
use std::process::Command;

const WIDTH: usize = 100;

fn help(verb: &[&str]) -> String {
    // Wider than the limit, so that the program's own limit shows.
    let output = Command::new(PROGRAM).args(verb).arg("--help").env("COLUMNS", "200").output().unwrap();
    assert!(output.status.success(), "{verb:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The names below `Commands:`.
fn verbs(help: &str) -> Vec<String> {
    let Some((_, list)) = help.split_once("Commands:\n") else { return Vec::new() };
    list.lines()
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .map(|line| line.split_whitespace().next().unwrap().to_string())
        .filter(|name| name != "help")
        .collect()
}

/// Every help there is, by the words that lead to it.
fn all() -> Vec<(Vec<String>, String)> {
    let mut found = Vec::new();
    let mut todo: Vec<Vec<String>> = vec![Vec::new()];
    while let Some(path) = todo.pop() {
        let text = help(&path.iter().map(String::as_str).collect::<Vec<_>>());
        todo.extend(verbs(&text).into_iter().map(|verb| [path.clone(), vec![verb]].concat()));
        found.push((path, text));
    }
    found.sort();
    found
}

#[test]
fn every_verb_has_help() {
    let names: Vec<String> = all().into_iter().map(|(path, _)| path.join(" ")).collect();
    let expected = [
        "",
        "arm",
        "boot",
        "build",
        "check",
        "diff",
        "inspect",
        "kickstart",
        "lab",
        "lab cut",
        "lab down",
        "lab exec",
        "lab heal",
        "lab kill",
        "lab reimage",
        "lab start",
        "lab status",
        "lab up",
        "lab via",
        "lock",
        "netboot",
        "plan",
        "render",
        "secrets",
        "secrets init",
        "secrets list",
        "secrets rotate",
        "secrets set",
        "seed",
        "serve",
        "store",
        "store gc",
        "store ls",
        "store verify",
    ];
    assert_eq!(names, expected);
}

#[test]
fn no_line_is_wider_than_a_terminal() {
    for (verb, text) in all() {
        for line in text.lines() {
            assert!(line.chars().count() <= WIDTH, "{}: {line}", verb.join(" "));
        }
    }
}

/// Options, arguments and verbs without a word about them. A description stands two columns behind the name, or below it.
fn bare(help: &str) -> Vec<&str> {
    let lines: Vec<&str> = help.lines().collect();
    let name = |line: &str| {
        let text = line.trim_start();
        line.starts_with("  ") && line.len() - text.len() <= 6 && (text.starts_with(['-', '<', '[']))
    };
    let undescribed = |index: &usize| {
        let inline = lines[*index].trim_start().contains("  ");
        let below = lines.get(index + 1).is_some_and(|next| next.starts_with("          ") && !next.trim().is_empty());
        !inline && !below
    };
    (0..lines.len()).filter(|index| name(lines[*index])).filter(undescribed).map(|index| lines[index]).collect()
}

#[test]
fn every_option_and_argument_has_words() {
    for (verb, text) in all() {
        assert_eq!(bare(&text), Vec::<&str>::new(), "{}", verb.join(" "));
    }
}

#[test]
fn an_option_without_words_would_be_found() {
    let text = "Options:\n      --a <X>  Words\n      --b\n  -c, --cc\n          Words\n  [D]\n\n  -h  Help\n";
    assert_eq!(bare(text), ["      --b", "  [D]"]);
}
