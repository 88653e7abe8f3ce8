//! Reading the formats of the guide's files: what value does a key have in a section?

use std::collections::BTreeMap;

/// How a file says its settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `[section]`, `key = value` (INI, systemd units, shell variables, sysctl).
    Assignments,
    /// `key value …`; sections are unindented words of HAProxy's.
    Haproxy,
    /// `key value …`; sections are Apache's `<…>` blocks.
    Apache,
    /// `key value …`, no sections (hosts, chrony, rsyslog, services).
    Words,
    /// Python; evaluated, values are literals.
    Python,
}

impl Format {
    /// The format of a file of the guide.
    pub fn of(path: &str) -> Self {
        match path {
            "/etc/haproxy/haproxy.cfg" => Self::Haproxy,
            _ if path.starts_with("/etc/httpd/") => Self::Apache,
            "/etc/openstack-dashboard/local_settings" => Self::Python,
            "/etc/hosts" | "/etc/chrony.conf" | "/etc/rsyslog.conf" | "/etc/services" => Self::Words,
            _ => Self::Assignments,
        }
    }

    /// Every value that `key` has in `section`, in the file's order; blanks are single ones.
    pub fn values(self, text: &str, section: &str, key: &str) -> Vec<String> {
        match self {
            Self::Assignments => assignments(text, section, key),
            Self::Haproxy => words(&haproxy_lines(text, section), key),
            Self::Apache => words(&apache_lines(text, section), key),
            Self::Words => words(&lines(text), key),
            Self::Python => python(text).remove(key).into_iter().collect(),
        }
    }
}

/// One blank between words, so that alignment does not matter.
pub fn squeezed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn lines(text: &str) -> Vec<String> {
    let code = |line: &&str| !line.trim_start().starts_with('#') && !line.trim().is_empty();
    text.lines().filter(code).map(squeezed).collect()
}

fn unquoted(value: &str) -> &str {
    let value = value.trim();
    ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote)).unwrap_or(value)
}

fn assignments(text: &str, section: &str, key: &str) -> Vec<String> {
    let mut inside = section.is_empty();
    let mut values = Vec::new();
    let mut headers = Vec::new();
    for line in lines(text) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            inside = name == section;
            headers.push(name.to_string());
        } else if inside
            && let Some((name, value)) = line.trim_start_matches("export ").split_once('=')
            && name.trim() == key
        {
            values.push(squeezed(unquoted(value)));
        }
    }
    if key == "(empty section)" && headers.iter().any(|name| name == section) {
        values.push(String::new());
    }
    values
}

/// The lines of `key` with the key taken off: a key may be several words (`stats socket`).
fn words(lines: &[String], key: &str) -> Vec<String> {
    let rest = |line: &String| match line.strip_prefix(key) {
        Some("") => Some(String::new()),
        Some(rest) => rest.strip_prefix(' ').map(|rest| unquoted(rest).to_string()),
        None => None,
    };
    lines.iter().filter_map(rest).collect()
}

/// The lines of one of HAProxy's sections: `global`, `defaults`, `listen NAME`. A section begins in the first column.
pub fn haproxy_lines(text: &str, section: &str) -> Vec<String> {
    let mut inside = false;
    let mut found = Vec::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#') && !line.trim().is_empty()) {
        if !line.starts_with(' ') {
            inside = squeezed(line) == section;
        } else if inside {
            found.push(squeezed(line));
        }
    }
    found
}

/// The lines of one of Apache's `<…>` blocks, whatever blocks lie around it; with an empty section, of the whole file.
/// The line `<VirtualHost ADDRESS>` counts as key `<VirtualHost>` with that value.
fn apache_lines(text: &str, section: &str) -> Vec<String> {
    let mut open: Vec<String> = Vec::new();
    let mut found = Vec::new();
    for line in lines(text) {
        if line.starts_with("</") {
            open.pop();
        } else if line.starts_with('<') {
            if let Some(address) = line.strip_prefix("<VirtualHost ").and_then(|rest| rest.strip_suffix('>')) {
                found.push(format!("<VirtualHost> {address}"));
            }
            open.push(line);
        } else if section.is_empty() || open.iter().any(|block| block == section) {
            found.push(line);
        }
    }
    found
}

/// The module's names as Python literals, with sorted keys of dictionaries.
fn python(text: &str) -> BTreeMap<String, String> {
    const SCRIPT: &str = "import json,sys\n\
        names = {}\n\
        exec(compile(sys.stdin.read(), 'settings', 'exec'), names)\n\
        def plain(v): return {k: plain(v[k]) for k in sorted(v)} if isinstance(v, dict) else [plain(x) for x in v] if isinstance(v, (list, tuple)) else v\n\
        print(json.dumps({k: repr(plain(v)) for k, v in names.items() if k.isupper()}))";
    evaluate(SCRIPT, text)
}

/// A Python literal or expression of the table in the form in which [`python`] gives values; `names` are defined before.
pub fn python_value(expression: &str, names: &str) -> String {
    python(&format!("{names}\nVALUE_ = {expression}\n")).remove("VALUE_").unwrap_or_default()
}

fn evaluate(script: &str, text: &str) -> BTreeMap<String, String> {
    use std::io::Write as _;
    let mut child = std::process::Command::new("python3")
        .args(["-c", script])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("python3 is installed by scripts/setup test");
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "python3 refuses these settings:\n{text}");
    serde_json::from_slice(&output.stdout).unwrap()
}
