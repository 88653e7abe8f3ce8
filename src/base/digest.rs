//! sha256 digests: the only names of content in this crate.

use crate::base::error::{Context, Error, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

/// A sha256 digest. Written `sha256:` and 64 lower-case hexadecimal digits, as OCI does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// Bytes by their name: digest and number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// sha256 of the bytes.
    pub digest: Digest,
    /// How many there are.
    pub size: u64,
}

impl Digest {
    /// The digest of bytes in memory.
    pub fn of(bytes: impl AsRef<[u8]>) -> Self {
        Self(Sha256::digest(bytes.as_ref()).into())
    }

    /// The digest and the length of everything that `reader` still gives.
    ///
    /// # Errors
    /// Whatever reading gives.
    pub fn of_reader(reader: &mut impl Read) -> io::Result<(Self, u64)> {
        let mut hasher = Hasher::new(io::sink());
        copy(reader, &mut hasher)?;
        Ok(hasher.finish())
    }

    /// The digest and the size of a file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn of_file(path: &std::path::Path) -> Result<(Self, u64)> {
        let mut file = crate::base::fs::open(path)?;
        Self::of_reader(&mut file).doing(|| format!("reading {}", path.display()))
    }

    /// The 64 hexadecimal digits, without the algorithm's name.
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The first twelve hexadecimal digits, for people.
    pub fn short(&self) -> String {
        self.hex()[..12].to_string()
    }

    /// The 32 bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads 64 hexadecimal digits.
    ///
    /// # Errors
    /// Another length or another character.
    pub fn from_hex(hex: &str) -> Result<Self> {
        let bad = || Error::new(format!("`{hex}` is no sha256 digest")).next("write 64 lower-case hexadecimal digits");
        let digits = hex.as_bytes();
        if digits.len() != 64 || digits.iter().any(|c| !matches!(c, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(bad());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| bad())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| bad())?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.strip_prefix("sha256:") {
            Some(hex) => Self::from_hex(hex),
            None => Err(Error::new(format!("`{text}` is no digest")).next("write sha256: and 64 hexadecimal digits")),
        }
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Copies all that a reader still gives, 1 MiB at a time.
///
/// # Errors
/// Whatever reading or writing gives.
pub fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..count])?;
    }
}

/// A writer that hashes and counts what goes through it.
pub struct Hasher<W> {
    inner: W,
    sha256: Sha256,
    count: u64,
}

impl<W: Write> Hasher<W> {
    /// Hashes everything written to `inner` from now on.
    pub fn new(inner: W) -> Self {
        Self { inner, sha256: Sha256::new(), count: 0 }
    }

    /// The digest and the number of bytes so far; the inner writer is dropped.
    pub fn finish(self) -> (Digest, u64) {
        (Digest(self.sha256.finalize().into()), self.count)
    }
}

impl<W: Write> Write for Hasher<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.sha256.update(&bytes[..written]);
        self.count += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_written_as_oci_writes_it_and_reads_back() {
        let digest = Digest::of("abc");
        let text = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest.to_string(), text);
        assert_eq!(text.parse::<Digest>().unwrap(), digest);
    }

    #[test]
    fn only_lower_case_digits_of_full_length_are_a_digest() {
        for bad in ["", "sha256:", "md5:00", "sha256:BA", &format!("sha256:{}", "G".repeat(64)), &"a".repeat(64)] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }
}
