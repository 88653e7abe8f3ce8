//! Checks OpenPGP signatures against a keyring, in this process.
//!
//! In: the public keys that a release or a site trusts, a signed text or file. Out: what was signed, or why it does not count.
//! Signatures of RSA (2048 bits and more) and Ed25519 by SHA-256, SHA-384 or SHA-512 count; the key must be able to sign and
//! neither have expired nor been revoked. One good signature is enough, as for gpgv. Only reading signatures is here: ring
//! does the mathematics (`docs/decisions/011-openpgp-read-here-checked-by-ring.md`).
//!
//! ```text
//! public key ── certified by itself ── name …             (when it expires)
//!   └─ subkey ── bound by the key, and the key by it      (that it signs, when it expires)
//! ```

mod packet;

use crate::base::error::{Error, Result};
use crate::lock::date::Moment;
use packet::{Packet, Public, Signature, dearmored, packets, tag};
use ring::digest;
use ring::signature as checks;
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Public keys that are trusted.
#[derive(Debug, Clone, Default)]
pub struct Keyring {
    keys: Vec<Key>,
}

/// A key that may sign data: a primary one or a subkey.
#[derive(Debug, Clone)]
struct Key {
    /// The last eight bytes of its fingerprint.
    id: [u8; 8],
    public: Public,
    created: u64,
    /// When it ends to count, if it does: its own time and that of the key that it belongs to.
    expires: Option<u64>,
    revoked: bool,
}

/// Why a signature by a key of the keyring does not count.
#[derive(Debug, PartialEq, Eq)]
enum Flaw {
    Expired(u64),
    Revoked,
    Hash(u8),
    Algorithm(u8),
    Wrong,
}

/// Why nothing that a keyring trusts vouches for something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unverified {
    /// There is no signature.
    Unsigned,
    /// Only keys that are not in the keyring have signed it: their numbers.
    Strange(Vec<String>),
    /// A key of the keyring has signed it, but that does not count: why.
    Flawed(String),
}

impl std::fmt::Display for Unverified {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unsigned => write!(f, "it is not signed"),
            Self::Strange(keys) if keys.len() == 1 => write!(f, "it is signed by the key {}, which is not in it", keys[0]),
            Self::Strange(keys) => write!(f, "it is signed by the keys {}, none of which is in it", keys.join(", ")),
            Self::Flawed(why) => write!(f, "{why}"),
        }
    }
}

impl Keyring {
    /// Reads a file of public keys, armored or binary, of any number of keys.
    ///
    /// # Errors
    /// It is no such file, or has no key that can sign.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let bytes = dearmored(bytes)?;
        let packets = packets(&bytes)?;
        let mut keys = Vec::new();
        let begins = |packet: &Packet<'_>| packet.tag == tag::PUBLIC_KEY;
        for certificate in packets.chunk_by(|_, next| !begins(next)).filter(|chunk| begins(&chunk[0])) {
            // One key of a kind that is not known spoils no other.
            keys.extend(certified(certificate).unwrap_or_default());
        }
        if keys.is_empty() {
            return Err(Error::new("it has no public key that can sign"));
        }
        Ok(Self { keys })
    }

    /// All keys of several keyrings.
    #[must_use]
    pub fn joined(keyrings: impl IntoIterator<Item = Self>) -> Self {
        Self { keys: keyrings.into_iter().flat_map(|keyring| keyring.keys).collect() }
    }

    /// The text of a message that is signed in the clear (`InRelease`), lines without trailing spaces. `now` is the clock.
    ///
    /// # Errors
    /// It is no such message, or no signature of a trusted key holds; says why.
    pub fn cleartext(&self, message: &str, now: Moment) -> Result<String, Unverified> {
        let (text, signature) = unfolded(message).ok_or(Unverified::Unsigned)?;
        self.check(text.join("\r\n").as_bytes(), signature.as_bytes(), now)?;
        Ok(text.join("\n") + "\n")
    }

    /// Checks a signature that lies beside what it signs.
    ///
    /// # Errors
    /// No signature of a trusted key holds; says why.
    pub fn detached(&self, data: &[u8], signature: &[u8], now: Moment) -> Result<(), Unverified> {
        self.check(data, signature, now)
    }

    fn check(&self, data: &[u8], signatures: &[u8], now: Moment) -> Result<(), Unverified> {
        let damaged = |error: Error| Unverified::Flawed(format!("its signature is damaged: {error}"));
        let bytes = dearmored(signatures).map_err(damaged)?;
        let mut strangers = BTreeSet::new();
        let mut flaws = BTreeSet::new();
        for packet in packets(&bytes).map_err(damaged)?.iter().filter(|packet| packet.tag == tag::SIGNATURE) {
            // One of a version to come is nobody's.
            let Ok(signature) = packet::signature(packet.body) else { continue };
            let Some(issuer) = signature.issuer.filter(|_| signature.kind <= 1) else { continue };
            let known: Vec<&Key> = self.keys.iter().filter(|key| key.id == issuer).collect();
            if known.is_empty() {
                strangers.insert(shown(&issuer));
            }
            for key in known {
                match key.flaw(data, &signature, now.unix()) {
                    None => return Ok(()),
                    Some(flaw) => flaws.insert(flaw.of(&issuer)),
                };
            }
        }
        if !flaws.is_empty() {
            return Err(Unverified::Flawed(flaws.into_iter().collect::<Vec<_>>().join("; ")));
        }
        match strangers.is_empty() {
            true => Err(Unverified::Unsigned),
            false => Err(Unverified::Strange(strangers.into_iter().collect())),
        }
    }
}

/// The lines that a cleartext message signs, and its armored signatures. What stands before, between or behind is no part of it.
fn unfolded(message: &str) -> Option<(Vec<&str>, &str)> {
    let rest = message.strip_prefix("-----BEGIN PGP SIGNED MESSAGE-----")?;
    let (text, signature) = rest.split_at(rest.find("\n-----BEGIN PGP SIGNATURE-----")?);
    let mut lines = text.split('\n').map(|line| line.trim_end_matches([' ', '\t', '\r'])).skip(1);
    // Any other header could be shown as text that nobody signed.
    if !lines.by_ref().take_while(|line| !line.is_empty()).all(|line| line.starts_with("Hash: ")) {
        return None;
    }
    let mut found = Vec::new();
    for line in lines {
        match line.strip_prefix("- ") {
            Some(escaped) => found.push(escaped),
            None if line.starts_with('-') => return None,
            None => found.push(line),
        }
    }
    Some((found, signature))
}

/// The keys of one certificate that may sign, with what their self-signatures say.
fn certified(packets: &[Packet<'_>]) -> Result<Vec<Key>> {
    let primary = packets[0].body;
    let (created, public) = packet::public_key(primary)?;
    let mut key = Key { id: id(primary), public, created, expires: None, revoked: false };
    // The newest of each: what names say, what the key says without a name; and the subkeys' bindings.
    let (mut named, mut direct): (Option<Signature>, Option<Signature>) = (None, None);
    let mut subkeys: Vec<(&[u8], Option<Signature>, bool)> = Vec::new();
    let mut about: Option<Packet<'_>> = None;
    for packet in &packets[1..] {
        match packet.tag {
            tag::USER_ID | tag::USER_ATTRIBUTE => about = Some(*packet),
            tag::PUBLIC_SUBKEY => {
                about = Some(*packet);
                subkeys.push((packet.body, None, false));
            }
            tag::SIGNATURE => {
                let Ok(signature) = packet::signature(packet.body) else { continue };
                let data = match about {
                    None => hashed_key(primary),
                    Some(about) if about.tag == tag::PUBLIC_SUBKEY => [hashed_key(primary), hashed_key(about.body)].concat(),
                    Some(about) => [hashed_key(primary), hashed_name(&about)].concat(),
                };
                // Others' certifications say nothing here.
                if !key.made(&data, &signature, true) {
                    continue;
                }
                let newest = |known: &mut Option<Signature>, new: Signature| {
                    if known.as_ref().is_none_or(|known| known.created <= new.created) {
                        *known = Some(new);
                    }
                };
                match (about.map(|about| about.tag), signature.kind) {
                    (None, 0x1f) => newest(&mut direct, signature),
                    (None, 0x20) => key.revoked = true,
                    (Some(tag::USER_ID | tag::USER_ATTRIBUTE), 0x10..=0x13) => newest(&mut named, signature),
                    (Some(tag::PUBLIC_SUBKEY), kind @ (0x18 | 0x28)) => {
                        if let Some((_, binding, revoked)) = subkeys.last_mut() {
                            *revoked |= kind == 0x28;
                            if kind == 0x18 {
                                newest(binding, signature);
                            }
                        }
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }
    let Some(own) = named.or(direct) else { return Ok(Vec::new()) };
    key.expires = own.key_expires.map(|seconds| created + seconds);
    let mut keys = Vec::new();
    for (body, binding, revoked) in subkeys {
        let (Some(binding), Ok((created, public))) = (binding, packet::public_key(body)) else { continue };
        let expires = [binding.key_expires.map(|seconds| created + seconds), key.expires].into_iter().flatten().min();
        let subkey = Key { id: id(body), public, created, expires, revoked: revoked || key.revoked };
        // A key must not be claimed by somebody who does not have it.
        let back = binding.embedded.as_deref().and_then(|body| packet::signature(body).ok());
        let bound = [hashed_key(primary), hashed_key(body)].concat();
        if may_sign(&binding) && back.is_some_and(|back| back.kind == 0x19 && subkey.made(&bound, &back, true)) {
            keys.push(subkey);
        }
    }
    if may_sign(&own) {
        keys.push(key);
    }
    Ok(keys)
}

/// Whether the key that this is about may sign data; one that does not say may.
fn may_sign(own: &Signature) -> bool {
    own.flags.is_none_or(|flags| flags & 2 != 0)
}

impl Key {
    /// What is wrong with a signature of this key, if anything.
    fn flaw(&self, data: &[u8], signature: &Signature, now: u64) -> Option<Flaw> {
        let ended = [self.expires, signature.expires.map(|seconds| signature.created + seconds)].into_iter().flatten().min();
        match (&self.public, ended) {
            _ if self.revoked => Some(Flaw::Revoked),
            (_, Some(ended)) if ended <= now => Some(Flaw::Expired(ended)),
            (Public::Other(algorithm), _) => Some(Flaw::Algorithm(*algorithm)),
            _ if !(8..=10).contains(&signature.hash) => Some(Flaw::Hash(signature.hash)),
            _ if signature.created < self.created || !self.made(data, signature, false) => Some(Flaw::Wrong),
            _ => None,
        }
    }

    /// Whether the signature is this key's over the data. SHA-1 counts for self-signatures: the file that they are in is trusted
    /// itself, and keys as old as CentOS 7's have no other.
    fn made(&self, data: &[u8], signature: &Signature, own: bool) -> bool {
        let message = [data, &signature.trailer].concat();
        match &self.public {
            Public::Rsa { n, e } => {
                let parameters = match signature.hash {
                    8 => &checks::RSA_PKCS1_2048_8192_SHA256,
                    9 => &checks::RSA_PKCS1_2048_8192_SHA384,
                    10 => &checks::RSA_PKCS1_2048_8192_SHA512,
                    2 if own => &checks::RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
                    _ => return false,
                };
                let zeros = vec![0; n.len().saturating_sub(signature.value.len())];
                let value = [zeros, signature.value.clone()].concat();
                checks::RsaPublicKeyComponents { n, e }.verify(parameters, &message, &value).is_ok()
            }
            Public::Ed25519(point) => {
                let algorithm = match signature.hash {
                    8 => &digest::SHA256,
                    9 => &digest::SHA384,
                    10 => &digest::SHA512,
                    _ => return false,
                };
                let hash = digest::digest(algorithm, &message);
                checks::UnparsedPublicKey::new(&checks::ED25519, point).verify(hash.as_ref(), &signature.value).is_ok()
            }
            Public::Other(_) => false,
        }
    }
}

impl Flaw {
    fn of(&self, issuer: &[u8; 8]) -> String {
        let key = shown(issuer);
        match self {
            Self::Expired(when) => format!("the key {key} that signed it counts no more since {}", Moment::at(*when)),
            Self::Revoked => format!("the key {key} that signed it was revoked"),
            Self::Hash(number) => format!("the key {key} signed it by the hash {number}, which is too weak"),
            Self::Algorithm(number) => {
                format!("the key {key} that signed it is of the algorithm {number}, which is not known here")
            }
            Self::Wrong => format!("the signature of the key {key} does not fit: it was changed after it was signed"),
        }
    }
}

/// What is hashed of a key.
fn hashed_key(body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
    [&[0x99], &length.to_be_bytes()[..], body].concat()
}

/// What is hashed of a name or a picture.
fn hashed_name(packet: &Packet<'_>) -> Vec<u8> {
    let length = u32::try_from(packet.body.len()).unwrap_or(u32::MAX);
    let kind = if packet.tag == tag::USER_ID { 0xb4 } else { 0xd1 };
    [&[kind], &length.to_be_bytes()[..], packet.body].concat()
}

/// The last eight bytes of a key's fingerprint, which is a SHA-1 by definition.
fn id(body: &[u8]) -> [u8; 8] {
    let fingerprint = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &hashed_key(body));
    std::array::from_fn(|index| fingerprint.as_ref()[12 + index])
}

/// A key's number as gpg shows it.
fn shown(id: &[u8; 8]) -> String {
    id.iter().fold(String::new(), |mut text, byte| {
        // Writing into a `String` cannot fail.
        let _ = write!(text, "{byte:02X}");
        text
    })
}

#[cfg(test)]
mod tests;
