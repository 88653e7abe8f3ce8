//! Requests to answers.
//!
//! ```text
//! http    GET  /                     the page             GET  /v1/status     what it shows
//!         POST /v1/progress          a machine says how far it is
//!         GET  /boot/… pxelinux.cfg/…  a node's script: the installer's while it is expected, else that of its disk
//!         GET  /…                    a file of the tree
//! https   GET  /v1/armed/NODE        what is wanted of it; 404 while it is not expected
//!         POST /v1/seed/NODE         the seed, for the claim in the body; 409 if another machine has it
//!         POST /v1/secrets/NODE      only what is secret of it, for other installers
//!         POST /v1/done/NODE         the machine with the claim in the body is installed
//! ```

use super::files::{self, Content, Mapping, Sending};
use super::hub::{BUNDLE, Given, Hub, Part};
use crate::base::error::Error;
use crate::deploy::netboot::DISK;
use crate::model::install::{INSTALL_ARGUMENT, Kind, Progress};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// The page: everything that it needs is in it.
const PAGE: &str = include_str!("page.html");
/// The most that a machine may say at once, in bytes.
const BODY: usize = 64 << 10;

type Answer = Response<Content>;
/// What went wrong, as status and words.
type Refusal = (StatusCode, String);

/// Answers a request that came by HTTP.
pub async fn plain(hub: Arc<Hub>, sending: Sending, request: Request<Incoming>) -> Answer {
    let head = request.method() == Method::HEAD;
    let reads = head || request.method() == Method::GET;
    let path = request.uri().path().to_string();
    let answer = match path.as_str() {
        "/" if reads => Ok(text("text/html; charset=utf-8", PAGE)),
        "/v1/status" if reads => hub.status().map_err(broken).and_then(|status| json(&status)),
        "/v1/progress" if request.method() == Method::POST => progress(&hub, request).await,
        _ if reads => {
            let range = request.headers().get(header::RANGE).and_then(|value| value.to_str().ok());
            file(&hub, &sending, &path, range)
        }
        _ => Err((StatusCode::METHOD_NOT_ALLOWED, "there is nothing to write here".into())),
    };
    let mut answer = answer.unwrap_or_else(refused);
    if head {
        // hyper keeps the length that the header has.
        *answer.body_mut() = Content::Bytes(None);
    }
    answer
}

/// Answers a request that came by HTTPS.
pub async fn secure(hub: Arc<Hub>, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_string();
    let (Some(("v1", rest)), method) = (path.trim_start_matches('/').split_once('/'), request.method().clone()) else {
        return refused(absent());
    };
    let Some((what, node)) = rest.split_once('/') else { return refused(absent()) };
    if !hub.knows(node) {
        return refused((StatusCode::NOT_FOUND, format!("the site has no node `{node}`")));
    }
    let answer = match (&method, what) {
        (&Method::GET, "armed") => match hub.armed(node) {
            Ok(Some(armed)) => json(&armed),
            Ok(None) => Err((StatusCode::NOT_FOUND, format!("{node} is not expected"))),
            Err(error) => Err(broken(error)),
        },
        (&Method::POST, "seed" | "secrets") => match claim(request).await {
            Ok(claim) => seed(hub, node.to_string(), if what == "seed" { Part::All } else { Part::Secrets }, claim).await,
            Err(refusal) => Err(refusal),
        },
        (&Method::POST, "done") => match claim(request).await {
            Ok(claim) => match hub.done(node, &claim) {
                Ok(true) => Ok(text("text/plain", "good\n")),
                Ok(false) => Err((StatusCode::CONFLICT, format!("{node} was not expected with this claim"))),
                Err(error) => Err(broken(error)),
            },
            Err(refusal) => Err(refusal),
        },
        _ => Err(absent()),
    };
    answer.unwrap_or_else(refused)
}

async fn seed(hub: Arc<Hub>, node: String, part: Part, claim: String) -> Result<Answer, Refusal> {
    let name = node.clone();
    let given = tokio::task::spawn_blocking(move || hub.seed(&name, part, &claim)).await;
    match given.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?.map_err(broken)? {
        Given::Seed(seed) => Ok(with(StatusCode::OK, "application/octet-stream", Content::of(seed))),
        Given::Unexpected => Err((StatusCode::NOT_FOUND, format!("{node} is not expected"))),
        Given::Taken => {
            Err((StatusCode::CONFLICT, format!("another machine has the seed of {node}: arm it anew if this is the one")))
        }
    }
}

async fn body(request: Request<Incoming>) -> Result<Vec<u8>, Refusal> {
    let limited = Limited::new(request.into_body(), BODY);
    let collected = limited.collect().await.map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
    Ok(collected.to_bytes().to_vec())
}

/// A claim: 32 hexadecimal digits.
async fn claim(request: Request<Incoming>) -> Result<String, Refusal> {
    let text = String::from_utf8(body(request).await?).unwrap_or_default();
    let good = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if good { Ok(text) } else { Err((StatusCode::BAD_REQUEST, "a claim has 32 hexadecimal digits".into())) }
}

async fn progress(hub: &Hub, request: Request<Incoming>) -> Result<Answer, Refusal> {
    let body = body(request).await?;
    let said: Progress = serde_json::from_slice(&body).map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    hub.heard(said, now).map_err(|error| (StatusCode::NOT_FOUND, error.to_string()))?;
    Ok(text("text/plain", "heard\n"))
}

fn file(hub: &Hub, sending: &Sending, path: &str, range: Option<&str>) -> Result<Answer, Refusal> {
    let (folder, path, of_tree) = match path.strip_prefix(BUNDLE) {
        Some(rest) if rest.starts_with('/') => (&hub.bundle, rest, false),
        _ => (&hub.tree, path, true),
    };
    let on_disk = files::path(folder, path).filter(|path| path.is_file()).ok_or_else(absent)?;
    let name = path.trim_start_matches('/');
    if of_tree
        && !name.starts_with("blobs/")
        && let Some(node) = hub.owner(name).map_err(broken)?
    {
        return script(hub, &on_disk, &node);
    }
    let Some(mapping) = Mapping::open(&on_disk).map_err(broken)? else {
        return Ok(with(StatusCode::OK, kind(name), Content::Bytes(None)));
    };
    let length = mapping.len();
    let asked = files::range(range, length);
    let (status, part) = match asked {
        Ok(None) => (StatusCode::OK, 0..length),
        Ok(Some(range)) => (StatusCode::PARTIAL_CONTENT, *range.start()..*range.end() + 1),
        Err(()) => {
            let mut answer = refused((StatusCode::RANGE_NOT_SATISFIABLE, format!("the file has {length} bytes")));
            put(&mut answer, header::CONTENT_RANGE, &format!("bytes */{length}"));
            return Ok(answer);
        }
    };
    sending.set(&mapping);
    let mut answer = with(status, kind(name), Content::File(mapping, part.clone()));
    put(&mut answer, header::ACCEPT_RANGES, "bytes");
    if status == StatusCode::PARTIAL_CONTENT {
        put(&mut answer, header::CONTENT_RANGE, &format!("bytes {}-{}/{length}", part.start, part.end - 1));
    }
    if let Some(digest) = name.strip_prefix("blobs/sha256/") {
        put(&mut answer, header::ETAG, &format!("\"{digest}\""));
    }
    Ok(answer)
}

/// A node's script. The tree's own installs what is missing; a node that is expected is installed anew, and one that is not starts
/// its disk.
fn script(hub: &Hub, file: &std::path::Path, node: &str) -> Result<Answer, Refusal> {
    let armed = hub.armed(node).map_err(broken)?.is_some();
    let text_of = |path: &std::path::Path| crate::base::fs::read_text(path).map_err(broken);
    let script = if armed {
        let word = |kind: Kind| format!("{INSTALL_ARGUMENT}={}", kind.as_str());
        text_of(file)?.replace(&word(Kind::Missing), &word(Kind::Armed))
    } else {
        let mut name = file.as_os_str().to_owned();
        name.push(DISK);
        text_of(std::path::Path::new(&name))?
    };
    let mut answer = with(StatusCode::OK, "text/plain", Content::of(script));
    put(&mut answer, header::CACHE_CONTROL, "no-store");
    Ok(answer)
}

fn kind(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("ipxe" | "cfg" | "conf") => "text/plain",
        Some("json") => "application/json",
        _ => "application/octet-stream",
    }
}

fn with(status: StatusCode, kind: &str, content: Content) -> Answer {
    let length = hyper::body::Body::size_hint(&content).exact().unwrap_or(0);
    let mut answer = Response::new(content);
    *answer.status_mut() = status;
    put(&mut answer, header::CONTENT_TYPE, kind);
    put(&mut answer, header::CONTENT_LENGTH, &length.to_string());
    answer
}

fn put(answer: &mut Answer, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
}

fn text(kind: &str, text: &'static str) -> Answer {
    with(StatusCode::OK, kind, Content::of(text))
}

fn json(value: &impl Serialize) -> Result<Answer, Refusal> {
    let text = serde_json::to_vec(value).map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let mut answer = with(StatusCode::OK, "application/json", Content::of(text));
    put(&mut answer, header::CACHE_CONTROL, "no-store");
    Ok(answer)
}

fn absent() -> Refusal {
    (StatusCode::NOT_FOUND, "there is no such thing here".into())
}

fn broken(error: Error) -> Refusal {
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

fn refused((status, words): Refusal) -> Answer {
    with(status, "text/plain; charset=utf-8", Content::of(words + "\n"))
}
