//! The values of secrets: what to draw, drawing it, and one encrypted file to keep it in.
//!
//! In: what overlays declare (`[[secret]]`), for which nodes, and what is there already. Out: [`Held`], every value of a
//! site, and from it the few that one node needs. What must hold: a value that is there is never drawn again unless
//! somebody asks for it; an authority's key goes to no node; no value shows in a message or a `{:?}`.
//!
//! - `wanted` — declarations to a list: one entry for the site or for each node, names of certificates rendered
//! - `draw` — the kinds; `x509` and `openssh` have authorities and what they sign
//! - `file` — age: encrypted to a passphrase or to recipients
//!
//! To add a kind: a variant of `model::secret::SecretKind` with its fields, and its arm in `draw`.

pub mod draw;
pub mod file;
mod openssh;
pub mod wanted;
mod x509;

pub use draw::dummy;
pub use wanted::Wanted;

use crate::base::error::{Error, Result};
use crate::model::placeholder::{Fields, Reference, Values};
use crate::model::secret::SecretKind;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The command that draws what is missing; the remedy of most errors here.
pub const INIT: &str = "ostack-image secrets init";
/// The format of the decrypted file.
const FORMAT: u32 = 1;

/// Every value of a site. As JSON it is what the file encrypts.
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Held {
    format: u32,
    /// The site that they are for.
    pub site: String,
    /// The age recipients that the file is encrypted to; none where a passphrase protects it.
    #[serde(default)]
    pub recipients: Vec<String>,
    /// Those that are the same on every node, by name.
    shared: BTreeMap<String, Drawn>,
    /// Those of one node each, by node and name.
    nodes: BTreeMap<String, BTreeMap<String, Drawn>>,
}

/// One secret that was drawn.
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Drawn {
    /// Its kind when it was drawn.
    pub kind: SecretKind,
    /// What a certificate is for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    fields: Fields,
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Held({}, {} shared, {} nodes)", self.site, self.shared.len(), self.nodes.len())
    }
}

impl Drawn {
    fn field(&self, name: &str) -> Option<Cow<'_, str>> {
        match self.fields.get(name) {
            Some(value) => Some(Cow::Borrowed(value)),
            // Not kept twice: a large site has thousands.
            None if name == "bundle" => {
                Some(Cow::Owned(format!("{}\n{}", self.fields.get("certificate")?, self.fields.get("key")?)))
            }
            None => None,
        }
    }
}

impl Held {
    /// Nothing, for a site.
    pub fn new(site: impl Into<String>) -> Self {
        Self { format: FORMAT, site: site.into(), recipients: Vec::new(), shared: BTreeMap::new(), nodes: BTreeMap::new() }
    }

    /// A secret, if it is there: of the site, or of a node.
    pub fn get(&self, node: Option<&str>, name: &str) -> Option<&Drawn> {
        match node {
            Some(node) => self.nodes.get(node)?.get(name),
            None => self.shared.get(name),
        }
    }

    /// Exactly the values that a node's files ask for.
    ///
    /// # Errors
    /// Names the first that was never drawn.
    pub fn needed(&self, node: &str, references: &BTreeSet<Reference>) -> Result<Values> {
        let own = self.nodes.get(node);
        let mut values = Values::default();
        for reference in references {
            let drawn = own.and_then(|own| own.get(&reference.name)).or_else(|| self.shared.get(&reference.name));
            let Some(value) = drawn.and_then(|drawn| drawn.field(&reference.field)) else {
                return Err(not_drawn(&reference.name));
            };
            values.set(reference, value);
        }
        Ok(values)
    }

    /// An authority's certificate, as PEM.
    ///
    /// # Errors
    /// The authority was never drawn, or is none.
    pub fn certificate(&self, authority: &str) -> Result<String> {
        self.authority(authority)?.get("certificate").cloned().ok_or_else(|| not_drawn(authority))
    }

    /// A key with a certificate that an authority has signed for these names just now: nobody keeps it.
    ///
    /// # Errors
    /// As [`Self::certificate`]'s.
    pub fn signed_now(&self, authority: &str, names: &[String]) -> Result<Fields> {
        x509::Authority::load(self.authority(authority)?)?.sign(names)
    }

    fn authority(&self, name: &str) -> Result<&Fields> {
        self.shared.get(name).map(|drawn| &drawn.fields).ok_or_else(|| not_drawn(name))
    }

    /// How many values of a name there are: one of the site, or one for each of so many nodes.
    pub fn count(&self, name: &str) -> usize {
        usize::from(self.shared.contains_key(name)) + self.nodes.values().filter(|own| own.contains_key(name)).count()
    }

    /// Forgets a secret, the site's and every node's.
    pub fn forget(&mut self, name: &str) {
        self.shared.remove(name);
        self.nodes.values_mut().for_each(|own| {
            own.remove(name);
        });
    }

    /// Takes a value that somebody else decided, for the whole site.
    pub fn set(&mut self, name: &str, kind: SecretKind, value: String) {
        let fields = Fields::from([("value".to_string(), value)]);
        self.put(None, name, Drawn { kind, names: Vec::new(), fields });
    }

    fn put(&mut self, node: Option<&str>, name: &str, drawn: Drawn) {
        match node {
            Some(node) => self.nodes.entry(node.to_string()).or_default().insert(name.to_string(), drawn),
            None => self.shared.insert(name.to_string(), drawn),
        };
    }
}

fn not_drawn(name: &str) -> Error {
    Error::new(format!("the secret {name} is not drawn yet")).next(format!("run: {INIT}"))
}
