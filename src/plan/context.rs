//! What templates see.

use crate::base::error::{Error, Result};
use crate::base::name::{Role, Word};
use crate::model::load::LoadedOverlay;
use crate::model::overlay::Parameters;
use crate::model::recipe::Recipe;
use crate::model::site::{Network, Node, Site};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::path::Path;

/// What templates see, by name.
///
/// A context of tera shares nothing with another one, and the lists of a large site's nodes are megabytes: so there is one
/// for a role, in which `param` is set for one overlay after the other.
pub struct Values {
    tera: tera::Context,
    names: BTreeSet<String>,
}

impl Values {
    /// The values of a table.
    pub fn new(table: Map<String, Value>) -> Self {
        let names = table.keys().cloned().collect();
        let tera = tera::Context::from_value(Value::Object(table)).unwrap_or_else(|_| unreachable!("a table is one"));
        Self { tera, names }
    }

    /// The values of a JSON object, as `json!` makes one; nothing of any other value.
    pub fn of(table: Value) -> Self {
        Self::new(if let Value::Object(table) = table { table } else { Map::new() })
    }

    /// Adds a value, or replaces it.
    pub fn set(&mut self, name: &str, value: &Value) {
        self.names.insert(name.to_string());
        self.tera.insert(name, value);
    }

    /// Takes a value away.
    pub fn remove(&mut self, name: &str) {
        self.names.remove(name);
        self.tera.remove(name);
    }

    /// A value.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.tera.get(name)
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// A copy that has only the values whose names are wanted.
    pub fn only(&self, wanted: impl Fn(&str) -> bool) -> Self {
        let kept = self.names().filter(|name| wanted(name));
        Self::new(kept.filter_map(|name| Some((name.to_string(), self.get(name)?.clone()))).collect())
    }

    /// The same as tera takes it.
    pub fn tera(&self) -> &tera::Context {
        &self.tera
    }
}

/// The values of a role's templates: those of the site and of the role. `param` is the overlay's, `node` only there where a
/// file is a node's own.
pub fn of_role(site: &Site, role: Role, release: &Word, options: &Parameters) -> Values {
    let nodes = |role: Option<Role>| -> Value {
        Role::ALL
            .into_iter()
            .filter(|one| role.is_none_or(|role| role == *one))
            .flat_map(|one| site.of_role(one).enumerate().map(|(index, node)| node_value(node, index + 1)))
            .collect()
    };
    let value = json!({
        "site": { "name": site.name, "region": site.region, "time_zone": site.time_zone },
        "network": { "management": network(&site.management), "external": network(&site.external), "provider": site.provider },
        "nodes": nodes(None),
        "controllers": nodes(Some(Role::Controller)),
        "computes": nodes(Some(Role::Compute)),
        "storages": nodes(Some(Role::Storage)),
        "role": role.as_str(),
        "release": release,
        "dns": site.dns,
        "ntp": site.ntp,
        "authorized_keys": site.authorized_keys,
        "option": options,
    });
    match value {
        Value::Object(map) => Values::new(map),
        _ => unreachable!("json! made an object"),
    }
}

fn network(network: &Network) -> Value {
    json!({
        "subnet": network.subnet,
        "address": network.subnet.address(),
        "prefix": network.subnet.prefix(),
        "netmask": network.subnet.netmask(),
        "vip": network.vip,
        "gateway": network.gateway,
        "mtu": network.mtu,
        "vlan": network.vlan,
    })
}

/// What a template sees of a node; `index` is its place among those of its role, from 1.
pub fn node_value(node: &Node, index: usize) -> Value {
    json!({
        "name": node.name, "role": node.role, "index": index,
        "management": node.management, "external": node.external,
        "mac": node.mac, "external_mac": node.external_mac, "serial": node.serial,
        "provider_interface": node.provider_interface,
        "memory_mib": node.memory_mib, "cores": node.cores, "fence": node.fence,
    })
}

/// What the templates of a node's own files see of it: its interfaces, too. In the lists of all nodes they would be most of a
/// large site's memory.
pub fn own_value(node: &Node, index: usize) -> Value {
    let mut value = node_value(node, index);
    value["interfaces"] = json!(node.interfaces);
    value
}

/// An overlay's parameters: its defaults, then the recipe's values, then the site's.
///
/// # Errors
/// A parameter that the overlay does not have, or a value of another type than its default's.
pub fn parameters(
    overlay: &LoadedOverlay,
    recipe: &Recipe,
    recipe_file: &Path,
    site: &Site,
    site_file: &Path,
) -> Result<Parameters> {
    let mut merged = overlay.overlay.parameters.clone();
    for (file, lines, values) in [
        (recipe_file, &recipe.lines, recipe.parameters.get(&overlay.name)),
        (site_file, &site.lines, site.parameters.get(&overlay.name)),
    ] {
        for (name, value) in values.into_iter().flatten() {
            let line = lines.of(&["parameters", overlay.name.as_str(), name]);
            let Some(old) = merged.get(name) else {
                let known: Vec<&str> = merged.keys().map(String::as_str).collect();
                let known =
                    if known.is_empty() { "it has none".to_string() } else { format!("use one of: {}", known.join(", ")) };
                return Err(Error::new(format!("the overlay {} has no parameter `{name}`", overlay.name))
                    .at(file, line)
                    .next(known));
            };
            if !old.same_type(value) {
                let cause =
                    format!("the parameter `{name}` of {} is of type {}, not {}", overlay.name, old.type_str(), value.type_str());
                return Err(Error::new(cause).at(file, line).next(format!("write a value such as {old}")));
            }
            merged.insert(name.clone(), value.clone());
        }
    }
    Ok(merged)
}
