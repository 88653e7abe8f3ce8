//! Values that stand for a site's secrets in checks.
//!
//! They have the form that their kind asks for, so that a checker that loads keys and certificates can, and they follow from
//! the secret's name alone, so that a check gives the same answer everywhere. They are known to everybody: nothing but a
//! check ever gets one. The key pairs in `dummies/` are valid from 2000 to 2100 and were drawn once, for this.

use crate::base::digest::Digest;
use crate::base::error::{Error, Result};
use crate::model::secret::{SecretEntry, SecretKind};
use crate::plan::secrets::{self, Secrets};

const CA: &str = include_str!("dummies/ca.pem");
const CA_KEY: &str = include_str!("dummies/ca.key.pem");
const CERTIFICATE: &str = include_str!("dummies/certificate.pem");
const CERTIFICATE_KEY: &str = include_str!("dummies/certificate.key.pem");
const SSH_CA: &str = include_str!("dummies/ssh-ca.key.pub");
const SSH_CA_KEY: &str = include_str!("dummies/ssh-ca.key");
const SSH_HOST: &str = include_str!("dummies/ssh-host.key.pub");
const SSH_HOST_CERTIFICATE: &str = include_str!("dummies/ssh-host.key-cert.pub");
const SSH_HOST_KEY: &str = include_str!("dummies/ssh-host.key");

/// Characters of a password without a length, and bytes of `hex` without one.
const LENGTH: usize = 32;

/// A file's bytes with dummies in the secrets' places.
///
/// # Errors
/// A placeholder of a secret that no overlay declares, or of a field that its kind does not have.
pub fn fill(bytes: &[u8], declared: &Secrets) -> Result<Vec<u8>> {
    let references = secrets::references(bytes);
    if references.is_empty() {
        return Ok(bytes.to_vec());
    }
    // What has a placeholder is text.
    let mut text = String::from_utf8_lossy(bytes).into_owned();
    for reference in references {
        let entry = declared.iter().find(|(name, _)| name.as_str() == reference.name).map(|(_, one)| &one.entry);
        let value = entry
            .and_then(|entry| dummy(entry, &reference.field))
            .ok_or_else(|| Error::new(format!("there is no dummy of the secret `{}` ({})", reference.name, reference.field)))?;
        text = text.replace(&secrets::placeholder(&reference.name, &reference.field), &value);
    }
    Ok(text.into_bytes())
}

/// A field's dummy.
fn dummy(entry: &SecretEntry, field: &str) -> Option<String> {
    let name = entry.name.get_ref().as_str();
    let digits = |count: usize| -> String {
        let part = |number: usize| Digest::of(format!("dummy {name} {number}")).hex();
        (0..count.div_ceil(64)).map(part).collect::<String>()[..count].to_string()
    };
    let length = entry.length.map_or(LENGTH, |length| length as usize);
    let bytes: Vec<u8> = Digest::of(format!("dummy {name}")).bytes().to_vec();
    let value = match (entry.kind, field) {
        (SecretKind::Password, "value") => digits(length),
        (SecretKind::Hex, "value") => digits(2 * length),
        (SecretKind::Uuid, "value") => {
            let hex = digits(32);
            format!("{}-{}-4{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
        }
        (SecretKind::Fernet, "value") => base64(&bytes).replace('+', "-").replace('/', "_"),
        // Type 1 (AES), the time of creation, the length, the key: cephx's `CryptoKey`.
        (SecretKind::Ceph, "value") => base64(&[&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0], &bytes[..16]].concat()),
        (SecretKind::Ca, "certificate") => CA.to_string(),
        (SecretKind::Ca, "key") => CA_KEY.to_string(),
        (SecretKind::Certificate, "certificate") => CERTIFICATE.to_string(),
        (SecretKind::Certificate, "key") => CERTIFICATE_KEY.to_string(),
        (SecretKind::Certificate, "bundle") => format!("{CERTIFICATE}{CERTIFICATE_KEY}"),
        (SecretKind::SshCa, "public") => SSH_CA.to_string(),
        (SecretKind::SshCa, "key") => SSH_CA_KEY.to_string(),
        (SecretKind::SshHost, "public") => SSH_HOST.to_string(),
        (SecretKind::SshHost, "certificate") => SSH_HOST_CERTIFICATE.to_string(),
        (SecretKind::SshHost, "key") => SSH_HOST_KEY.to_string(),
        _ => return None,
    };
    Some(value)
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |group: &[u8]| -> String {
        let number = (0..3).fold(0, |number, index| number << 8 | usize::from(group.get(index).copied().unwrap_or(0)));
        let digit = |index: usize| if index <= group.len() { char::from(DIGITS[number >> (18 - 6 * index) & 63]) } else { '=' };
        (0..4).map(digit).collect()
    };
    bytes.chunks(3).map(group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_rfc_4648() {
        assert_eq!(["", "f", "fo", "foo", "foob"].map(|text| base64(text.as_bytes())), ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg=="]);
    }

    #[test]
    fn every_field_of_every_kind_has_a_dummy() {
        for kind in ["password", "hex", "uuid", "fernet", "ceph", "ca", "certificate", "ssh-ca", "ssh-host"] {
            let entry: SecretEntry = toml::from_str(&format!("name = \"one\"\nkind = \"{kind}\"")).unwrap();
            for (field, _) in entry.kind.fields() {
                assert!(dummy(&entry, field).is_some_and(|value| value.len() > 20), "{kind} {field}");
            }
            assert_eq!(dummy(&entry, "other"), None);
        }
    }
}
