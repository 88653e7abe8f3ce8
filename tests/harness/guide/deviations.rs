//! `docs/deviations.md`: where the images do not do what the guide says, each with its reason.
//!
//! Two kinds of table count, told by their header. `| table | where | file | section | key | pitfall | reason |`: shell
//! patterns that pick rows. `| guide's file | image's files | reason |`: the same settings in another place.

use super::Row;

/// A line of the first kind of table.
#[derive(Debug)]
pub struct Deviation {
    /// Its line in the document.
    pub line: usize,
    patterns: [String; 5],
    /// The pitfalls that are its reason.
    pub pitfalls: Vec<String>,
    /// It speaks only of rows that differ in a secret.
    secret: bool,
}

/// A line of the second kind: settings that moved.
#[derive(Debug)]
pub struct Moved {
    /// Its line in the document.
    pub line: usize,
    /// The guide's file, as in the table.
    pub guide: String,
    /// A shell pattern of the image's files.
    pub image: String,
}

/// Both tables of the document.
pub fn read() -> (Vec<Deviation>, Vec<Moved>) {
    let text = std::fs::read_to_string(super::project().join("docs/deviations.md")).unwrap();
    let (mut deviations, mut moved) = (Vec::new(), Vec::new());
    let mut header = String::new();
    for (index, line) in text.lines().enumerate() {
        let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        match (line.starts_with('|'), cells.as_slice()) {
            (false, _) => header.clear(),
            (true, [first, ..]) if header.is_empty() => header = (*first).to_string(),
            (true, [first, ..]) if first.starts_with("---") => {}
            (true, [table, place, file, section, key, pitfalls, reason]) if header == "table" => {
                assert!(!reason.is_empty(), "docs/deviations.md:{}: no reason", index + 1);
                let secret = *key == "(secret)";
                let key = if secret { "*" } else { key };
                deviations.push(Deviation {
                    line: index + 1,
                    patterns: [table, place, file, section, &key].map(|cell| (*cell).to_string()),
                    pitfalls: pitfalls.split([',', ' ']).filter(|name| !name.is_empty()).map(str::to_string).collect(),
                    secret,
                });
            }
            (true, [guide, image, reason]) if header == "guide's file" => {
                assert!(!reason.is_empty(), "docs/deviations.md:{}: no reason", index + 1);
                moved.push(Moved { line: index + 1, guide: (*guide).to_string(), image: (*image).to_string() });
            }
            _ => panic!("docs/deviations.md:{}: a row of a table must have 7 or 3 cells: {line}", index + 1),
        }
    }
    (deviations, moved)
}

impl Deviation {
    /// Whether this line speaks of a row.
    pub fn covers(&self, row: &Row) -> bool {
        let place = if row.node == "*" { row.role.clone() } else { row.node.clone() };
        let cells = [row.table.to_string(), place, row.file.clone(), row.section.clone(), row.key.clone()];
        let fits = |(pattern, cell): (&String, &String)| match pattern.as_str() {
            // An own name for nothing: an empty cell would be easily overlooked.
            "-" => cell.is_empty(),
            pattern => pattern == cell || glob::Pattern::new(pattern).is_ok_and(|pattern| pattern.matches(cell)),
        };
        self.patterns.iter().zip(&cells).all(fits) && (!self.secret || row.found.as_ref().is_some_and(|found| found.only_secret))
    }
}
