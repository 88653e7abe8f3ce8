//! Drawing: a value for each kind, from the kernel's random numbers.

use super::{Drawn, Held, Wanted, openssh, x509};
use crate::base::error::{Context, Error, Result};
use crate::model::placeholder::{Fields, Reference, Values};
use crate::model::secret::SecretKind;
use crate::plan::secrets::Secrets;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

/// Characters of a password, and bytes of `hex`, where no length is given.
const LENGTH: u32 = 32;
/// What certificates of [`dummy`] are for.
const DUMMY_NAMES: [&str; 2] = ["localhost", "127.0.0.1"];

/// Draws what is wanted and not held yet; says what that was. Authorities must come before what they sign.
///
/// # Errors
/// The kernel gives no random numbers; a name that no certificate can have; an authority that is no such.
pub fn missing<'w>(held: &mut Held, wanted: &'w [Wanted]) -> Result<Vec<&'w Wanted>> {
    let mut drawer = Drawer { site: held.site.clone(), ..Drawer::default() };
    let mut new = Vec::new();
    for one in wanted {
        let node = one.node.as_ref().map(|node| node.as_str());
        if let Some(there) = held.get(node, one.name.as_str()) {
            if there.kind != one.kind {
                return Err(Error::new(format!("the secret {} was drawn as another kind than is declared now", one.name))
                    .next(format!("run: ostack-image secrets rotate {}", one.name)));
            }
            continue;
        }
        let fields = drawer.fields(held, one).map_err(|error| error.doing(format!("drawing the secret {}", one.name)))?;
        held.put(node, one.name.as_str(), Drawn { kind: one.kind, names: one.names.clone(), fields });
        new.push(one);
    }
    Ok(new)
}

/// Certificates that were drawn for other names than are wanted now: an address or a host name has changed since.
pub fn outdated<'w>(held: &Held, wanted: &'w [Wanted]) -> Vec<&'w Wanted> {
    let other = |one: &&Wanted| {
        let there = held.get(one.node.as_ref().map(|node| node.as_str()), one.name.as_str());
        there.is_some_and(|there| there.names != one.names)
    };
    wanted.iter().filter(other).collect()
}

/// Values for `references` that mean nothing and have the right form, for programs that check files: keys are keys, and
/// certificates are signed by the authority that goes with them.
///
/// # Errors
/// The kernel gives no random numbers. A reference to what is not declared gets no value.
pub fn dummy(declared: &Secrets, references: &BTreeSet<Reference>) -> Result<Values> {
    let names: BTreeSet<&str> = references.iter().map(|reference| reference.name.as_str()).collect();
    let entries = declared.values().filter(|one| names.contains(one.entry.name.get_ref().as_str()));
    let (mut first, mut then) = (Vec::new(), Vec::new());
    for one in entries {
        let mut wanted = Wanted::new(&one.entry);
        if let Some(authority) = one.entry.ca.as_ref().and_then(|ca| declared.get(ca)) {
            first.push(Wanted::new(&authority.entry));
            wanted.names = DUMMY_NAMES.map(str::to_string).into();
        }
        then.push(wanted);
    }
    first.append(&mut then);
    let mut held = Held::new("dummy");
    missing(&mut held, &first)?;
    let known = references.iter().filter(|reference| {
        let drawn = held.get(None, &reference.name);
        drawn.is_some_and(|drawn| drawn.field(&reference.field).is_some())
    });
    held.needed("", &known.cloned().collect())
}

/// Draws for a site; remembers authorities, because reading one again for each of thousands of certificates takes long.
#[derive(Default)]
struct Drawer {
    site: String,
    x509: BTreeMap<String, x509::Authority>,
    openssh: BTreeMap<String, openssh::Authority>,
}

impl Drawer {
    fn fields(&mut self, held: &Held, wanted: &Wanted) -> Result<Fields> {
        if let Some(value) = &wanted.fixed {
            return Ok(one(value.clone()));
        }
        let length = wanted.length.unwrap_or(LENGTH) as usize;
        Ok(match wanted.kind {
            SecretKind::Password => one(password(length)?),
            SecretKind::Hex => one(hex(&random(length)?)),
            SecretKind::Uuid => one(uuid()?),
            SecretKind::Fernet => one(URL_SAFE.encode(random(32)?)),
            SecretKind::Ceph => one(ceph()?),
            SecretKind::Ca => x509::authority(&format!("{} {}", self.site, wanted.name))?,
            SecretKind::SshCa => openssh::authority(&format!("{} {}", self.site, wanted.name))?,
            SecretKind::Certificate => {
                let authority = match self.x509.entry(authority_of(wanted)?) {
                    std::collections::btree_map::Entry::Occupied(there) => there.into_mut(),
                    std::collections::btree_map::Entry::Vacant(place) => {
                        let fields = &signer(held, place.key())?.fields;
                        place.insert(x509::Authority::load(fields)?)
                    }
                };
                authority.sign(&wanted.names)?
            }
            SecretKind::SshHost => {
                let authority = match self.openssh.entry(authority_of(wanted)?) {
                    std::collections::btree_map::Entry::Occupied(there) => there.into_mut(),
                    std::collections::btree_map::Entry::Vacant(place) => {
                        let fields = &signer(held, place.key())?.fields;
                        place.insert(openssh::Authority::load(fields)?)
                    }
                };
                authority.sign(&wanted.names)?
            }
        })
    }
}

fn authority_of(wanted: &Wanted) -> Result<String> {
    let ca = wanted.ca.as_ref().ok_or_else(|| Error::new("it has no authority").next("write ca = \"…\" in the overlay"))?;
    Ok(ca.to_string())
}

fn signer<'h>(held: &'h Held, name: &str) -> Result<&'h Drawn> {
    held.get(None, name).ok_or_else(|| {
        Error::new(format!("its authority {name} is not the whole site's")).next(format!("declare {name} without per = \"node\""))
    })
}

fn one(value: String) -> Fields {
    Fields::from([("value".to_string(), value)])
}

/// A field of a secret that was loaded.
pub(super) fn text<'f>(fields: &'f Fields, name: &str) -> Result<&'f str> {
    let value = fields.get(name).map(String::as_str);
    value.ok_or_else(|| Error::new(format!("the authority has no {name}")).next("rotate it: ostack-image secrets rotate NAME"))
}

/// Random bytes.
fn random(count: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    let mut done = 0;
    while done < count {
        let got = rustix::rand::getrandom(&mut bytes[done..], rustix::rand::GetRandomFlags::empty());
        done += got.doing(|| "reading random numbers")?;
    }
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Letters and digits. Bytes beyond the last whole alphabet are thrown away: with them some letters would be likelier.
fn password(length: usize) -> Result<String> {
    const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let fair = 256 - 256 % ALPHABET.len();
    let mut password = String::with_capacity(length);
    while password.len() < length {
        for byte in random(length)?.into_iter().map(usize::from).filter(|byte| *byte < fair) {
            if password.len() < length {
                password.push(char::from(ALPHABET[byte % ALPHABET.len()]));
            }
        }
    }
    Ok(password)
}

/// Version 4 of RFC 9562.
fn uuid() -> Result<String> {
    let mut bytes = random(16)?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let digits = hex(&bytes);
    Ok([&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-"))
}

/// A key of cephx as its keyrings have it: type 1 (AES), the time in seconds and nanoseconds, length and 16 bytes, all
/// little-endian, in base64.
fn ceph() -> Result<String> {
    let seconds = u32::try_from(now()?).map_err(|_| Error::new("the clock is past 2106"))?;
    let mut key = Vec::with_capacity(28);
    key.extend(1_u16.to_le_bytes());
    key.extend(seconds.to_le_bytes());
    key.extend(0_u32.to_le_bytes());
    key.extend(16_u16.to_le_bytes());
    key.extend(random(16)?);
    Ok(STANDARD.encode(key))
}

/// Seconds since 1970.
fn now() -> Result<u64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Ok(since.map_err(|_| Error::new("the clock is before 1970").next("set it"))?.as_secs())
}

pub(super) mod time {
    //! How long what is signed stays valid.

    use super::{Result, now};

    /// Seconds of a day.
    const DAY: u64 = 24 * 60 * 60;
    /// Authorities, in days: they are on every node, and replacing one replaces all that it signed.
    pub const AUTHORITY_DAYS: u64 = 20 * 365;
    /// What they sign, in days: as long as a site may run without anybody thinking of it.
    pub const CERTIFICATE_DAYS: u64 = 5 * 365;

    /// First and last second, since 1970. It begins a day ago, for nodes whose clock is behind.
    pub fn validity(days: u64) -> Result<(u64, u64)> {
        let now = now()?;
        Ok((now - DAY, now + days * DAY))
    }
}

#[cfg(test)]
mod tests;
