//! What must be drawn for a site: every declaration, once or for each node of the roles that have it.

use crate::base::error::Result;
use crate::base::name::{NodeName, Word};
use crate::model::secret::{Per, SecretEntry, SecretKind};
use crate::model::site::{Node, Site};
use crate::plan::Planner;
use std::collections::BTreeSet;

/// One secret to be drawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its name.
    pub name: Word,
    /// What is drawn.
    pub kind: SecretKind,
    /// Characters of a password, bytes of `hex`.
    pub length: Option<u32>,
    /// The value to take instead of drawing one.
    pub fixed: Option<String>,
    /// The authority that signs it.
    pub ca: Option<Word>,
    /// The node that it is for; none where all have the same.
    pub node: Option<NodeName>,
    /// The names and addresses that a certificate is for.
    pub names: Vec<String>,
}

impl Wanted {
    /// What a declaration asks for, before nodes and names are known.
    pub fn new(entry: &SecretEntry) -> Self {
        Self {
            name: entry.name.get_ref().clone(),
            kind: entry.kind,
            length: entry.length,
            fixed: None,
            ca: entry.ca.clone(),
            node: None,
            names: Vec::new(),
        }
    }
}

/// Everything that the overlays of all roles ask for, authorities first. With `guide`, secrets have the guide's values where
/// it has any. With `only`, of what each node has that node's alone.
///
/// # Errors
/// The template of a certificate's name; with file and line.
pub fn of_site(planners: &[Planner<'_>], site: &Site, guide: bool, only: Option<&Node>) -> Result<Vec<Wanted>> {
    let mut wanted = Vec::new();
    let mut seen = BTreeSet::new();
    for planner in planners {
        let entries = planner.secrets();
        let mut add = |entry: &SecretEntry, node: Option<&Node>, names: Vec<String>| {
            let fixed = entry.guide.clone().filter(|_| guide);
            let node = node.map(|node| node.name.clone());
            wanted.push(Wanted { fixed, node, names, ..Wanted::new(entry) });
        };
        for (entry, names) in planner.site_secrets()? {
            if seen.insert(entry.name.get_ref().clone()) {
                add(entry, None, names);
            }
        }
        if !entries.iter().any(|entry| entry.per == Per::Node) {
            continue;
        }
        let mut nodes = planner.nodes();
        for node in site.of_role(planner.role_name()).filter(|node| only.is_none_or(|only| only.name == node.name)) {
            for (entry, names) in nodes.secrets(node)? {
                add(entry, Some(node), names);
            }
        }
    }
    wanted.sort_by_key(|one| one.ca.is_some());
    Ok(wanted)
}
