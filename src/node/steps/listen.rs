//! The engine's page: how this node is, for its peers, over HTTP and for reading only.
//!
//! ```text
//! GET /status       the steps' states, as `ostack-node status --json` prints them
//! GET /ready        200 and `ready`, or 503 and a line for each step that is not done
//! GET /fact/NAME    the text of /run/ostack/facts/NAME, which scripts of steps publish; 404 while there is none
//! ```
//!
//! What must hold: nobody who asks can keep the steps from going on. Requests are served by a few threads of their own, each
//! has a fixed time from its first byte to its last, and a request has at most some KiB; more clients than threads wait in the
//! kernel's queue. Each connection has one request. The parser is httparse, which knows nothing of sockets: libraries that
//! are whole servers keep a connection for as long as its client likes.

use super::board::Board;
use crate::base::error::{Error, Result};
use crate::node::console;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Where scripts publish facts.
pub(super) const FACTS: &str = "/run/ostack/facts";
/// How many clients are served at once.
const CLIENTS: usize = 8;
/// How long one may take, its request and the answer together.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a request's head may be, in bytes and in fields.
const HEAD: usize = 8192;
const FIELDS: usize = 64;
/// How much of a fact is said.
const FACT: u64 = 65_536;
/// The pause before an address is tried again that the node does not have yet.
const PAUSE: Duration = Duration::from_secs(5);

/// An answer without its protocol.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: &'static str,
    kind: &'static str,
    text: String,
}

impl Answer {
    fn new(status: &'static str, text: impl Into<String>) -> Self {
        Self { status, kind: "text/plain; charset=utf-8", text: text.into() }
    }

    fn bytes(&self) -> Vec<u8> {
        let (status, kind, length) = (self.status, self.kind, self.text.len());
        let allow = if status.starts_with("405") { "Allow: GET\r\n" } else { "" };
        let head =
            format!("HTTP/1.1 {status}\r\n{allow}Content-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
        [head.as_bytes(), self.text.as_bytes()].concat()
    }
}

/// The address that an argument names.
///
/// # Errors
/// It is none.
pub(super) fn address(text: &str) -> Result<SocketAddr> {
    text.parse().map_err(|_| {
        Error::new(format!("`{text}` is no address to listen at")).next("write ADDRESS:PORT, such as 192.0.2.7:9290")
    })
}

/// Answers at an address, for ever. The address may come late: until it does, nobody is answered.
pub(super) fn serve(address: SocketAddr, board: &Board, facts: &Path) {
    let mut said = String::new();
    let listener = loop {
        match TcpListener::bind(address) {
            Ok(listener) => break listener,
            Err(error) if error.to_string() == said => {}
            Err(error) => {
                console::error(&format!("listening at {address}: {error}; trying again every {} s", PAUSE.as_secs()));
                said = error.to_string();
            }
        }
        std::thread::sleep(PAUSE);
    };
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| accept(&listener, board, facts));
        }
    });
}

/// Serves one client after the other.
fn accept(listener: &TcpListener, board: &Board, facts: &Path) {
    loop {
        match listener.accept() {
            // A client that was cut off or gave up is not worth a line.
            Ok((client, _)) => drop(converse(&client, |method, path| answer(method, path, board, facts))),
            // Out of file descriptors, say: it passes, and must not be tried a million times until then.
            Err(_) => std::thread::sleep(Duration::from_secs(1)),
        }
    }
}

/// Reads a request and answers it.
fn converse(mut client: &TcpStream, answer: impl Fn(&str, &str) -> Answer) -> io::Result<()> {
    let end = Instant::now() + PATIENCE;
    let left = || match end.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::Error::from(io::ErrorKind::TimedOut)),
        left => Ok(Some(left)),
    };
    let mut head = Vec::new();
    let answer = loop {
        let mut part = [0; 1024];
        client.set_read_timeout(left()?)?;
        match client.read(&mut part)? {
            0 => return Ok(()),
            count => head.extend_from_slice(&part[..count]),
        }
        if let Some(answer) = parse(&head, &answer) {
            break answer.bytes();
        }
    };
    let mut rest = &answer[..];
    while !rest.is_empty() {
        client.set_write_timeout(left()?)?;
        match client.write(rest)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            count => rest = &rest[count..],
        }
    }
    Ok(())
}

/// The answer to a request's head; `None` while that is not whole.
fn parse(head: &[u8], answer: impl Fn(&str, &str) -> Answer) -> Option<Answer> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => Some(answer(request.method.unwrap_or_default(), request.path.unwrap_or_default())),
        Ok(httparse::Status::Partial) if head.len() < HEAD => None,
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            Some(Answer::new("431 Request Header Fields Too Large", "the request is too long\n"))
        }
        Err(error) => Some(Answer::new("400 Bad Request", format!("{error}\n"))),
    }
}

/// What is said to whom.
fn answer(method: &str, path: &str, board: &Board, facts: &Path) -> Answer {
    if method != "GET" {
        return Answer::new("405 Method Not Allowed", "this page is for reading\n");
    }
    let found = match path {
        "/ready" => match board.lacking() {
            lacking if lacking.is_empty() => Some(Answer::new("200 OK", "ready\n")),
            lacking => Some(Answer::new("503 Service Unavailable", lacking.join("\n") + "\n")),
        },
        "/status" => match board.json() {
            Ok(text) => Some(Answer { status: "200 OK", kind: "application/json", text }),
            Err(error) => Some(Answer::new("500 Internal Server Error", format!("{error}\n"))),
        },
        path => path.strip_prefix("/fact/").and_then(|name| fact(facts, name)).map(|text| Answer::new("200 OK", text)),
    };
    found.unwrap_or_else(|| Answer::new("404 Not Found", "there is no such page; try /status, /ready or /fact/NAME\n"))
}

/// What scripts have published under a name.
fn fact(folder: &Path, name: &str) -> Option<String> {
    // No dot and no slash: a name leads nowhere else.
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || !name.chars().all(plain) {
        return None;
    }
    // Nor does a link; and what is no file could keep whoever opens it waiting.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(folder.join(name)).ok()?;
    let text = |file: File| {
        let mut bytes = Vec::new();
        file.take(FACT).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    file.metadata().ok()?.is_file().then_some(file).and_then(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::step::Step;
    use crate::node::steps::status::{State, Statuses};
    use crate::node::steps::tests::step;

    /// A board with one step that makes the node ready and one that does not.
    fn board(folder: &Path) -> Board {
        let marked = Step { ready: true, ..step("web/start", "true", "true") };
        Board::new(&[marked, step("web/tidy", "true", "true")], &folder.join("steps.json")).unwrap()
    }

    fn text(status: &'static str, text: &str) -> Answer {
        Answer::new(status, text)
    }

    #[test]
    fn a_node_is_ready_when_the_marked_steps_are_done_and_names_them_until_then() {
        let folder = tempfile::tempdir().unwrap();
        let board = board(folder.path());
        let asked = || answer("GET", "/ready", &board, folder.path());
        assert_eq!(asked(), text("503 Service Unavailable", "web/start: waiting\n"));
        board.set("web/start", State::Waiting, "the database at 192.0.2.7:3306".into());
        assert_eq!(asked(), text("503 Service Unavailable", "web/start: waiting for the database at 192.0.2.7:3306\n"));
        board.set("web/start", State::Done, String::new());
        assert_eq!(asked(), text("200 OK", "ready\n"));
    }

    #[test]
    fn the_page_of_states_is_what_the_file_has() {
        let folder = tempfile::tempdir().unwrap();
        let board = board(folder.path());
        board.set("web/tidy", State::Failed, "no room".into());
        let Answer { status, kind, text } = answer("GET", "/status", &board, folder.path());
        assert_eq!((status, kind), ("200 OK", "application/json"));
        assert_eq!(text, std::fs::read_to_string(folder.path().join("steps.json")).unwrap());
        assert_eq!(serde_json::from_str::<Statuses>(&text).unwrap()["web/tidy"].words, "no room");
    }

    #[test]
    fn a_fact_is_said_by_its_plain_name_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let board = board(folder.path());
        let facts = folder.path().join("facts");
        std::fs::create_dir_all(facts.join("folder")).unwrap();
        std::fs::write(facts.join("database-2"), "blank\n").unwrap();
        std::fs::write(facts.join("Upper"), "no\n").unwrap();
        std::fs::write(folder.path().join("secret"), "no\n").unwrap();
        std::os::unix::fs::symlink(folder.path().join("secret"), facts.join("link")).unwrap();
        let asked = |path: &str| answer("GET", path, &board, &facts);
        assert_eq!(asked("/fact/database-2"), text("200 OK", "blank\n"));
        let none = text("404 Not Found", "there is no such page; try /status, /ready or /fact/NAME\n");
        for path in [
            "/fact/",
            "/fact/absent",
            "/fact/folder",
            "/fact/link",
            "/fact/Upper",
            "/fact/..",
            "/fact/../secret",
            "/fact/%2e%2e/secret",
            "/fact/database-2/",
            "/fact/database-2?",
            "/ready/",
            "/",
            "ready",
        ] {
            assert_eq!(asked(path), none, "{path}");
        }
    }

    #[test]
    fn the_page_is_for_reading() {
        let folder = tempfile::tempdir().unwrap();
        let board = board(folder.path());
        for method in ["POST", "PUT", "DELETE", "HEAD", "get"] {
            let said = answer(method, "/ready", &board, folder.path());
            assert_eq!(said, text("405 Method Not Allowed", "this page is for reading\n"));
        }
    }

    #[test]
    fn a_request_is_answered_when_its_head_is_whole_and_refused_when_it_is_none() {
        let echo = |method: &str, path: &str| Answer::new("200 OK", format!("{method} {path}"));
        let said = |head: &str| parse(head.as_bytes(), echo);
        assert_eq!(said("GET /a HTTP/1.1\r\nHost: b\r\n"), None);
        assert_eq!(said("GET /a HTTP/1.1\r\nHost: b\r\n\r\n"), Some(text("200 OK", "GET /a")));
        assert_eq!(said("\u{1}\r\n\r\n"), Some(text("400 Bad Request", "invalid token\n")));
        let long = Some(text("431 Request Header Fields Too Large", "the request is too long\n"));
        assert_eq!(said(&format!("GET /{} HTTP/1.1\r\n", "a".repeat(HEAD))), long);
        assert_eq!(said(&format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(FIELDS + 1))), long);
    }

    #[test]
    fn clients_that_say_nothing_are_cut_off_and_the_others_are_served_meanwhile_and_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let (board, facts) = (board(folder.path()), folder.path().to_path_buf());
        board.set("web/start", State::Done, String::new());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // Threads that never end: of the test's process, not of a scope.
        let (listener, board): (&TcpListener, &Board) = (Box::leak(Box::new(listener)), Box::leak(Box::new(board)));
        for _ in 0..2 {
            let facts = facts.clone();
            std::thread::spawn(move || accept(listener, board, &facts));
        }
        let ask = || {
            let mut client = TcpStream::connect(address).unwrap();
            client.write_all(b"GET /ready HTTP/1.1\r\nHost: node\r\n\r\n").unwrap();
            let mut said = String::new();
            client.read_to_string(&mut said).unwrap();
            said
        };
        let ready = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 6\r\nConnection: close\r\n\r\n\
                     ready\n";
        let silent = || TcpStream::connect(address).unwrap();
        let _first = silent();
        let begin = Instant::now();
        assert_eq!(ask(), ready, "the other thread serves");
        assert!(begin.elapsed() < PATIENCE);
        let _others = [silent(), silent()];
        assert_eq!(ask(), ready, "after those before it were cut off");
        assert!(begin.elapsed() < 4 * PATIENCE, "{:?}", begin.elapsed());
    }

    #[test]
    fn an_address_is_numbers_with_a_port() {
        assert_eq!(address("192.0.2.7:9290").unwrap().port(), 9290);
        let error = address("controller01:9290").err().unwrap();
        assert_eq!(
            error.to_string(),
            "`controller01:9290` is no address to listen at\n  next: write ADDRESS:PORT, such as 192.0.2.7:9290"
        );
    }
}
