//! `[[secret]]` of an overlay: what must be drawn for a site, and never lie in an image.

use super::Source;
use crate::base::error::Result;
use crate::base::name::Word;
use serde::{Deserialize, Serialize};
use toml::Spanned;

/// A secret that templates ask for with `secret(name="…")`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SecretEntry {
    /// Its name; overlays that share a secret declare it alike.
    pub name: Spanned<Word>,
    /// What is drawn.
    #[serde(default)]
    pub kind: SecretKind,
    /// Characters of a password, bytes of `hex`.
    pub length: Option<u32>,
    /// Whether every node has its own.
    #[serde(default)]
    pub per: Per,
    /// The authority that signs a `certificate` or an `ssh-host` key: the name of a `ca` or `ssh-ca`.
    pub ca: Option<Word>,
    /// Templates of the names and addresses that a certificate is for.
    #[serde(default)]
    pub names: Vec<String>,
    /// What the guide has in its place; taken only where the site's option `guide_passwords` is on.
    pub guide: Option<String>,
}

/// What is drawn for a secret, and which fields it has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecretKind {
    /// Letters and digits, 32 where no length is given: fits into every file and URL. `value`.
    #[default]
    Password,
    /// Random bytes as hexadecimal digits, 32 bytes where no length is given. `value`.
    Hex,
    /// A random UUID. `value`.
    Uuid,
    /// A Fernet key: 32 random bytes, base64 for URLs. `value`.
    Fernet,
    /// A key of Ceph's `cephx`. `value`.
    Ceph,
    /// An X.509 authority: `certificate` (public), `key`.
    Ca,
    /// An X.509 certificate that an authority of the site signs: `certificate` (public), `key`, `bundle` (certificate and key
    /// in one PEM, as HAProxy takes it).
    Certificate,
    /// An OpenSSH authority: `public` (public), `key`.
    SshCa,
    /// An OpenSSH host key with the authority's certificate: `public` and `certificate` (public), `key`.
    SshHost,
}

/// Whom a secret is drawn for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Per {
    /// The same on every node that needs it.
    #[default]
    Site,
    /// Each node has its own.
    Node,
}

impl SecretKind {
    /// Its name in an overlay.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::Hex => "hex",
            Self::Uuid => "uuid",
            Self::Fernet => "fernet",
            Self::Ceph => "ceph",
            Self::Ca => "ca",
            Self::Certificate => "certificate",
            Self::SshCa => "ssh-ca",
            Self::SshHost => "ssh-host",
        }
    }

    /// Whether it is an authority, whose key stays where secrets are drawn.
    pub fn signs(self) -> bool {
        matches!(self, Self::Ca | Self::SshCa)
    }

    /// The fields: name, and whether everybody may read it.
    pub fn fields(self) -> &'static [(&'static str, bool)] {
        match self {
            Self::Password | Self::Hex | Self::Uuid | Self::Fernet | Self::Ceph => &[("value", false)],
            Self::Ca => &[("certificate", true), ("key", false)],
            Self::Certificate => &[("certificate", true), ("key", false), ("bundle", false)],
            Self::SshCa => &[("public", true), ("key", false)],
            Self::SshHost => &[("public", true), ("certificate", true), ("key", false)],
        }
    }
}

/// Refuses declarations that cannot be carried out.
///
/// # Errors
/// With file and line: an authority missing or too much, names of what has none, a length of what has one already.
pub(super) fn check(source: &Source<'_>, secrets: &[SecretEntry]) -> Result<()> {
    for secret in secrets {
        let error = |cause: &str, next: &str| {
            Err(source.error(&secret.name.span(), format!("the secret {} {cause}", secret.name.get_ref())).next(next))
        };
        let signed = matches!(secret.kind, SecretKind::Certificate | SecretKind::SshHost);
        if signed != secret.ca.is_some() {
            return if signed {
                error("has no authority", "write ca = \"…\", the name of the secret that signs it")
            } else {
                error("is of a kind that nobody signs", "remove ca")
            };
        }
        if signed == secret.names.is_empty() {
            return if signed {
                error("is for no name", "write names = [\"…\"]: the host names and addresses that clients use")
            } else {
                error("is of a kind that has no names", "remove names")
            };
        }
        if secret.length.is_some() && !matches!(secret.kind, SecretKind::Password | SecretKind::Hex) {
            return error("has a length, which its kind decides", "remove length");
        }
        if secret.guide.is_some() && secret.kind.fields().len() > 1 {
            return error("has a value of the guide's, and its kind has several fields", "remove guide");
        }
        if secret.length.is_some_and(|length| !(8..=4096).contains(&length)) {
            return error("has a length out of range", "write 8 to 4096");
        }
    }
    Ok(())
}
