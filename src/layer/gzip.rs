//! gzip on every core, with the same bytes on any number of them: a stream is cut into parts, and each becomes a member of its own.
//!
//! Members one after the other are a gzip file (RFC 1952, section 2.2), and unpack as what they were cut from.

use flate2::{Compression, GzBuilder};
use std::io::{self, Write};

/// The size of a part in bytes. A change changes the files' bytes.
const PART: usize = 4 << 20;

/// A writer that packs what it is given. What was given last is written by [`Gzip::finish`].
pub struct Gzip<W> {
    out: W,
    pending: Vec<u8>,
    cores: usize,
}

impl<W: Write> Gzip<W> {
    /// Packs into `out`.
    pub fn new(out: W) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { out, pending: Vec::with_capacity(PART * cores), cores }
    }

    /// Writes what is left, and gives the inner writer back.
    ///
    /// # Errors
    /// Writing fails.
    pub fn finish(mut self) -> io::Result<W> {
        self.pack()?;
        Ok(self.out)
    }

    fn pack(&mut self) -> io::Result<()> {
        let packed: Vec<io::Result<Vec<u8>>> = std::thread::scope(|scope| {
            let parts: Vec<_> = self.pending.chunks(PART).map(|part| scope.spawn(|| member(part))).collect();
            let panicked = || io::Error::other("packing panicked");
            parts.into_iter().map(|part| part.join().unwrap_or_else(|_| Err(panicked()))).collect()
        });
        for part in packed {
            self.out.write_all(&part?)?;
        }
        self.pending.clear();
        Ok(())
    }
}

impl<W: Write> Write for Gzip<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PART * self.cores - self.pending.len());
        self.pending.extend_from_slice(&bytes[..taken]);
        if self.pending.len() == PART * self.cores {
            self.pack()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        // Parts end where they must, so that the bytes do not depend on who flushes when.
        Ok(())
    }
}

/// No time and no name of a file in the head: the same bytes give the same bytes.
fn member(part: &[u8]) -> io::Result<Vec<u8>> {
    let mut packed = GzBuilder::new().mtime(0).write(Vec::new(), Compression::default());
    packed.write_all(part)?;
    packed.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn it_unpacks_to_what_it_was_and_its_bytes_do_not_depend_on_cores_or_writes() {
        let bytes: Vec<u8> = (0..PART * 5 / 2).map(|at| (at / 1000) as u8).collect();
        let packed = |cores: usize, step: usize| {
            let mut gzip = Gzip { out: Vec::new(), pending: Vec::new(), cores };
            for part in bytes.chunks(step) {
                gzip.write_all(part).unwrap();
                gzip.flush().unwrap();
            }
            gzip.finish().unwrap()
        };
        let first = packed(1, 1 << 20);
        assert!(first == packed(3, 777_777));
        let mut unpacked = Vec::new();
        flate2::read::MultiGzDecoder::new(&first[..]).read_to_end(&mut unpacked).unwrap();
        assert!(unpacked == bytes);
    }
}
