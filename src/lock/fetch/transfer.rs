//! One package from one URL after the other: resuming, retrying, checking.

use super::resolver::Remembering;
use super::{Blobs, Progress};
use crate::base::digest::Digest;
use crate::base::error::{Context, Error, Result};
use crate::lock::LockedPackage;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::DefaultConnector;

/// How to ask servers, and how long to go on with one that fails.
#[derive(Debug, Clone)]
pub(super) struct Manner {
    /// Tries per URL.
    pub tries: u32,
    /// The pause after the first failure; it doubles after each further one.
    pub first_pause: Duration,
    /// How long a connection may give nothing.
    pub stall: Duration,
    /// Through which proxy.
    pub proxy: Option<ureq::Proxy>,
}

impl Manner {
    /// What suits people who wait: some fifteen seconds for a server that fails, a minute for one that is silent.
    pub(super) fn usual() -> Self {
        Self {
            tries: 5,
            first_pause: Duration::from_millis(500),
            stall: Duration::from_secs(60),
            proxy: ureq::Proxy::try_from_env(),
        }
    }
}

/// What asks servers in this manner.
pub(super) fn agent(manner: &Manner) -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .proxy(manner.proxy.clone())
        .http_status_as_error(false)
        // A server that packs on the fly would make sizes and ranges meaningless.
        .accept_encoding("identity")
        .user_agent(concat!("ostack-image/", env!("CARGO_PKG_VERSION")))
        .timeout_connect(Some(manner.stall))
        .timeout_recv_response(Some(manner.stall))
        .timeout_per_read(Some(manner.stall))
        .max_idle_connections_per_host(super::CONNECTIONS)
        .build();
    ureq::Agent::with_parts(config, DefaultConnector::default(), Remembering::<DefaultResolver>::default())
}

/// How a package ended that did not fail.
pub(super) enum Outcome {
    /// It is in the store.
    Done,
    /// No URL has it.
    Gone,
}

/// What downloads of one call share.
pub(super) struct Transfer<'a> {
    agent: ureq::Agent,
    sink: &'a dyn Blobs,
    progress: &'a dyn Progress,
    manner: Manner,
}

/// How one try ended that got no bytes wrong.
enum Try {
    /// The file has its full size.
    Complete,
    /// This URL has no such file.
    NotFound,
    /// Worth another try.
    Broken(Error),
    /// Not worth another try at this URL.
    Refused(Error),
}

impl<'a> Transfer<'a> {
    pub(super) fn new(sink: &'a dyn Blobs, progress: &'a dyn Progress, manner: Manner) -> Self {
        let agent = agent(&manner);
        Self { agent, sink, progress, manner }
    }

    /// Gets one package; `urls` are asked in order.
    pub(super) fn package(&self, package: &LockedPackage, urls: &[String]) -> Result<Outcome> {
        self.progress.message(package.name.as_str());
        let part = self.sink.partial(&package.sha256);
        let mut meter = Meter { progress: self.progress, counted: 0 };
        let mut failure = None;
        for url in urls {
            let named = |error: Error| error.doing(format!("getting {} {} from {url}", package.name, package.version));
            match self.ask(package, url, &part, &mut meter) {
                Ok(true) => {
                    self.sink.commit(&package.sha256, &part).map_err(named)?;
                    return Ok(Outcome::Done);
                }
                Ok(false) => {}
                Err(error) => failure = Some(named(error)),
            }
        }
        match failure {
            Some(error) => Err(error),
            None => Ok(Outcome::Gone),
        }
    }

    /// Gets a package from one URL into `part` and checks it; `false` when the URL does not have it.
    fn ask(&self, package: &LockedPackage, url: &str, part: &Path, meter: &mut Meter<'_>) -> Result<bool> {
        let mut wrong = None;
        // The first wrong file may come of a stale beginning or a broken transfer, the second does not.
        for _ in 0..2 {
            if !self.complete(package, url, part, meter)? {
                return Ok(false);
            }
            match check(package, part)? {
                None => return Ok(true),
                Some(error) => {
                    fs::remove_file(part).doing(|| format!("removing {}", part.display()))?;
                    wrong = Some(error);
                }
            }
        }
        match wrong {
            Some(error) => Err(error),
            None => Ok(false),
        }
    }

    /// Tries until `part` is complete; `false` when the URL does not have the file.
    fn complete(&self, package: &LockedPackage, url: &str, part: &Path, meter: &mut Meter<'_>) -> Result<bool> {
        let mut pause = self.manner.first_pause;
        let mut left = self.manner.tries;
        loop {
            left -= 1;
            let tried = match url.strip_prefix("file://") {
                Some(path) => copy(package, Path::new(path), part, meter)?,
                None => self.download(package, url, part, meter)?,
            };
            match tried {
                Try::Complete => return Ok(true),
                Try::NotFound => return Ok(false),
                Try::Broken(error) if left == 0 => {
                    return Err(Error::new(format!("{} (tried {} times)", error.cause(), self.manner.tries))
                        .next("try again later, or name another mirror below [mirror] in site.toml; what was got is kept"));
                }
                Try::Broken(_) => std::thread::sleep(pause),
                Try::Refused(error) => return Err(error.next("name another mirror below [mirror] in site.toml")),
            }
            pause *= 2;
        }
    }

    fn download(&self, package: &LockedPackage, url: &str, part: &Path, meter: &mut Meter<'_>) -> Result<Try> {
        let mut here = length(part)?;
        if here > package.size {
            // No beginning of this file, whatever it is.
            fs::remove_file(part).doing(|| format!("removing {}", part.display()))?;
            here = 0;
        }
        if here == package.size {
            meter.reached(here);
            return Ok(Try::Complete);
        }
        let mut request = self.agent.get(url);
        if here > 0 {
            request = request.header("Range", format!("bytes={here}-"));
        }
        let response = match request.call() {
            Ok(response) => response,
            Err(error) => return Ok(Try::Broken(Error::new(error))),
        };
        let status = response.status();
        match status.as_u16() {
            200 => here = 0,
            206 if resumes_at(&response, here) => {}
            // The server has another idea of the file or of ranges: begin anew.
            206 | 416 => {
                fs::remove_file(part).doing(|| format!("removing {}", part.display()))?;
                return Ok(Try::Broken(Error::new(format!("the server did not resume at byte {here}"))));
            }
            404 | 410 => return Ok(Try::NotFound),
            408 | 429 | 500..=599 => return Ok(Try::Broken(Error::new(format!("the server answered {status}")))),
            _ => return Ok(Try::Refused(Error::new(format!("the server answered {status}")))),
        }
        gather(package, response.into_body().into_reader(), here, part, meter)
    }
}

/// Whether a 206 answer begins where it was asked to.
fn resumes_at(response: &ureq::http::Response<ureq::Body>, start: u64) -> bool {
    let range = response.headers().get("content-range").and_then(|value| value.to_str().ok());
    range.is_some_and(|range| range.trim().starts_with(&format!("bytes {start}-")))
}

/// A file of a local mirror; always from the beginning.
fn copy(package: &LockedPackage, path: &Path, part: &Path, meter: &mut Meter<'_>) -> Result<Try> {
    match File::open(path) {
        // A file that is too short now will be so after a pause.
        Ok(file) => match gather(package, file, 0, part, meter)? {
            Try::Broken(error) => Ok(Try::Refused(error)),
            tried => Ok(tried),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Try::NotFound),
        Err(error) => Ok(Try::Refused(Error::new(error))),
    }
}

/// Writes what `reader` gives to `part` from byte `start` on. Reads at most one byte more than the
/// package has, so that an endless answer ends here and a longer file is told from the right one.
fn gather(package: &LockedPackage, reader: impl Read, start: u64, part: &Path, meter: &mut Meter<'_>) -> Result<Try> {
    let writing = || format!("writing {}", part.display());
    let mut file = OpenOptions::new().append(true).create(true).open(part).doing(writing)?;
    file.set_len(start).doing(writing)?;
    let mut reader = reader.take(package.size + 1 - start);
    let mut here = start;
    meter.reached(here);
    let mut buffer = vec![0; 1 << 17];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                file.write_all(&buffer[..count]).doing(writing)?;
                here += count as u64;
                meter.reached(here.min(package.size));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Ok(Try::Broken(Error::new(error))),
        }
    }
    if here < package.size {
        return Ok(Try::Broken(Error::new(format!("only {here} of {} bytes came", package.size))));
    }
    Ok(Try::Complete)
}

/// What is wrong with a gathered file, if anything. A right one is synced.
fn check(package: &LockedPackage, part: &Path) -> Result<Option<Error>> {
    let (digest, size) = Digest::of_file(part)?;
    let wrong = if size != package.size {
        format!("the file is longer than the {} bytes of the lock", package.size)
    } else if digest != package.sha256 {
        format!("the file has {digest}, the lock says {}", package.sha256)
    } else {
        let file = crate::base::fs::open(part)?;
        file.sync_all().doing(|| format!("syncing {}", part.display()))?;
        return Ok(None);
    };
    Ok(Some(Error::new(wrong).next(format!(
        "name another mirror below [mirror] in site.toml, or lock what this one has with `ostack-image lock --update {}`",
        package.name
    ))))
}

fn length(path: &Path) -> Result<u64> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error).doing(|| format!("reading {}", path.display())),
    }
}

/// Tells the progress only of bytes that were not told before, so that a restart does not count twice.
struct Meter<'a> {
    progress: &'a dyn Progress,
    counted: u64,
}

impl Meter<'_> {
    fn reached(&mut self, position: u64) {
        if position > self.counted {
            self.progress.advance(position - self.counted);
            self.counted = position;
        }
    }
}
