//! The bytes of OpenPGP (RFC 9580): armor, packets, public keys of version 4, signatures of versions 3 and 4.

use crate::base::error::{Error, Result};
use base64::Engine;

/// Tags of the packets that are looked at.
pub(super) mod tag {
    pub const SIGNATURE: u8 = 2;
    pub const PUBLIC_KEY: u8 = 6;
    pub const USER_ID: u8 = 13;
    pub const PUBLIC_SUBKEY: u8 = 14;
    pub const USER_ATTRIBUTE: u8 = 17;
}

/// One packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packet<'a> {
    pub tag: u8,
    pub body: &'a [u8],
}

/// Reads bytes from the front; anything missing is the one error that a damaged file is.
pub(super) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count).ok_or_else(|| Error::new("it ends too early"))?;
        self.0 = rest;
        Ok(head)
    }

    pub fn number(&mut self, bytes: usize) -> Result<usize> {
        Ok(self.take(bytes)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    /// A multiprecision integer, without leading zeros.
    fn integer(&mut self) -> Result<&'a [u8]> {
        let bits = self.number(2)?;
        let bytes = self.take(bits.div_ceil(8))?;
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        Ok(&bytes[zeros..])
    }
}

/// The packets of a key file or a signature.
///
/// # Errors
/// The bytes are no OpenPGP.
pub(super) fn packets(bytes: &[u8]) -> Result<Vec<Packet<'_>>> {
    let mut reader = Reader(bytes);
    let mut found = Vec::new();
    while !reader.0.is_empty() {
        let first = reader.byte()?;
        if first & 0x80 == 0 {
            return Err(Error::new("it is no OpenPGP"));
        }
        let (tag, length) = if first & 0x40 == 0 {
            let length = match first & 3 {
                kind @ 0..=2 => reader.number(1 << kind)?,
                _ => reader.0.len(),
            };
            (first >> 2 & 0x0f, length)
        } else {
            (first & 0x3f, new_length(&mut reader)?)
        };
        found.push(Packet { tag, body: reader.take(length)? });
    }
    Ok(found)
}

/// The length in a packet's header of the new form.
fn new_length(reader: &mut Reader<'_>) -> Result<usize> {
    match reader.number(1)? {
        short @ 0..=191 => Ok(short),
        first @ 192..=223 => Ok(((first - 192) << 8) + reader.number(1)? + 192),
        255 => reader.number(4),
        _ => Err(Error::new("it comes in parts, which neither keys nor signatures do")),
    }
}

/// The bytes of every armored block of a text (`-----BEGIN PGP …`), one after the other; binary input is taken as it is.
///
/// # Errors
/// A block is cut off or is no base64.
pub(super) fn dearmored(bytes: &[u8]) -> Result<Vec<u8>> {
    let Some(text) = std::str::from_utf8(bytes).ok().filter(|text| text.contains("-----BEGIN PGP ")) else {
        return Ok(bytes.to_vec());
    };
    let mut found = Vec::new();
    for block in text.split("-----BEGIN PGP ").skip(1) {
        let (block, _) = block.split_once("-----END PGP ").ok_or_else(|| Error::new("its armor has no end"))?;
        let mut lines = block.lines().skip(1).map(str::trim);
        // Headers end with an empty line. A line of `=` and four digits is a checksum, which signatures make needless.
        let body: String = lines.by_ref().skip_while(|line| !line.is_empty()).filter(|line| !line.starts_with('=')).collect();
        let engine = base64::engine::general_purpose::STANDARD;
        found.extend(engine.decode(body).map_err(|error| Error::new(format!("its armor is damaged: {error}")))?);
    }
    Ok(found)
}

/// What a key or signature is made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Public {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    Ed25519(Vec<u8>),
    /// An algorithm that this program does not check, by its number.
    Other(u8),
}

/// The object identifier of Ed25519 in keys of algorithm 22.
const ED25519: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0xda, 0x47, 0x0f, 0x01];

/// Creation time and material of a public key's packet.
///
/// # Errors
/// It is cut off, or of another version than 4.
pub(super) fn public_key(body: &[u8]) -> Result<(u64, Public)> {
    let mut reader = Reader(body);
    let version = reader.byte()?;
    if version != 4 {
        return Err(Error::new(format!("a key has version {version}, not 4")));
    }
    let created = reader.number(4)? as u64;
    let public = match reader.byte()? {
        1 | 3 => Public::Rsa { n: reader.integer()?.to_vec(), e: reader.integer()?.to_vec() },
        22 => {
            let length = reader.number(1)?;
            let curve = reader.take(length)?;
            // The point has a byte before it that says how it is written: 0x40, as it is.
            match (curve, reader.integer()?) {
                (ED25519, [0x40, point @ ..]) if point.len() == 32 => Public::Ed25519(point.to_vec()),
                _ => Public::Other(22),
            }
        }
        27 => Public::Ed25519(reader.take(32)?.to_vec()),
        other => Public::Other(other),
    };
    Ok((created, public))
}

/// A signature's packet, read but not checked.
#[derive(Debug, Clone)]
pub(super) struct Signature {
    /// What it is about: 0 and 1 data, 0x10 to 0x13 a name, 0x18 a subkey, …
    pub kind: u8,
    /// The hash's number.
    pub hash: u8,
    /// When it was made, seconds since 1970.
    pub created: u64,
    /// Seconds after that, from which it no longer counts.
    pub expires: Option<u64>,
    /// Seconds after the key's creation, from which the key no longer counts.
    pub key_expires: Option<u64>,
    /// What the key may be used for; bit 1: to sign data.
    pub flags: Option<u8>,
    /// The last eight bytes of the fingerprint of the key that made it.
    pub issuer: Option<[u8; 8]>,
    /// The signature of a subkey over the key that it belongs to.
    pub embedded: Option<Vec<u8>>,
    /// What is hashed behind the data.
    pub trailer: Vec<u8>,
    /// The numbers that it consists of, those of Ed25519 as one.
    pub value: Vec<u8>,
}

/// Reads a signature's packet.
///
/// # Errors
/// It is cut off, of an unknown version, or says something critical that this program does not know.
pub(super) fn signature(body: &[u8]) -> Result<Signature> {
    let mut reader = Reader(body);
    match reader.byte()? {
        3 => {
            reader.take(1)?;
            let trailer = reader.take(5)?.to_vec();
            let issuer = reader.take(8)?.try_into().ok();
            let (algorithm, hash) = (reader.byte()?, reader.byte()?);
            reader.take(2)?;
            let created = Reader(&trailer[1..]).number(4)? as u64;
            let (kind, value) = (trailer[0], value(&mut reader, algorithm)?);
            let nothing = (None, None, None, None);
            let (expires, key_expires, flags, embedded) = nothing;
            Ok(Signature { kind, hash, created, expires, key_expires, flags, issuer, embedded, trailer, value })
        }
        4 => {
            let (kind, algorithm, hash) = (reader.byte()?, reader.byte()?, reader.byte()?);
            let length = reader.number(2)?;
            let hashed = reader.take(length)?;
            let mut trailer = body[..6 + length].to_vec();
            let size = u32::try_from(trailer.len()).unwrap_or(u32::MAX);
            trailer.extend([4, 0xff]);
            trailer.extend(size.to_be_bytes());
            let length = reader.number(2)?;
            let unhashed = reader.take(length)?;
            reader.take(2)?;
            let value = value(&mut reader, algorithm)?;
            let mut signature = Signature {
                kind,
                hash,
                created: 0,
                expires: None,
                key_expires: None,
                flags: None,
                issuer: None,
                embedded: None,
                trailer,
                value,
            };
            signature.subpackets(hashed, true)?;
            signature.subpackets(unhashed, false)?;
            Ok(signature)
        }
        version => Err(Error::new(format!("a signature has version {version}, not 3 or 4"))),
    }
}

fn value(reader: &mut Reader<'_>, algorithm: u8) -> Result<Vec<u8>> {
    let padded = |integer: &[u8]| [vec![0; 32_usize.saturating_sub(integer.len())], integer.to_vec()].concat();
    Ok(match algorithm {
        1 | 3 => reader.integer()?.to_vec(),
        22 => [padded(reader.integer()?), padded(reader.integer()?)].concat(),
        27 => reader.take(64)?.to_vec(),
        _ => Vec::new(),
    })
}

impl Signature {
    /// What it says of itself. Of the part that nobody has signed only hints are taken: whose it is, and what checks itself.
    fn subpackets(&mut self, area: &[u8], signed: bool) -> Result<()> {
        let mut reader = Reader(area);
        while !reader.0.is_empty() {
            let length = match reader.number(1)? {
                short @ 0..=191 => short,
                255 => reader.number(4)?,
                first => ((first - 192) << 8) + reader.number(1)? + 192,
            };
            let mut body = Reader(reader.take(length)?);
            let kind = body.byte()?;
            match kind & 0x7f {
                2 if signed => self.created = body.number(4)? as u64,
                3 if signed => self.expires = Some(body.number(4)? as u64).filter(|seconds| *seconds > 0),
                9 if signed => self.key_expires = Some(body.number(4)? as u64).filter(|seconds| *seconds > 0),
                27 if signed => self.flags = body.0.first().copied(),
                16 => self.issuer = body.take(8)?.try_into().ok(),
                33 => self.issuer = body.0.get(13..21).and_then(|last| last.try_into().ok()).or(self.issuer),
                32 => self.embedded = Some(body.0.to_vec()),
                // Preferences, names, policies: what is not needed here, and known.
                4..=7 | 10..=12 | 20..=26 | 28..=31 | 34 | 35 | 39 => {}
                unknown if signed && kind & 0x80 != 0 => {
                    return Err(Error::new(format!(
                        "a signature has the critical part {unknown}, which this program does not know"
                    )));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
