//! The ports of a role: what its overlays declare, for the packet filter's template.

use super::context::Values;
use super::files::Prepared;
use super::render::Templates;
use crate::base::error::{Error, Result};
use crate::base::name::Word;
use crate::model::overlay::{At, Peers, Protocol};
use serde::Serialize;

/// One line of the list that templates see as `ports`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Port {
    /// The overlay that declares it.
    pub overlay: String,
    /// What listens.
    pub name: String,
    /// Numbers and ranges, separated by commas and blanks.
    pub ports: String,
    /// The transport.
    pub protocol: Protocol,
    /// Who may connect.
    pub from: Peers,
    /// At which addresses.
    pub at: At,
}

/// The ports of a role, in the order of its recipe.
///
/// # Errors
/// With file and line: a condition or a template that does not hold, or what it gives is no list of ports.
pub fn of_role(overlays: &[Prepared<'_>], release: &Word, values: &mut Values) -> Result<Vec<Port>> {
    let mut ports = Vec::new();
    for prepared in overlays {
        let overlay = prepared.overlay;
        values.set("param", &prepared.parameters);
        for entry in &overlay.overlay.ports {
            let at = |error: Error| error.at(&overlay.file, overlay.line(entry.name.span()));
            let here = entry.release.as_ref().is_none_or(|only| only == release);
            if !here || !Templates::holds(entry.when.as_deref(), values).map_err(at)? {
                continue;
            }
            let text = Templates::render_text(&entry.ports, values).map_err(at)?;
            let list = list(&text).ok_or_else(|| {
                at(Error::new(format!("`{text}` is no list of ports")))
                    .next("write numbers and ranges, such as \"2379, 2380, 5900-5999\"")
            })?;
            if !list.is_empty() {
                let name = entry.name.get_ref().to_string();
                ports.push(Port {
                    overlay: overlay.name.to_string(),
                    name,
                    ports: list,
                    protocol: entry.protocol,
                    from: entry.from,
                    at: entry.at,
                });
            }
        }
    }
    Ok(ports)
}

/// The list in one form; `None` when it is none. An empty list is one: a template may find nothing to open.
fn list(text: &str) -> Option<String> {
    let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    let mut parts = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        parts.push(match part.split_once('-') {
            Some((first, last)) => {
                let (first, last) = (number(first)?, number(last)?);
                (first < last).then(|| format!("{first}-{last}"))?
            }
            None => number(part)?.to_string(),
        });
    }
    Some(parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::list;

    #[test]
    fn a_list_of_ports_has_numbers_and_rising_ranges() {
        assert_eq!(list("2379,2380 , 5900-5999,"), Some("2379, 2380, 5900-5999".to_string()));
        assert_eq!(list(""), Some(String::new()));
        assert_eq!([list("0"), list("65536"), list("9-8"), list("ssh")], [None, None, None, None]);
    }
}
