//! Every service that has a checker sees its own mistake before an image is made: one broken option per service, the service's
//! own words, and the line that a person has to correct. The cases are data: `tests/fixtures/services.toml`.
//!
//! The checks run on the real packages of all three roles, in the user's own store: what is missing there is built first.

mod harness;

use harness::{Ran, Test, role::default_store};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cases {
    case: Vec<Case>,
}

/// One broken option.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    role: String,
    /// The check that finds it, `OVERLAY/NAME`.
    check: String,
    /// Others that read the same file.
    #[serde(default)]
    also: Vec<String>,
    /// The file, and a text that it has exactly once with what comes in its place, or what is added to it.
    file: String,
    replace: Option<String>,
    #[serde(default)]
    with: String,
    #[serde(default)]
    append: String,
    /// A part of a line of the service's words; nothing where the program fails without a word.
    says: String,
    /// Where the error points; the broken line itself where nothing is said here.
    place: Option<String>,
}

impl Case {
    fn overlay(&self) -> &str {
        self.check.split('/').next().unwrap()
    }

    fn broken(&self, test: Test) -> Test {
        match &self.replace {
            Some(old) => test.replace(&self.file, old, &self.with),
            None => test.append(&self.file, &self.append),
        }
    }

    /// Where the broken line is.
    fn place(&self, test: &Test) -> String {
        if let Some(place) = &self.place {
            return place.clone();
        }
        let text = std::fs::read_to_string(test.project().join(&self.file)).unwrap();
        let new = if self.replace.is_some() { &self.with } else { &self.append };
        // The line that matters is the last one that is not empty.
        let end = text.rfind(new.as_str()).unwrap() + new.trim_end().len();
        format!("{}:{}", self.file, 1 + text[..end].matches('\n').count())
    }
}

/// The errors of a run by check: the first line, which has the place, and the service's words.
fn errors(ran: &Ran, role: &str) -> BTreeMap<String, (String, String)> {
    let mut errors = BTreeMap::new();
    let stderr = format!("\n{}", ran.stderr());
    for error in stderr.split("\nerror: ").skip(1) {
        let (first, rest) = error.split_once('\n').unwrap();
        let place = first.strip_prefix(&format!("checking {role}: ")).unwrap_or_else(|| panic!("{stderr}"));
        let (place, what) = place.split_once(": the check ").unwrap();
        let words = rest.lines().take_while(|line| !line.starts_with("  next: "));
        errors.insert(what.split(' ').next().unwrap().to_string(), (place.to_string(), words.collect::<Vec<_>>().join("\n")));
    }
    errors
}

/// The shipped project with the broken options, checked; what is not as it must be.
fn wrong(role: &str, cases: &[&Case]) -> String {
    let mut test = Test::shipped().with_store(&default_store());
    for case in cases {
        test = case.broken(test);
    }
    let ran = test.run(["check", role]);
    assert_eq!(ran.output.status.code(), Some(1), "{}", ran.stderr());
    let errors = errors(&ran, role);
    let mut wrong = String::new();
    let expected: BTreeSet<&String> = cases.iter().flat_map(|case| case.also.iter().chain([&case.check])).collect();
    if errors.keys().collect::<BTreeSet<_>>() != expected {
        wrong += &format!("failed {:?}, not {expected:?}\n", errors.keys());
    }
    for case in cases {
        let Some((place, words)) = errors.get(&case.check) else { continue };
        let said = if case.says.is_empty() { words.is_empty() } else { words.contains(&case.says) };
        if *place != case.place(&test) || !said {
            wrong += &format!("{}: at {place}, not {}, it says\n{words}\n", case.check, case.place(&test));
        }
    }
    wrong
}

#[test]
fn a_broken_option_of_any_service_is_found_by_that_service_and_shown_at_its_line() {
    harness::must_be_root();
    let cases: Cases = toml::from_str(include_str!("fixtures/services.toml")).unwrap();
    // As it ships, every service takes its files; and what is not broken below has its answer in the store then.
    Test::shipped().with_store(&default_store()).run(["check"]).succeeds();
    // One case of each overlay at a time, so that all of them run side by side.
    let mut rounds: BTreeMap<(usize, &str), Vec<&Case>> = BTreeMap::new();
    let mut before: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for case in &cases.case {
        let round = before.entry((&case.role, case.overlay())).or_default();
        rounds.entry((*round, &case.role)).or_default().push(case);
        *round += 1;
    }
    let wrong: String = rounds.iter().map(|((_, role), cases)| wrong(role, cases)).collect();
    assert_eq!(wrong, "");
}

#[test]
fn every_overlay_with_a_check_of_the_default_release_has_a_case() {
    let cases: Cases = toml::from_str(include_str!("fixtures/services.toml")).unwrap();
    let tried: BTreeSet<&str> = cases.case.iter().map(Case::overlay).collect();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("overlays");
    let mut missing = Vec::new();
    for folder in std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap()) {
        let text = std::fs::read_to_string(folder.path().join("overlay.toml")).unwrap();
        let name = folder.file_name().into_string().unwrap();
        if text.contains("[[check]]") && !tried.contains(name.as_str()) {
            missing.push(name);
        }
    }
    assert_eq!(missing, Vec::<String>::new());
}
