//! Lists and signatures of archives: files got whole, into memory, whose digest is known afterwards if at all.

use super::transfer::{Manner, agent};
use crate::base::error::{Error, Result};
use std::io::Read;
use std::time::Duration;

/// The longest file that is taken, in bytes: four times the largest list of Debian's archive, uncompressed.
const LONGEST: u64 = 256 << 20;

/// Gets files by `http://`, `https://` and `file://`, with the environment's proxies.
pub(in crate::lock) struct Getter {
    agent: ureq::Agent,
    manner: Manner,
}

/// How one try ended.
enum Try {
    Got(Vec<u8>),
    NotFound,
    /// Worth another try.
    Broken(String),
    Refused(String),
}

impl Getter {
    /// With the usual patience.
    pub fn new() -> Self {
        Self::with(Manner::usual())
    }

    fn with(manner: Manner) -> Self {
        Self { agent: agent(&manner), manner }
    }

    /// A file's bytes; `None` when the server says that it has none.
    ///
    /// # Errors
    /// The server cannot be reached or fails repeatedly; says how.
    pub fn get(&self, url: &str) -> Result<Option<Vec<u8>>> {
        let mut pause: Duration = self.manner.first_pause;
        for left in (0..self.manner.tries).rev() {
            let tried = match url.strip_prefix("file://") {
                Some(path) => read(path),
                None => self.ask(url),
            };
            match tried {
                Try::Got(bytes) => return Ok(Some(bytes)),
                Try::NotFound => return Ok(None),
                Try::Refused(why) => return Err(Error::new(format!("{url}: {why}"))),
                Try::Broken(why) if left == 0 => {
                    return Err(Error::new(format!("{url}: {why} (tried {} times)", self.manner.tries)));
                }
                Try::Broken(_) => std::thread::sleep(pause),
            }
            pause *= 2;
        }
        Ok(None)
    }

    fn ask(&self, url: &str) -> Try {
        let response = match self.agent.get(url).call() {
            Ok(response) => response,
            Err(error) => return Try::Broken(error.to_string()),
        };
        let status = response.status();
        match status.as_u16() {
            200 => {}
            // Some servers that keep files as objects say "forbidden" of what they do not have.
            403 | 404 | 410 => return Try::NotFound,
            408 | 429 | 500..=599 => return Try::Broken(format!("the server answered {status}")),
            _ => return Try::Refused(format!("the server answered {status}")),
        }
        let expected = response.headers().get("content-length").and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        let mut bytes = Vec::new();
        match response.into_body().into_reader().take(LONGEST + 1).read_to_end(&mut bytes) {
            Ok(size) if size as u64 > LONGEST => Try::Refused(format!("it is longer than {} MB", LONGEST >> 20)),
            Ok(size) if expected.is_some_and(|expected| expected != size) => Try::Broken(format!("only {size} bytes came")),
            Ok(_) => Try::Got(bytes),
            Err(error) => Try::Broken(error.to_string()),
        }
    }
}

fn read(path: &str) -> Try {
    match std::fs::read(path) {
        Ok(bytes) => Try::Got(bytes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Try::NotFound,
        Err(error) => Try::Refused(error.to_string()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A getter whose pauses take no time.
    pub(in super::super) fn hasty() -> Getter {
        let no_time = Duration::from_millis(1);
        Getter::with(Manner { tries: 3, first_pause: no_time, stall: Duration::from_secs(5), proxy: None })
    }

    #[test]
    fn a_file_of_this_machine_is_there_or_not() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("file://{}/list", folder.path().display());
        assert_eq!(hasty().get(&url).unwrap(), None);
        std::fs::write(folder.path().join("list"), "text").unwrap();
        assert_eq!(hasty().get(&url).unwrap().as_deref(), Some(&b"text"[..]));
    }
}
