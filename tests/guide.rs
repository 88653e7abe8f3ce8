//! The release `train-centos7` does what the guide says, or `docs/deviations.md` says why not.

mod harness;

use harness::guide::deviations::{self, Moved};
use harness::guide::format::{self, Format, haproxy_lines, squeezed};
use harness::guide::tree::{Tree, Trees};
use harness::guide::{Found, Row, folder, table};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;

/// The nodes that a row speaks of.
fn nodes<'a>(trees: &'a Trees, role: &str, node: &str) -> Vec<(&'a String, &'a Tree)> {
    let fits = |(name, tree): &(&String, &Tree)| (role == "all" || tree.role == role) && (node == "*" || *name == node);
    trees.nodes.iter().filter(fits).collect()
}

/// The values that a node has where a row of `settings.tsv` looks.
fn setting(trees: &Trees, moved: &[Moved], tree: &Tree, [file, section, key]: [&str; 3]) -> Vec<String> {
    let folder = file.trim_end_matches('/');
    let files: Vec<&str> = match moved.iter().filter(|one| one.guide == file).map(|one| one.image.as_str()).collect::<Vec<_>>() {
        elsewhere if !elsewhere.is_empty() => elsewhere,
        _ => vec![file],
    };
    let entry = || tree.files.get(files[0]).or_else(|| tree.files.get(folder));
    match key {
        "(symlink)" => tree.link(files[0]).map(str::to_string).into_iter().collect(),
        "(owner)" => entry().map(|file| trees.owner(file)).into_iter().collect(),
        "(mode)" | "(directory mode)" => entry().map(|file| format!("{:04o}", file.mode)).into_iter().collect(),
        "(plugins)" => tree.texts(files[0]).iter().map(|text| text.trim_matches(['[', ']', '.', '\n']).to_string()).collect(),
        "(content)" => identical(trees, tree, folder),
        _ if file == "(kernel module)" => {
            let loaded = tree.texts("/etc/modules-load.d/*.conf").iter().any(|text| text.lines().any(|line| line == key));
            loaded.then(|| "loaded".to_string()).into_iter().collect()
        }
        _ => {
            let texts = files.iter().flat_map(|file| tree.texts(file));
            texts.flat_map(|text| Format::of(file).values(&text, section, key)).collect()
        }
    }
}

/// What the guide says of files that it copies from controller to controller.
fn identical(trees: &Trees, tree: &Tree, path: &str) -> Vec<String> {
    let content = |tree: &Tree| -> Vec<(String, String)> {
        let inside = tree.files.iter().filter(|(name, _)| *name == path || name.starts_with(&format!("{path}/")));
        inside.map(|(name, file)| (name.clone(), file.identity())).collect()
    };
    let same = trees.nodes.values().filter(|other| other.role == tree.role).all(|other| content(other) == content(tree));
    if same && !content(tree).is_empty() { vec!["(identical on the three controllers)".to_string()] } else { Vec::new() }
}

fn settings(trees: &Trees, moved: &[Moved]) -> Vec<Row> {
    let mut rows = Vec::new();
    for row in table("settings.tsv") {
        let [role, node, file, section, key, value, ..] = row.as_slice() else {
            panic!("a row of settings.tsv is too short: {row:?}")
        };
        let mut found = None;
        for (name, tree) in nodes(trees, role, node) {
            let values = setting(trees, moved, tree, [file, section, key]);
            let guide = if Format::of(file) == Format::Python {
                format::python_value(value, "OPENSTACK_HOST = '172.16.181.30'")
            } else {
                squeezed(value)
            };
            if !values.iter().any(|value| same(value, &guide, file)) {
                let only_secret = values.iter().any(|value| trees.with_guide_secrets(value) == guide);
                found = Some(Found { node: name.clone(), values, only_secret });
                break;
            }
        }
        rows.push(Row {
            table: "settings",
            role: role.clone(),
            node: node.clone(),
            file: file.clone(),
            section: section.clone(),
            key: key.clone(),
            guide: value.clone(),
            found,
        });
    }
    rows
}

/// Whether a value is the guide's: oslo.config and others take a truth value in any case.
fn same(value: &str, guide: &str, file: &str) -> bool {
    let truth = |text: &str| text.eq_ignore_ascii_case("true") || text.eq_ignore_ascii_case("false");
    value == guide || (Format::of(file) != Format::Python && truth(guide) && value.eq_ignore_ascii_case(guide))
}

/// The columns of a listener as `haproxy.tsv` writes them.
fn listener(text: &str, name: &str) -> BTreeMap<&'static str, String> {
    let lines = haproxy_lines(text, &format!("listen {name}"));
    let value = |key: &str| lines.iter().find_map(|line| Some(line.strip_prefix(key)?.trim().to_string()));
    let mut options: Vec<String> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("option ").or_else(|| line.starts_with("stats ").then_some(line)))
        .map(squeezed)
        .collect();
    options.sort();
    let timeouts: Vec<String> =
        lines.iter().filter_map(|line| line.strip_prefix("timeout ")).map(|line| line.replace(' ', "=")).collect();
    let (mut backends, mut check) = (Vec::new(), String::new());
    for server in lines.iter().filter_map(|line| line.strip_prefix("server ")) {
        let words: Vec<&str> = server.split(' ').collect();
        let backup = if words.contains(&"backup") { ":backup" } else { "" };
        backends.push(format!("{}={}{backup}", words[0], words.get(1).copied().unwrap_or_default()));
        let at = |name: &str| {
            words
                .iter()
                .position(|word| *word == name)
                .and_then(|index| words.get(index + 1))
                .map(|value| format!(",{name}={value}"))
        };
        check = if words.contains(&"check") {
            let parts: String = ["port", "inter", "rise", "fall"].into_iter().filter_map(at).collect();
            format!("check{parts}")
        } else {
            String::new()
        };
    }
    BTreeMap::from([
        ("bind", value("bind ").unwrap_or_default()),
        ("mode", value("mode ").unwrap_or_default()),
        ("balance", value("balance ").unwrap_or_default()),
        ("options", options.join(",")),
        ("timeouts", timeouts.join(",")),
        ("backends", backends.join(",")),
        ("check", check),
    ])
}

fn listeners(trees: &Trees) -> Vec<Row> {
    const COLUMNS: [&str; 7] = ["bind", "mode", "balance", "options", "timeouts", "backends", "check"];
    let mut rows = Vec::new();
    for row in table("haproxy.tsv") {
        for (column, written) in COLUMNS.into_iter().zip(&row[1..]) {
            let mut guide = written.clone();
            if column == "options" {
                let mut sorted: Vec<&str> = written.split(',').filter(|option| !option.is_empty()).collect();
                sorted.sort_unstable();
                guide = sorted.join(",");
            }
            let mut found = None;
            for (name, tree) in nodes(trees, "controller", "*") {
                let text = tree.texts("/etc/haproxy/haproxy.cfg").concat();
                let value = listener(&text, &row[0])[column].clone();
                if value != guide {
                    let only_secret = trees.with_guide_secrets(&value) == guide;
                    found = Some(Found { node: name.clone(), values: vec![value], only_secret });
                    break;
                }
            }
            rows.push(Row {
                table: "haproxy",
                role: "controller".to_string(),
                node: "*".to_string(),
                file: "/etc/haproxy/haproxy.cfg".to_string(),
                section: row[0].clone(),
                key: column.to_string(),
                guide,
                found,
            });
        }
    }
    rows
}

fn packages(trees: &Trees) -> Vec<Row> {
    let mut rows = Vec::new();
    for row in table("packages.tsv") {
        let missing = trees.packages.iter().find(|(role, set)| (row[0] == "all" || **role == row[0]) && !set.contains(&row[1]));
        rows.push(Row {
            table: "packages",
            role: row[0].clone(),
            node: "*".to_string(),
            file: String::new(),
            section: String::new(),
            key: row[1].clone(),
            guide: "installed".to_string(),
            found: missing.map(|(role, _)| Found { node: role.clone(), values: Vec::new(), only_secret: false }),
        });
    }
    rows
}

/// Pacemaker starts what it manages; for systemd such a unit is not enabled. Of several rows of a unit the last one counts.
fn services(trees: &Trees) -> Vec<Row> {
    let mut wanted: BTreeMap<(String, String), String> = BTreeMap::new();
    let table = table("services.tsv");
    for row in &table {
        wanted.insert((row[0].clone(), row[1].clone()), row[2].clone());
    }
    let row = |row: &Vec<String>| {
        let wanted = &wanted[&(row[0].clone(), row[1].clone())];
        let other = nodes(trees, &row[0], "*").into_iter().find(|(_, tree)| tree.enables(&row[1]) != (wanted == "yes"));
        Row {
            table: "services",
            role: row[0].clone(),
            node: "*".to_string(),
            file: String::new(),
            section: String::new(),
            key: row[1].clone(),
            guide: wanted.clone(),
            found: other.map(|(name, tree)| {
                let state = if tree.enables(&row[1]) { "enabled" } else { "not enabled" };
                Found { node: name.clone(), values: vec![state.to_string()], only_secret: false }
            }),
        }
    };
    table.iter().map(row).collect()
}

/// The pitfalls that may be a reason: number -> class. They come with the tables.
fn pitfalls() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(folder().join("pitfalls.tsv")).unwrap();
    text.lines().filter_map(|line| line.split_once('\t')).map(|(name, class)| (name.to_string(), class.to_string())).collect()
}

#[test]
fn every_row_of_the_guide_is_rendered_or_its_deviation_is_listed_with_a_reason() {
    let trees = Trees::render();
    let (deviations, moved) = deviations::read();
    let rows: Vec<Row> =
        [settings(&trees, &moved), listeners(&trees), packages(&trees), services(&trees)].into_iter().flatten().collect();

    let mut wrong: Vec<String> = Vec::new();
    let mut used: BTreeSet<usize> = BTreeSet::new();
    let mut counts: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
    for row in &rows {
        let by: Vec<usize> = deviations.iter().filter(|one| row.found.is_some() && one.covers(row)).map(|one| one.line).collect();
        let outcome = match (&row.found, by.is_empty()) {
            (None, _) => 0,
            (Some(_), false) => 1,
            (Some(_), true) => 2,
        };
        counts.entry(row.table).or_default()[outcome] += 1;
        used.extend(by);
        if outcome == 2 {
            wrong.push(row.shown());
        }
    }
    for (table, [matching, deviating, failing]) in &counts {
        // Not by println!, which the test runner keeps for itself when all is well.
        let _ =
            writeln!(std::io::stderr(), "guide, {table}: {matching} match, {deviating} deviate with a reason, {failing} fail");
    }
    let classes = pitfalls();
    for one in &deviations {
        if !used.contains(&one.line) {
            wrong.push(format!("docs/deviations.md:{}: no row deviates like this any more", one.line));
        }
        for name in &one.pitfalls {
            match classes.get(name).map(String::as_str) {
                Some("bug" | "insecure-default") => {}
                other => wrong.push(format!("docs/deviations.md:{}: {name} is no reason ({other:?})", one.line)),
            }
        }
        if one.pitfalls.is_empty() {
            wrong.push(format!("docs/deviations.md:{}: names no pitfall", one.line));
        }
    }
    for one in &moved {
        let here = rows.iter().any(|row| row.table == "settings" && row.file == one.guide)
            && trees.nodes.values().any(|tree| !tree.texts(&one.image).is_empty());
        if !here {
            wrong.push(format!("docs/deviations.md:{}: nothing of {} is in {}", one.line, one.guide, one.image));
        }
    }
    assert!(wrong.is_empty(), "{} rows or lines are wrong:\n{}", wrong.len(), wrong.join("\n"));
}
