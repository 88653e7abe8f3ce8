//! A role made ready to plan: templates parsed, parameters and ports settled; once, for its image and for all its nodes.

use super::context::{self, Values};
use super::files::{Accounts, FileSet, Prepared};
use super::role::{self, Inputs, RolePlan};
use super::secrets::SecretNames;
use super::{Locked, ports};
use crate::base::error::{Error, Result};
use crate::base::name::Role;
use crate::base::parallel;
use crate::base::path::RelPath;
use crate::model::load::LoadedOverlay;
use crate::model::overlay::Scope;
use crate::model::secret::{Per, SecretEntry};
use crate::model::site::Node;
use std::collections::{BTreeMap, HashMap};

/// Plans a role and its nodes.
pub struct Planner<'a> {
    pub(super) inputs: Inputs<'a>,
    pub(super) accounts: Accounts,
    pub(super) overlays: Vec<Prepared<'a>>,
    /// The secrets that the overlays declare.
    names: Vec<SecretNames<'a>>,
    /// What every template of the role sees; `param` is set for each overlay.
    pub(super) values: Values,
    /// Each node's place among those of its role, from 1.
    places: HashMap<&'a str, usize>,
}

/// Plans nodes of a role, one after the other. Threads have one each: it owns what changes from node to node.
pub struct NodePlanner<'p, 'a> {
    planner: &'p Planner<'a>,
    values: Values,
}

impl<'a> Planner<'a> {
    /// Reads what all plans of a role have in common.
    ///
    /// # Errors
    /// A parameter, an account, a template's syntax or a list of ports; with file and line.
    pub fn new(inputs: Inputs<'a>) -> Result<Self> {
        let accounts = Accounts::new(inputs.release, inputs.overlays)?;
        // Most of a plan's time goes into parsing templates.
        let overlays = parallel::each(inputs.overlays, parallel::cores(), "parsing templates", |overlay| {
            let values = context::parameters(overlay, inputs.recipe, inputs.recipe_file, inputs.site, inputs.site_file)?;
            let values = serde_json::to_value(values).map_err(|error| Error::new(error).doing("reading parameters"))?;
            Prepared::new(overlay, inputs.release_name, values)
        })?;
        let mut values = context::of_role(inputs.site, inputs.role, inputs.release_name, inputs.options);
        let ports = ports::of_role(&overlays, inputs.release_name, &mut values)?;
        let ports = serde_json::to_value(ports).map_err(|error| Error::new(error).doing("reading ports"))?;
        values.set("ports", &ports);
        let nodes = inputs.site.of_role(inputs.role).enumerate();
        let places = nodes.map(|(index, node)| (node.name.as_str(), index + 1)).collect();
        let names = SecretNames::of(&overlays)?;
        Ok(Self { inputs, accounts, overlays, names, values, places })
    }

    /// Plans the role's image.
    ///
    /// # Errors
    /// A template, an owner, or two overlays that write the same path; with file and line.
    pub fn role(&mut self, locked: Locked) -> Result<RolePlan> {
        role::plan(self, locked)
    }

    /// The role.
    pub fn role_name(&self) -> Role {
        self.inputs.role
    }

    /// The secrets that the role's overlays declare, each once.
    pub fn secrets(&self) -> Vec<&'a SecretEntry> {
        self.names.iter().map(|names| names.entry).collect()
    }

    /// Those that are the same on every node, with the names that a certificate is for.
    ///
    /// # Errors
    /// The template of a name; with file and line.
    pub fn site_secrets(&self) -> Result<Vec<(&'a SecretEntry, Vec<String>)>> {
        let here = self.names.iter().filter(|names| names.entry.per == Per::Site);
        let mut values = self.values.only(|_| true);
        here.map(|names| Ok((names.entry, names.render(&self.overlays, &mut values)?))).collect()
    }

    /// Makes ready for nodes.
    pub fn nodes(&self) -> NodePlanner<'_, 'a> {
        // The lists of all nodes are copied only where a node's files look at them.
        let names = self.names.iter().filter(|names| names.entry.per == Per::Node);
        let names = names.flat_map(|names| names.entry.names.iter().map(String::as_str));
        let texts: Vec<&str> = self.overlays.iter().flat_map(Prepared::node_texts).chain(names).collect();
        let wanted = |name: &str| texts.iter().any(|text| text.contains(name) || text.contains("__tera_context"));
        NodePlanner { planner: self, values: self.values.only(wanted) }
    }
}

impl<'a> NodePlanner<'_, 'a> {
    /// The secrets of a node's own, with the names that a certificate is for.
    ///
    /// # Errors
    /// The template of a name; with file and line.
    pub fn secrets(&mut self, node: &Node) -> Result<Vec<(&'a SecretEntry, Vec<String>)>> {
        let Planner { overlays, names, .. } = self.planner;
        self.at(node);
        let own = names.iter().filter(|names| names.entry.per == Per::Node);
        own.map(|names| Ok((names.entry, names.render(overlays, &mut self.values)?))).collect()
    }

    fn at(&mut self, node: &Node) {
        let place = self.planner.places.get(node.name.as_str()).copied().unwrap_or_default();
        self.values.set("node", &context::own_value(node, place));
    }

    /// Plans a node of the role: its own files, those of its seed.
    ///
    /// # Errors
    /// A template, an owner, or two overlays that write the same path; with file and line.
    pub fn plan(&mut self, node: &Node) -> Result<FileSet> {
        let mut merged = FileSet::new();
        let mut writers = BTreeMap::<RelPath, _>::new();
        for (overlay, files) in self.by_overlay(node)? {
            for (path, file) in files {
                if let Some(first) = writers.insert(path.clone(), &overlay.name)
                    && !file.overrides
                {
                    return Err(Error::new(format!("{path} is written by the overlay {first} too"))
                        .at(&overlay.file, file.line)
                        .next("remove it from one of the two, or write override = true here"));
                }
                merged.insert(path, file);
            }
        }
        Ok(merged)
    }

    /// What the templates of a node's files see, for one overlay.
    pub(super) fn values_of(&mut self, node: &Node, overlay: usize) -> &mut Values {
        self.at(node);
        self.values.set("param", &self.planner.overlays[overlay].parameters);
        &mut self.values
    }

    /// The same by overlay, in the recipe's order; a path that two of them write is not refused.
    ///
    /// # Errors
    /// A template or an owner; with file and line.
    pub(super) fn by_overlay(&mut self, node: &Node) -> Result<Vec<(&LoadedOverlay, FileSet)>> {
        let Planner { inputs, accounts, overlays, .. } = self.planner;
        self.at(node);
        let mut all = Vec::with_capacity(overlays.len());
        for prepared in overlays {
            self.values.set("param", &prepared.parameters);
            all.push((prepared.overlay, prepared.files(Scope::Node, accounts, inputs.secrets, &mut self.values)?));
        }
        Ok(all)
    }
}
