//! An image onto a disk: piece by piece as it comes, each chunk checked before any of it is written.
//!
//! ```text
//!   server ──> reader: fills a chunk, compares its sha256 ──(at most 2 chunks)──> writer: runs on the disk
//! ```
//!
//! A connection that breaks is taken up behind the last chunk that was right.

use super::source::Blobs;
use crate::base::digest::Digest;
use crate::base::error::{Context, Error, Result};
use crate::model::install::{CHUNK, Description, Piece};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// Chunks between the reader and the writer; with those in their hands it is what the installer needs of memory.
const AHEAD: usize = 2;
/// How often a chunk is asked for again, and the pause before the second time; it doubles.
const TRIES: (u32, Duration) = (5, Duration::from_millis(if cfg!(test) { 1 } else { 1000 }));
/// Zeros are written so many at once.
const ZEROS: usize = 1 << 20;

/// Writes every piece of an image and zeros in its gaps; `done` hears how many bytes of pieces are on the disk.
///
/// # Errors
/// A chunk is another one than described, or does not come; the disk cannot be written.
pub fn image(blobs: &dyn Blobs, description: &Description, disk: &File, done: &(dyn Fn(u64) + Sync)) -> Result<()> {
    for (begin, length) in description.gaps() {
        zeros(disk, begin, length)?;
    }
    let mut before = 0;
    for piece in &description.pieces {
        let named = |error: Error| error.doing(format!("writing {}", piece.name));
        check(piece).map_err(named)?;
        std::thread::scope(|scope| {
            let (sender, receiver) = sync_channel(AHEAD);
            let writer = scope.spawn(move || write(disk, piece, &receiver, &|bytes| done(before + bytes)));
            let read = read(blobs, piece, &sender);
            drop(sender);
            let written = writer.join().map_err(|_| Error::new("the writer panicked"))?;
            // A reader whose writer is gone has nothing to say.
            written.and(read)
        })
        .map_err(named)?;
        before += piece.blob.size;
    }
    disk.sync_all().doing(|| "writing what is still in memory")
}

/// Writes zeros.
///
/// # Errors
/// The disk cannot be written.
pub fn zeros(disk: &File, mut begin: u64, mut length: u64) -> Result<()> {
    let block = vec![0; ZEROS];
    while length > 0 {
        let count = length.min(ZEROS as u64);
        disk.write_all_at(&block[..count as usize], begin).doing(|| "writing zeros")?;
        (begin, length) = (begin + count, length - count);
    }
    Ok(())
}

/// A description is believed as long as it agrees with itself.
fn check(piece: &Piece) -> Result<()> {
    let runs: u64 = piece.runs.iter().map(|(_, length)| length).sum();
    if runs != piece.blob.size || piece.chunks.len() as u64 != piece.blob.size.div_ceil(CHUNK) {
        return Err(Error::new("the description does not fit its blob").next("make the tree again"));
    }
    Ok(())
}

fn read(blobs: &dyn Blobs, piece: &Piece, sender: &SyncSender<Vec<u8>>) -> Result<()> {
    let mut stream = None;
    for (number, wanted) in (0..).zip(&piece.chunks) {
        let from = number * CHUNK;
        let length = CHUNK.min(piece.blob.size - from);
        let mut pause = TRIES.1;
        let mut tries = 0;
        let chunk = loop {
            tries += 1;
            match chunk(blobs, &piece.blob.digest, from, length, wanted, &mut stream) {
                Ok(chunk) => break chunk,
                Err(error) if tries == TRIES.0 => return Err(error),
                Err(_) => {
                    // Another connection, from this chunk on.
                    stream = None;
                    std::thread::sleep(pause);
                    pause *= 2;
                }
            }
        };
        if sender.send(chunk).is_err() {
            break;
        }
    }
    Ok(())
}

type Stream = Option<Box<dyn Read + Send>>;

fn chunk(blobs: &dyn Blobs, blob: &Digest, from: u64, length: u64, wanted: &Digest, stream: &mut Stream) -> Result<Vec<u8>> {
    let reader = match stream {
        Some(reader) => reader,
        None => stream.insert(blobs.open(blob, from)?),
    };
    let mut bytes = vec![0; length as usize];
    reader.read_exact(&mut bytes).doing(|| format!("reading {blob} from byte {from} on"))?;
    let found = Digest::of(&bytes);
    if found != *wanted {
        return Err(Error::new(format!(
            "{blob} is damaged between the bytes {from} and {}: {found} came, not {wanted}",
            from + length
        ))
        .next("check the server's disk and memory, and make the tree again"));
    }
    Ok(bytes)
}

/// Puts chunks into runs.
fn write(disk: &File, piece: &Piece, chunks: &Receiver<Vec<u8>>, done: &dyn Fn(u64)) -> Result<()> {
    let mut runs = piece.runs.iter().copied();
    let (mut at, mut room) = (0, 0);
    let mut total = 0;
    for chunk in chunks {
        let mut rest = &chunk[..];
        while !rest.is_empty() {
            if room == 0 {
                (at, room) = runs.next().ok_or_else(|| Error::new("more came than there is room for"))?;
            }
            let (now, later) = rest.split_at(rest.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
            disk.write_all_at(now, at).doing(|| "writing to the disk")?;
            (at, room) = (at + now.len() as u64, room - now.len() as u64);
            rest = later;
        }
        total += chunk.len() as u64;
        done(total);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::digest::Blob;
    use crate::base::gpt::{Guid, Partition};
    use crate::model::install::FORMAT;
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

    /// Blobs in memory. Connections break after so many bytes; the byte at an offset is another one, the first so many times.
    #[derive(Default)]
    struct Memory {
        blobs: BTreeMap<Digest, Vec<u8>>,
        breaks_after: Option<usize>,
        flips: Option<(usize, u32)>,
        opened: AtomicU32,
    }

    impl Blobs for Memory {
        fn open(&self, blob: &Digest, from: u64) -> Result<Box<dyn Read + Send>> {
            let opened = self.opened.fetch_add(1, Relaxed);
            let mut bytes = self.blobs[blob].clone();
            if let Some((at, times)) = self.flips
                && opened < times
            {
                bytes[at] ^= 1;
            }
            let mut bytes = bytes.split_off(from as usize);
            bytes.truncate(self.breaks_after.unwrap_or(usize::MAX));
            Ok(Box::new(std::io::Cursor::new(bytes)))
        }
    }

    fn content(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at % 251) as u8 | 1).collect()
    }

    /// An image of one blob of ten million bytes in three runs, with gaps before, between, and none behind.
    fn image_of(blobs: &mut Memory) -> Description {
        let bytes = content(10_000_000);
        let blob = Blob { digest: Digest::of(&bytes), size: bytes.len() as u64 };
        let chunks = bytes.chunks(CHUNK as usize).map(Digest::of).collect();
        blobs.blobs.insert(blob.digest, bytes);
        let runs = vec![(1024, 5_000_000), (6_000_000, 1), (7_000_000, 4_999_999)];
        let partition =
            Partition { kind: Guid::LINUX, id: Guid::LINUX, first: 1, last: 30_000, attributes: 0, name: "system".into() };
        Description {
            format: FORMAT,
            image: Digest::of("image"),
            role: "controller".into(),
            boot_code: String::new(),
            disk: Guid::LINUX,
            partitions: vec![partition],
            pieces: vec![Piece { name: "boot".into(), blob, runs, chunks }],
            kernel: blob,
            initrd: blob,
            command_line: String::new(),
        }
    }

    /// A disk full of other things, and what is on it afterwards.
    fn after(blobs: &Memory, description: &Description) -> (Result<()>, Vec<u8>, u64) {
        let disk = tempfile::tempfile().unwrap();
        disk.write_all_at(&vec![0xee; 13_000_000], 0).unwrap();
        let reached = AtomicU64::new(0);
        let result = image(blobs, description, &disk, &|bytes| reached.store(bytes, Relaxed));
        let mut bytes = vec![0; 13_000_000];
        disk.read_exact_at(&mut bytes, 0).unwrap();
        (result, bytes, reached.into_inner())
    }

    fn whole() -> Vec<u8> {
        let bytes = content(10_000_000);
        let mut disk = vec![0xee; 13_000_000];
        disk[512..11_999_999].fill(0);
        disk[1024..5_001_024].copy_from_slice(&bytes[..5_000_000]);
        disk[6_000_000] = bytes[5_000_000];
        disk[7_000_000..11_999_999].copy_from_slice(&bytes[5_000_001..]);
        disk
    }

    #[test]
    fn an_image_lies_in_its_runs_with_zeros_between_and_nothing_else_is_touched() {
        let mut blobs = Memory::default();
        let description = image_of(&mut blobs);
        let (result, disk, reached) = after(&blobs, &description);
        result.unwrap();
        assert!(disk == whole());
        assert_eq!((reached, blobs.opened.into_inner()), (10_000_000, 1));
    }

    #[test]
    fn a_connection_that_breaks_is_taken_up_where_it_was() {
        // The first connection gives one chunk and a half, and the half comes again.
        let mut blobs = Memory { breaks_after: Some(CHUNK as usize * 3 / 2), ..Memory::default() };
        let description = image_of(&mut blobs);
        let (result, disk, _) = after(&blobs, &description);
        result.unwrap();
        assert!(disk == whole());
        assert_eq!(blobs.opened.into_inner(), 2);
    }

    #[test]
    fn a_damaged_chunk_is_asked_for_again() {
        let mut blobs = Memory { flips: Some((5_000_000, 1)), ..Memory::default() };
        let description = image_of(&mut blobs);
        let (result, disk, _) = after(&blobs, &description);
        result.unwrap();
        assert!(disk == whole());
    }

    #[test]
    fn what_stays_damaged_never_reaches_the_disk() {
        let mut blobs = Memory { flips: Some((5_000_000, u32::MAX)), ..Memory::default() };
        let description = image_of(&mut blobs);
        let (result, disk, reached) = after(&blobs, &description);
        let blob = description.pieces[0].blob.digest;
        let mut wrong = content(10_000_000);
        wrong[5_000_000] ^= 1;
        let found = Digest::of(&wrong[CHUNK as usize..2 * CHUNK as usize]);
        assert_eq!(
            result.unwrap_err().to_string(),
            format!(
                "writing boot: {blob} is damaged between the bytes 4194304 and 8388608: {found} came, not {}\n  \
                 next: check the server's disk and memory, and make the tree again",
                description.pieces[0].chunks[1]
            )
        );
        assert_eq!(reached, CHUNK);
        // The first chunk's bytes, and from there what there was or zeros.
        assert!(disk[1024 + CHUNK as usize..5_001_024].iter().all(|byte| *byte == 0xee));
    }

    #[test]
    fn a_description_that_does_not_fit_its_blob_is_refused_before_anything_is_asked_for() {
        let mut blobs = Memory::default();
        let mut description = image_of(&mut blobs);
        description.pieces[0].runs.pop();
        let (result, _, _) = after(&blobs, &description);
        assert_eq!(
            result.unwrap_err().to_string(),
            "writing boot: the description does not fit its blob\n  next: make the tree again"
        );
        assert_eq!(blobs.opened.into_inner(), 0);
    }
}
