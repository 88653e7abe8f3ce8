//! The operator's guide as tables (`tests/fixtures/guide`), the trees that the program renders, and the list of
//! deviations, in a form in which they can be compared.

pub mod deviations;
pub mod format;
pub mod tree;

use std::path::PathBuf;

/// The project's folder. Cargo says it when it runs a test, too, so that a built test can judge another checkout.
pub fn project() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from)
}

/// Where the tables are.
pub fn folder() -> PathBuf {
    project().join("tests/fixtures/guide")
}

/// The rows of a table, without its header: tab separated, no quoting.
pub fn table(name: &str) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(folder().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let columns = text.lines().next().map_or(0, |header| header.split('\t').count());
    let row = |line: &str| {
        let mut row: Vec<String> = line.split('\t').map(str::to_string).collect();
        row.resize(columns, String::new());
        row
    };
    text.lines().skip(1).map(row).collect()
}

/// What the guide says at one place, and what the image has there.
#[derive(Debug)]
pub struct Row {
    /// The table's file name without its suffix.
    pub table: &'static str,
    /// The role, `all` for every one.
    pub role: String,
    /// A node, or `*`.
    pub node: String,
    /// The file, the listener's table, the package list.
    pub file: String,
    /// The section, the listener.
    pub section: String,
    /// The key, the column, the package, the unit.
    pub key: String,
    /// What the guide has.
    pub guide: String,
    /// The first node that has something else, and what; `None` where all is as in the guide.
    pub found: Option<Found>,
}

/// What an image has in place of the guide's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The node.
    pub node: String,
    /// Its values; empty where there is none.
    pub values: Vec<String>,
    /// It would be the guide's value if secrets had the guide's.
    pub only_secret: bool,
}

impl Row {
    /// The row on one line, for the report.
    pub fn shown(&self) -> String {
        let place = [&self.role, &self.node, &self.file, &self.section, &self.key];
        let place: Vec<&str> = place.into_iter().map(String::as_str).collect();
        match &self.found {
            None => format!("{} {}", self.table, place.join(" | ")),
            Some(found) => {
                format!("{} {}: guide `{}`, {} has {:?}", self.table, place.join(" | "), self.guide, found.node, found.values)
            }
        }
    }
}
