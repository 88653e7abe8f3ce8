//! Where blobs come from: a web server or a medium. What comes is checked by whoever asked for it.

use crate::base::digest::{Blob, Digest};
use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use crate::model::install::{Armed, Progress, Source};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::http::Response;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body};

/// How long a server may say nothing.
const STALL: Duration = Duration::from_secs(20);
/// More than any description or seed has, in bytes.
const SMALL: u64 = 64 << 20;

/// Blobs by digest.
pub trait Blobs: Sync {
    /// A blob's bytes from one of them on.
    ///
    /// # Errors
    /// It is not there, or the server does not answer.
    fn open(&self, blob: &Digest, from: u64) -> Result<Box<dyn Read + Send>>;
}

/// A small blob as a whole, checked.
///
/// # Errors
/// It cannot be had, or is another one.
pub fn small(blobs: &dyn Blobs, blob: &Blob) -> Result<Vec<u8>> {
    if blob.size > SMALL {
        return Err(Error::new(format!("a blob of {} MiB is asked for as a whole", blob.size >> 20)));
    }
    let mut bytes = Vec::new();
    let mut reader = blobs.open(&blob.digest, 0)?.take(blob.size + 1);
    reader.read_to_end(&mut bytes).doing(|| format!("reading {}", blob.digest))?;
    let found = Digest::of(&bytes);
    if found != blob.digest {
        return Err(Error::new(format!("{} bytes came with the digest {found}, and {} was asked for", bytes.len(), blob.digest))
            .next("make the tree again, and serve all of it"));
    }
    Ok(bytes)
}

/// Blobs on a mounted medium.
pub struct Medium(pub PathBuf);

impl Blobs for Medium {
    fn open(&self, blob: &Digest, from: u64) -> Result<Box<dyn Read + Send>> {
        let mut file = fs::open(&path(&self.0, blob))?;
        file.seek(SeekFrom::Start(from)).doing(|| format!("reading {blob}"))?;
        Ok(Box::new(file))
    }
}

/// Where a tree has a blob.
fn path(tree: &Path, blob: &Digest) -> PathBuf {
    tree.join("blobs/sha256").join(blob.hex())
}

/// A web server, and the door of `ostack-image serve` if it is one.
pub struct Server {
    agent: Agent,
    base: String,
    secure: Option<(Agent, String)>,
}

impl Server {
    /// The server that `source` names.
    ///
    /// # Errors
    /// It names a medium, or its authority is no certificate.
    pub fn new(source: &Source) -> Result<Self> {
        let Source::Http { base, secure, authority } = source else {
            return Err(Error::new("a medium is no server"));
        };
        let secure = match (secure, authority) {
            (Some(url), Some(pem)) => {
                let root = Certificate::from_pem(pem.as_bytes()).map_err(Error::new).doing(|| "reading the site's authority")?;
                let tls = TlsConfig::builder().root_certs(RootCerts::new_with_certs(&[root])).build();
                Some((agent(Some(tls)), url.clone()))
            }
            _ => None,
        };
        Ok(Self { agent: agent(None), base: base.clone(), secure })
    }

    /// Whether the server expects this node, and what it wants of it; none where it does not.
    ///
    /// # Errors
    /// It has no door for secrets, or does not answer.
    pub fn armed(&self, node: &str) -> Result<Option<Armed>> {
        let (agent, url) = self.door()?;
        let url = format!("{url}/v1/armed/{node}");
        let mut response = agent.get(&url).call().map_err(|error| failed(&url, &error))?;
        match response.status().as_u16() {
            200 => response.body_mut().read_json().map(Some).map_err(|error| failed(&url, &error)),
            404 => Ok(None),
            _ => Err(refused(&url, &mut response)),
        }
    }

    /// The node's seed: given once per arming, to whoever first asks with a claim, and to nobody else.
    ///
    /// # Errors
    /// It was given to another machine, or the server does not answer.
    pub fn seed(&self, node: &str, claim: &str) -> Result<Vec<u8>> {
        let (agent, url) = self.door()?;
        let url = format!("{url}/v1/seed/{node}");
        let mut response = agent.post(&url).send(claim).map_err(|error| failed(&url, &error))?;
        if response.status().as_u16() != 200 {
            return Err(refused(&url, &mut response));
        }
        response.body_mut().with_config().limit(SMALL).read_to_vec().map_err(|error| failed(&url, &error))
    }

    /// Says that the node is installed: the server expects it no more.
    ///
    /// # Errors
    /// The server does not answer.
    pub fn done(&self, node: &str, claim: &str) -> Result<()> {
        let (agent, url) = self.door()?;
        let url = format!("{url}/v1/done/{node}");
        let mut response = agent.post(&url).send(claim).map_err(|error| failed(&url, &error))?;
        if response.status().is_success() { Ok(()) } else { Err(refused(&url, &mut response)) }
    }

    /// Tells how far the machine is. A server of static files does not listen, and none is waited for.
    pub fn tell(&self, progress: &Progress) {
        let _ = self.agent.post(format!("{}/v1/progress", self.base)).send_json(progress);
    }

    fn door(&self) -> Result<(&Agent, &str)> {
        let door = self.secure.as_ref().map(|(agent, url)| (agent, url.as_str()));
        door.ok_or_else(|| {
            Error::new("the tree was made for a server without secrets")
                .next("make the tree with the site's secrets at hand, and serve it by `ostack-image serve`")
        })
    }
}

impl Blobs for Server {
    fn open(&self, blob: &Digest, from: u64) -> Result<Box<dyn Read + Send>> {
        let url = format!("{}/blobs/sha256/{}", self.base, blob.hex());
        let mut request = self.agent.get(&url);
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        let mut response = request.call().map_err(|error| failed(&url, &error))?;
        match response.status().as_u16() {
            200 if from == 0 => {}
            206 if from > 0 => {}
            200 => return Err(Error::new(format!("{url}: the server gives no ranges")).next("use a web server that does")),
            _ => return Err(refused(&url, &mut response)),
        }
        Ok(Box::new(response.into_body().into_reader()))
    }
}

fn agent(tls: Option<TlsConfig>) -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        // The machine's only network is the provisioning one.
        .proxy(None)
        .accept_encoding("identity")
        .user_agent(concat!("ostack-node/", env!("CARGO_PKG_VERSION")))
        .timeout_connect(Some(STALL))
        .timeout_recv_response(Some(STALL))
        .timeout_per_read(Some(STALL));
    match tls {
        Some(tls) => config.tls_config(tls).https_only(true).build().into(),
        None => config.build().into(),
    }
}

fn failed(url: &str, error: &ureq::Error) -> Error {
    Error::new(format!("{url}: {error}"))
}

fn refused(url: &str, response: &mut Response<Body>) -> Error {
    let words = response.body_mut().with_config().limit(1000).read_to_string().unwrap_or_default();
    let words = words.lines().next().unwrap_or_default().trim();
    Error::new(format!("{url}: the server answers {}{}{words}", response.status(), if words.is_empty() { "" } else { ": " }))
}
