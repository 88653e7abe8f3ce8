//! Files of the tree as answers: whole or a range of them, from the page cache to the network without a copy.
//!
//! A body's chunks are parts of a mapping that nobody ever reads: [`Direct`] knows them by their address when they come to the
//! connection, and has the kernel send the file there (`sendfile(2)`). Over TLS, where bytes have to be seen, files are not given out.

use crate::base::error::{Context, Result};
use hyper::body::{Body, Bytes, Frame, SizeHint};
use memmap2::Mmap;
use rustix::event::{PollFd, PollFlags, Timespec};
use std::convert::Infallible;
use std::fs::File;
use std::io::{self, IoSlice};
use std::ops::{Range, RangeInclusive};
use std::path::{Component, Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as Task, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// How much of a file is handed on at once, in bytes.
const CHUNK: u64 = 8 << 20;

/// A file that is being given out.
pub struct Mapping {
    file: File,
    map: Mmap,
}

impl Mapping {
    /// Opens a file; none where it is empty, which no mapping can be.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn open(path: &Path) -> Result<Option<Arc<Self>>> {
        let file = crate::base::fs::open(path)?;
        if file.metadata().doing(|| format!("reading {}", path.display()))?.len() == 0 {
            return Ok(None);
        }
        // SAFETY: nothing reads or writes through the mapping; its addresses only stand for parts of the file.
        let map = unsafe { Mmap::map(&file) }.doing(|| format!("mapping {}", path.display()))?;
        Ok(Some(Arc::new(Self { file, map })))
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.map.len() as u64
    }

    /// Where in the file some bytes are, if they are of it.
    fn offset(&self, bytes: &[u8]) -> Option<u64> {
        let begin = (bytes.as_ptr() as usize).checked_sub(self.map.as_ptr() as usize)?;
        (begin + bytes.len() <= self.map.len()).then_some(begin as u64)
    }
}

/// A part of a mapping, as an owner of bytes.
struct Part(Arc<Mapping>, Range<usize>);

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.0.map[self.1.clone()]
    }
}

/// What an answer carries.
pub enum Content {
    /// Bytes; none once they are given.
    Bytes(Option<Bytes>),
    /// A range of a file.
    File(Arc<Mapping>, Range<u64>),
}

impl Content {
    /// Bytes in memory.
    pub fn of(bytes: impl Into<Bytes>) -> Self {
        Self::Bytes(Some(bytes.into()))
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Task<'_>) -> Poll<Option<std::result::Result<Frame<Bytes>, Infallible>>> {
        let bytes = match self.get_mut() {
            Self::Bytes(bytes) => bytes.take().filter(|bytes| !bytes.is_empty()),
            Self::File(_, range) if range.is_empty() => None,
            Self::File(mapping, range) => {
                let end = range.end.min(range.start + CHUNK);
                let part = Part(mapping.clone(), range.start as usize..end as usize);
                range.start = end;
                Some(Bytes::from_owner(part))
            }
        };
        Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.left() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left())
    }
}

impl Content {
    fn left(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.as_ref().map_or(0, |bytes| bytes.len() as u64),
            Self::File(_, range) => range.end - range.start,
        }
    }
}

/// What is being sent on a connection: the answer's maker says it, the connection looks.
#[derive(Clone, Default)]
pub struct Sending(Arc<Mutex<Option<Arc<Mapping>>>>);

impl Sending {
    /// From now on this file's bytes may come.
    pub fn set(&self, mapping: &Arc<Mapping>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(mapping.clone());
    }

    fn place(&self, bytes: &[u8]) -> Option<(Arc<Mapping>, u64)> {
        let mapping = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let offset = mapping.offset(bytes)?;
        Some((mapping, offset))
    }
}

/// A connection that has the kernel send what is a file's.
pub struct Direct {
    stream: TcpStream,
    sending: Sending,
}

impl Direct {
    /// Over a connection.
    pub fn new(stream: TcpStream, sending: Sending) -> Self {
        Self { stream, sending }
    }
}

impl AsyncRead for Direct {
    fn poll_read(mut self: Pin<&mut Self>, task: &mut Task<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(task, buffer)
    }
}

impl AsyncWrite for Direct {
    fn poll_write(self: Pin<&mut Self>, task: &mut Task<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(task, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, task: &mut Task<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let first = slices.iter().position(|slice| !slice.is_empty()).unwrap_or(0);
        let slices = &slices[first..];
        let Some((mapping, offset)) = slices.first().and_then(|slice| self.sending.place(slice)) else {
            // A head, and perhaps small bytes behind it, up to where a file begins.
            let end = slices.iter().position(|slice| self.sending.place(slice).is_some()).unwrap_or(slices.len());
            return Pin::new(&mut self.stream).poll_write_vectored(task, &slices[..end]);
        };
        let length = slices[0].len();
        loop {
            ready!(self.stream.poll_write_ready(task))?;
            let mut sent = None;
            let send = || {
                let mut from = offset;
                let count = rustix::fs::sendfile(&self.stream, &mapping.file, Some(&mut from), length)?;
                sent = Some(count);
                // Less than all of it: the connection's buffer is full, mostly. Another sendfile would take hold of 16 pages of
                // the file before it says so; poll only looks.
                if count < length && !has_room(&self.stream)? { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
            };
            match (self.stream.try_io(Interest::WRITABLE, send), sent) {
                // The file has become shorter than it was: nothing that the answer's length could still be true of.
                (_, Some(0)) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                (_, Some(count)) => return Poll::Ready(Ok(count)),
                (Err(error), None) if error.kind() != io::ErrorKind::WouldBlock => return Poll::Ready(Err(error)),
                (_, None) => {}
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(task)
    }
}

/// Whether a connection takes bytes now. Where it does not, the kernel will tell when it does.
fn has_room(stream: &TcpStream) -> io::Result<bool> {
    let mut connection = [PollFd::new(stream, PollFlags::OUT)];
    rustix::event::poll(&mut connection, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    Ok(!connection[0].revents().is_empty())
}

/// The file of a tree that a request's path names; none for what is no such path, or a name with a dot in front.
pub fn path(tree: &Path, request: &str) -> Option<PathBuf> {
    let decoded = percent_encoding::percent_decode_str(request.strip_prefix('/')?).decode_utf8().ok()?;
    let path = Path::new(decoded.as_ref());
    let plain = |part: Component<'_>| matches!(part, Component::Normal(name) if !name.to_string_lossy().starts_with('.'));
    (!decoded.is_empty() && !decoded.contains('\0') && path.components().all(plain)).then(|| tree.join(path))
}

/// What a `Range` header asks of so many bytes: all where there is none or several; an error where it cannot be met.
///
/// # Errors
/// The range is behind the end.
pub fn range(header: Option<&str>, length: u64) -> std::result::Result<Option<RangeInclusive<u64>>, ()> {
    let Some(header) = header else { return Ok(None) };
    let Ok(parsed) = http_range_header::parse_range_header(header) else { return Ok(None) };
    match parsed.validate(length).map_err(|_| ())?.as_slice() {
        [one] => Ok(Some(one.clone())),
        // Several are allowed to be answered by everything.
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_a_file_of_the_tree_or_nothing() {
        let tree = Path::new("/tree");
        let name = |request: &str| path(tree, request).map(|path| path.display().to_string());
        assert_eq!(name("/boot.ipxe").as_deref(), Some("/tree/boot.ipxe"));
        assert_eq!(name("/boot/id-A%20B.ipxe").as_deref(), Some("/tree/boot/id-A B.ipxe"));
        for wrong in
            ["/", "", "boot.ipxe", "/../etc/passwd", "/boot/%2e%2e/%2e%2e/etc", "//etc/passwd", "/.new-x", "/a/.b", "/a%00b"]
        {
            assert_eq!(name(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_range_is_met_or_refused_as_http_has_it() {
        assert_eq!(range(None, 10), Ok(None));
        assert_eq!(range(Some("bytes=4-"), 10), Ok(Some(4..=9)));
        assert_eq!(range(Some("bytes=-3"), 10), Ok(Some(7..=9)));
        assert_eq!(range(Some("bytes=2-5"), 10), Ok(Some(2..=5)));
        assert_eq!(range(Some("bytes=10-"), 10), Err(()));
        assert_eq!(range(Some("bytes=0-1,4-5"), 10), Ok(None));
        assert_eq!(range(Some("lines=1-2"), 10), Ok(None));
    }
}
