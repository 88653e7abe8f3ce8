//! The signature of an rpm package, version 3 and 4 of the format.
//!
//! ```text
//! lead, 96 bytes │ signatures, a header padded to 8 bytes │ header │ payload
//!                  268 RSA, 267 other keys: of the header │ 5092 the payload's sha256
//!                  1002: of header and payload            │
//! ```
//!
//! In: a package's bytes, trusted keys. Out: whether one of them has signed all of it. A header that has no digest of its
//! payload, as those of rpm 4.13 and older, needs the signature of both.

use crate::base::digest::Digest;
use crate::base::error::{Error, Result};
use crate::lock::date::Moment;
use crate::lock::openpgp::{Keyring, Unverified};

const LEAD: usize = 96;
const MAGIC: &[u8] = &[0x8e, 0xad, 0xe8, 0x01];

/// Tags among the signatures: of the header by RSA and by other keys, of header and payload by RSA.
const SIGNED_HEADER: [u32; 2] = [268, 267];
const SIGNED_ALL: u32 = 1002;
/// Tags of the header: the payload's digest, and by which algorithm.
const PAYLOAD_DIGEST: u32 = 5092;
const PAYLOAD_ALGORITHM: u32 = 5093;
/// SHA-256, as OpenPGP numbers it.
const SHA256: &[u8] = &[0, 0, 0, 8];

/// A header: its bytes, its index and its values.
struct Header<'a> {
    bytes: &'a [u8],
    index: &'a [u8],
    values: &'a [u8],
}

impl<'a> Header<'a> {
    /// The header that begins here, and what follows it.
    fn read(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let number = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize);
        if !bytes.starts_with(MAGIC) {
            return None;
        }
        let index_end = number(8)?.checked_mul(16)?.checked_add(16)?;
        let end = index_end.checked_add(number(12)?)?;
        let (whole, rest) = bytes.split_at_checked(end)?;
        Some((Self { bytes: whole, index: &whole[16..index_end], values: &whole[index_end..] }, rest))
    }

    /// The bytes of a value from its start on, and how many items it has.
    fn value(&self, tag: u32) -> Option<(&'a [u8], usize)> {
        let entry = self.index.chunks_exact(16).find(|entry| entry[..4] == tag.to_be_bytes())?;
        let number = |at: usize| u32::from_be_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]) as usize;
        Some((self.values.get(number(8)..)?, number(12)))
    }
}

/// Checks that a key of the keyring has signed a package, whole.
///
/// # Errors
/// It is no rpm package. That it is not verified is the inner result.
pub(in crate::lock) fn verify(package: &[u8], keyring: &Keyring, now: Moment) -> Result<std::result::Result<(), Unverified>> {
    let damaged = || Error::new("it is no rpm package, or is cut off").next("name another mirror below [mirror] in site.toml");
    let (signatures, rest) = package.get(LEAD..).and_then(Header::read).ok_or_else(damaged)?;
    let padding = signatures.bytes.len().next_multiple_of(8) - signatures.bytes.len();
    let signed = rest.get(padding..).ok_or_else(damaged)?;
    let (header, payload) = Header::read(signed).ok_or_else(damaged)?;
    let signature = |tag: u32| signatures.value(tag).and_then(|(bytes, size)| bytes.get(..size));
    let checked = |data: &[u8], signature: &[u8]| keyring.detached(data, signature, now);
    let digest = header
        .value(PAYLOAD_DIGEST)
        .filter(|_| header.value(PAYLOAD_ALGORITHM).is_some_and(|(value, _)| value.starts_with(SHA256)));
    let Some((digest, _)) = digest else {
        return Ok(signature(SIGNED_ALL).map_or(Err(Unverified::Unsigned), |signature| checked(signed, signature)));
    };
    let Some(signature) = SIGNED_HEADER.into_iter().find_map(signature) else { return Ok(Err(Unverified::Unsigned)) };
    if let Err(unverified) = checked(header.bytes, signature) {
        return Ok(Err(unverified));
    }
    let (found, said) = (Digest::of(payload).hex(), digest.split(|byte| *byte == 0).next().unwrap_or_default());
    if found.as_bytes() == said {
        return Ok(Ok(()));
    }
    let said = String::from_utf8_lossy(said);
    Ok(Err(Unverified::Flawed(format!("its payload has sha256:{found}, its signed header says sha256:{said}"))))
}
