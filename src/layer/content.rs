//! Where a file's bytes are, and the one way to them.

use super::erofs::StoredFile;
use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use std::borrow::Cow;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Where a file's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// In memory.
    Bytes(Vec<u8>),
    /// In a file of the build machine, of this size in bytes.
    OnDisk(PathBuf, u64),
    /// In a stored layer.
    Stored(StoredFile),
}

impl Content {
    /// The size in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::OnDisk(_, size) => *size,
            Self::Stored(file) => file.size(),
        }
    }

    /// So many bytes from `from` on; both must lie in the file.
    ///
    /// # Errors
    /// The file cannot be read, or no longer has the size that it had.
    pub fn part(&self, from: u64, length: u64) -> Result<Cow<'_, [u8]>> {
        if let Self::Bytes(bytes) = self {
            return Ok(Cow::Borrowed(&bytes[from as usize..(from + length) as usize]));
        }
        let mut bytes = Vec::with_capacity(length as usize);
        self.copy_part(from, length, &mut bytes)?;
        Ok(Cow::Owned(bytes))
    }

    /// All bytes.
    ///
    /// # Errors
    /// As [`Self::part`].
    pub fn bytes(&self) -> Result<Cow<'_, [u8]>> {
        self.part(0, self.size())
    }

    /// Writes all bytes.
    ///
    /// # Errors
    /// As [`Self::part`]; or `out` fails.
    pub fn copy_to(&self, out: &mut impl Write) -> Result<()> {
        self.copy_part(0, self.size(), out)
    }

    /// Writes so many bytes from `from` on; both must lie in the file.
    ///
    /// # Errors
    /// As [`Self::part`]; or `out` fails.
    pub fn copy_part(&self, from: u64, length: u64, out: &mut impl Write) -> Result<()> {
        match self {
            Self::Bytes(bytes) => out.write_all(&bytes[from as usize..(from + length) as usize]).doing(|| "writing bytes"),
            Self::OnDisk(path, size) => copy_part(path, *size, from, length, out),
            Self::Stored(file) => file.copy(from, length, out),
        }
    }
}

fn copy_part(path: &Path, size: u64, from: u64, length: u64, out: &mut impl Write) -> Result<()> {
    let what = || format!("reading {}", path.display());
    let mut file = fs::open(path)?;
    if from > 0 {
        file.seek(SeekFrom::Start(from)).doing(what)?;
    }
    let copied = io::copy(&mut file.take(length), out).doing(what)?;
    if copied != length {
        return Err(Error::new(format!("it had {size} bytes, and has {}", from + copied)).doing(what()));
    }
    Ok(())
}
