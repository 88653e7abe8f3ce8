//! A file described before it is written: sorted pieces, zeros between them.
//!
//! The writer copies file ranges (see `copy`) while a second thread hashes the same pieces from their sources, so that the digest
//! costs no second pass over the result.

use super::copy::Copier;
use crate::base::digest::{Digest, Hasher};
use crate::base::error::{Context, Error, Result};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How much is read or written at once, in bytes.
const CHUNK: usize = 1 << 20;

/// Where a piece's bytes come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// Bytes in memory, from this index on.
    Bytes(Arc<Vec<u8>>, usize),
    /// A file, from this offset on.
    File(Arc<PathBuf>, u64),
}

/// One piece of a file.
#[derive(Debug, Clone)]
pub struct Extent {
    /// Where it lies in the file, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
    /// Its content.
    pub source: Source,
}

impl Extent {
    /// Bytes in memory at `offset`.
    pub fn bytes(offset: u64, bytes: Vec<u8>) -> Self {
        Self { offset, length: bytes.len() as u64, source: Source::Bytes(Arc::new(bytes), 0) }
    }

    /// The first `length` bytes of a file at `offset`.
    pub fn file(offset: u64, path: &Path, length: u64) -> Self {
        Self { offset, length, source: Source::File(Arc::new(path.to_path_buf()), 0) }
    }

    /// Bytes in memory at `offset`, as several extents without those blocks of `block` bytes that hold only zeros.
    pub fn sparse(offset: u64, bytes: Vec<u8>, block: usize) -> Vec<Self> {
        let whole = Self::bytes(offset, bytes);
        let Source::Bytes(bytes, _) = &whole.source else { unreachable!("made of bytes") };
        let used: Vec<bool> = bytes.chunks(block).map(|chunk| chunk.iter().any(|byte| *byte != 0)).collect();
        let mut extents = Vec::new();
        let mut at = 0;
        while at < used.len() {
            let run = used[at..].iter().take_while(|used| **used).count();
            if run > 0 {
                let from = (at * block) as u64;
                extents.push(whole.part(from, ((run * block) as u64).min(whole.length - from), offset + from));
            }
            at += run.max(1);
        }
        extents
    }

    /// The first byte after it.
    pub fn end(&self) -> u64 {
        self.offset + self.length
    }

    /// `length` bytes of it, from byte `from` on, to lie at `offset`.
    #[must_use]
    pub fn part(&self, from: u64, length: u64, offset: u64) -> Self {
        let source = match &self.source {
            Source::Bytes(bytes, start) => Source::Bytes(bytes.clone(), start + from as usize),
            Source::File(path, start) => Source::File(path.clone(), start + from),
        };
        Self { offset, length, source }
    }
}

/// Writes a file of `size` bytes that has these extents and zeros elsewhere (as holes), and gives its sha256.
///
/// The file appears whole or not at all.
///
/// # Errors
/// Extents are unsorted, overlap or leave the file; a source is shorter than its extent; reading or writing fails.
pub fn write(path: &Path, extents: &[Extent], size: u64) -> Result<Digest> {
    check(extents, size)?;
    let file = crate::base::fs::temporary_beside(path)?;
    let what = || format!("writing {}", path.display());
    file.as_file().set_len(size).doing(what)?;
    let digest = std::thread::scope(|scope| {
        let hash = scope.spawn(|| hash(extents, size));
        copy(file.as_file(), file.path(), extents).doing(what)?;
        // Here rather than at the end: the disk works while the other thread still hashes.
        file.as_file().sync_data().doing(what)?;
        hash.join().map_err(|_| Error::new("the hashing thread ended early"))?.doing(what)
    })?;
    crate::base::fs::persist(file, path, 0o644)?;
    Ok(digest)
}

/// The sha256 of the file that [`write`] would write.
///
/// # Errors
/// A source cannot be read or is shorter than its extent.
pub fn hash(extents: &[Extent], size: u64) -> Result<Digest> {
    let mut hasher = Hasher::new(io::sink());
    let mut at = 0;
    for extent in extents {
        zeros(&mut hasher, extent.offset - at)?;
        feed(extent, &mut hasher)?;
        at = extent.end();
    }
    zeros(&mut hasher, size - at)?;
    Ok(hasher.finish().0)
}

/// All bytes of one extent, into `out`.
fn feed(extent: &Extent, out: &mut impl Write) -> Result<()> {
    match &extent.source {
        Source::Bytes(bytes, start) => out.write_all(&bytes[*start..*start + extent.length as usize]).doing(|| "writing bytes"),
        Source::File(path, start) => {
            let file = crate::base::fs::open(path)?;
            let mut buffer = vec![0; CHUNK];
            let mut done = 0;
            while done < extent.length {
                let part = &mut buffer[..CHUNK.min((extent.length - done) as usize)];
                file.read_exact_at(part, start + done).doing(|| format!("reading {}", path.display()))?;
                out.write_all(part).doing(|| "writing bytes")?;
                done += part.len() as u64;
            }
            Ok(())
        }
    }
}

fn zeros(out: &mut impl Write, mut count: u64) -> Result<()> {
    let buffer = vec![0; CHUNK.min(count as usize)];
    while count > 0 {
        let part = CHUNK.min(count as usize);
        out.write_all(&buffer[..part]).doing(|| "writing zeros")?;
        count -= part as u64;
    }
    Ok(())
}

fn copy(file: &File, path: &Path, extents: &[Extent]) -> Result<()> {
    let copier = Copier::new(file, path);
    for extent in extents {
        match &extent.source {
            Source::Bytes(bytes, start) => {
                file.write_all_at(&bytes[*start..*start + extent.length as usize], extent.offset).doing(|| "writing bytes")?
            }
            Source::File(path, start) => {
                let source = crate::base::fs::open(path)?;
                copier.copy(&source, *start, extent.offset, extent.length).doing(|| format!("copying {}", path.display()))?;
            }
        }
    }
    Ok(())
}

fn check(extents: &[Extent], size: u64) -> Result<()> {
    let mut end = 0;
    for extent in extents {
        if extent.offset < end {
            return Err(Error::new(format!("the piece at byte {} begins before byte {end}, where the last ends", extent.offset)));
        }
        end = extent.end();
    }
    if end > size {
        return Err(Error::new(format!("the content ends at byte {end}, after the file's {size} bytes")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_its_pieces_and_zeros_between_and_the_digest_is_the_files() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        std::fs::write(&source, "0123456789").unwrap();
        let out = folder.path().join("out");
        let mut extents = vec![Extent::bytes(1, b"ab".to_vec()), Extent::file(4, &source, 10).part(2, 3, 4)];
        extents.extend(Extent::sparse(8, b"\0\0\0\0xy\0\0z".to_vec(), 2));
        let digest = write(&out, &extents, 20).unwrap();
        assert_eq!(std::fs::read(&out).unwrap(), b"\0ab\x00234\0\0\0\0\0xy\0\0z\0\0\0");
        assert_eq!(digest, Digest::of(std::fs::read(&out).unwrap()));
        assert_eq!(extents.len(), 4, "blocks of zeros are no extents");
    }

    #[test]
    fn a_source_that_is_too_short_is_an_error_and_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        std::fs::write(&source, "012").unwrap();
        let out = folder.path().join("out");
        assert!(write(&out, &[Extent::file(0, &source, 4)], 8).is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn pieces_that_overlap_or_leave_the_file_are_refused() {
        for extents in [vec![Extent::bytes(0, vec![1; 4]), Extent::bytes(3, vec![1])], vec![Extent::bytes(7, vec![1; 2])]] {
            let folder = tempfile::tempdir().unwrap();
            assert!(write(&folder.path().join("out"), &extents, 8).is_err());
        }
    }
}
