//! `recipes/options.toml`: switches of the whole site that several overlays read.
//!
//! Templates see `option.NAME`. The defaults are the safe ones; a site that chooses another value is warned with the
//! option's own words at every command that makes something of it.

use super::Source;
use super::overlay::Parameters;
use super::site::Site;
use crate::base::error::{Error, Result};
use crate::base::name::Word;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// One switch.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteOption {
    /// Its value where the site says nothing; the type that a site's value must have.
    pub default: toml::Value,
    /// For people, one line.
    pub description: String,
    /// What the site gives up with any other value; said as a warning.
    pub warning: String,
}

/// The switches by name.
pub type SiteOptions = BTreeMap<Word, SiteOption>;

/// Reads the switches.
///
/// # Errors
/// With file and line.
pub fn parse(source: &Source<'_>) -> Result<SiteOptions> {
    source.toml()
}

/// The value of every switch for a site, and the warnings that its choices ask for.
///
/// # Errors
/// The site names a switch that there is not, or gives it a value of another type.
pub fn of_site(options: &SiteOptions, site: &Site, site_file: &Path) -> Result<(Parameters, Vec<String>)> {
    let mut values: Parameters = options.iter().map(|(name, option)| (name.to_string(), option.default.clone())).collect();
    let mut warnings = Vec::new();
    for (name, value) in &site.options {
        let line = site.lines.of(&["options", name]);
        let Some(option) = options.iter().find(|(known, _)| known.as_str() == name).map(|(_, option)| option) else {
            let known: Vec<&str> = options.keys().map(Word::as_str).collect();
            return Err(Error::new(format!("there is no option `{name}`"))
                .at(site_file, line)
                .next(format!("use one of: {}", known.join(", "))));
        };
        if !option.default.same_type(value) {
            let cause = format!("the option `{name}` is of type {}, not {}", option.default.type_str(), value.type_str());
            return Err(Error::new(cause).at(site_file, line).next(format!("write a value such as {}", option.default)));
        }
        if *value != option.default {
            warnings.push(format!("{name} = {value}: {}", option.warning));
        }
        values.insert(name.clone(), value.clone());
    }
    Ok((values, warnings))
}
