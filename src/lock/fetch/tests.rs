//! Downloads from a server on this machine, written here, and from files.

use super::super::tests::{name, package, word};
use super::*;
use crate::base::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What a server answers.
struct Reply {
    status: &'static str,
    /// Besides the length of the body.
    header: String,
    body: Vec<u8>,
    /// How much of the body it sends before it hangs up.
    sent: usize,
}

impl Reply {
    fn new(status: &'static str, body: &[u8]) -> Self {
        Self { status, header: String::new(), body: body.to_vec(), sent: body.len() }
    }
}

/// A server on a port of its own. It writes down what it is asked (`PATH`, or `PATH from BYTE`).
struct Server {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// `answer` gets the path, the first byte asked for and how many requests came before.
    fn start(answer: impl Fn(&str, Option<usize>, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, answer) = (Arc::clone(&asked), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                std::thread::spawn(move || serve(&stream.unwrap(), &log, &*answer));
            }
        });
        Self { url, asked }
    }

    fn asked(&self) -> Vec<String> {
        lock(&self.asked).clone()
    }
}

/// One request, then the connection ends.
fn serve(stream: &TcpStream, log: &Mutex<Vec<String>>, answer: &dyn Fn(&str, Option<usize>, usize) -> Reply) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let Some(request) = lines.next() else { return };
    let path = request.split(' ').nth(1).unwrap().to_string();
    let range = lines.find_map(|line| line.to_ascii_lowercase().strip_prefix("range: bytes=").map(str::to_string));
    let from = range.map(|range| range.trim_end_matches('-').parse::<usize>().unwrap());
    let before = {
        let mut log = lock(log);
        log.push(from.map_or(path.clone(), |from| format!("{path} from {from}")));
        log.len() - 1
    };
    let reply = answer(&path, from, before);
    let head =
        format!("HTTP/1.1 {}\r\nContent-Length: {}\r\nConnection: close\r\n{}\r\n", reply.status, reply.body.len(), reply.header);
    let mut stream = stream;
    // The client may have hung up; it says so itself.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&reply.body[..reply.sent]));
}

/// A store in a folder.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.0.path().join(digest.hex())
    }

    /// The content of every blob; a `.part` is shown as such.
    fn content(&self) -> Vec<String> {
        let text = |path: &PathBuf| {
            let mark = if path.extension().is_some() { " (part)" } else { "" };
            format!("{}{mark}", fs::read_text(path).unwrap())
        };
        let mut content: Vec<String> = fs::sorted_dir(self.0.path()).unwrap().iter().map(text).collect();
        content.sort();
        content
    }
}

impl Blobs for Folder {
    fn has(&self, digest: &Digest) -> bool {
        self.blob(digest).exists()
    }

    fn partial(&self, digest: &Digest) -> PathBuf {
        self.blob(digest).with_extension("part")
    }

    fn commit(&self, digest: &Digest, part: &Path) -> Result<()> {
        std::fs::rename(part, self.blob(digest)).unwrap();
        Ok(())
    }
}

/// Counts.
#[derive(Default)]
struct Counter {
    total: Mutex<Vec<(u64, usize)>>,
    bytes: AtomicU64,
}

impl Progress for Counter {
    fn total(&self, bytes: u64, files: usize) {
        lock(&self.total).push((bytes, files));
    }

    fn advance(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn message(&self, _text: &str) {}
}

fn quick() -> Manner {
    Manner { tries: 5, first_pause: Duration::from_millis(1), stall: Duration::from_secs(10), proxy: None }
}

fn mirrors(url: &str) -> Mirrors {
    Mirrors::find(&BTreeMap::from([(word("debian"), url.to_string())]), Path::new("/no/such/folder")).unwrap()
}

fn get(url: &str, store: &Folder, packages: &[&LockedPackage]) -> Result<(), FetchError> {
    fetch_with(packages, &mirrors(url), &BTreeMap::new(), store, false, &Silent, quick())
}

fn failure(result: Result<(), FetchError>, server: &Server) -> String {
    Error::from(result.unwrap_err()).to_string().replace(&server.url, "http://server")
}

/// Answers as a mirror does that has `proxy 1.0` and knows ranges.
fn good(from: Option<usize>) -> Reply {
    match from {
        None => Reply::new("200 OK", b"proxy 1.0"),
        Some(from) => {
            let header = format!("Content-Range: bytes {from}-8/9\r\n");
            Reply { header, ..Reply::new("206 Partial Content", &b"proxy 1.0"[from..]) }
        }
    }
}

#[test]
fn packages_come_from_the_mirror_into_the_store_once() {
    let server = Server::start(|path, _, _| {
        let file = path.rsplit('/').next().unwrap().trim_end_matches("_amd64.deb");
        Reply::new("200 OK", file.replace('_', " ").as_bytes())
    });
    let store = Folder::new();
    let packages: Vec<LockedPackage> = (10..40).map(|number| package(&format!("p{number}"), "1.0", &["base"])).collect();
    let mut all: Vec<&LockedPackage> = packages.iter().collect();
    all.push(&packages[0]);
    let counter = Counter::default();
    for _ in 0..2 {
        fetch_with(&all, &mirrors(&server.url), &BTreeMap::new(), &store, false, &counter, quick()).unwrap();
    }
    let expected: Vec<String> = (10..40).map(|number| format!("p{number} 1.0")).collect();
    assert_eq!(store.content(), expected);
    let mut asked = server.asked();
    asked.sort();
    assert_eq!(asked, (10..40).map(|number| format!("/pool/p{number}_1.0_amd64.deb")).collect::<Vec<_>>());
    assert_eq!((counter.total.into_inner().unwrap(), counter.bytes.into_inner()), (vec![(210, 30)], 210));
}

#[test]
fn a_broken_transfer_is_resumed_where_it_broke_off() {
    let server = Server::start(|_, from, before| match before {
        0 => Reply { sent: 4, ..good(from) },
        1 => Reply { sent: 2, ..good(from) },
        _ => good(from),
    });
    let store = Folder::new();
    let counter = Counter::default();
    let proxy = package("proxy", "1.0", &["base"]);
    fetch_with(&[&proxy], &mirrors(&server.url), &BTreeMap::new(), &store, false, &counter, quick()).unwrap();
    assert_eq!(store.content(), ["proxy 1.0"]);
    let path = "/pool/proxy_1.0_amd64.deb";
    assert_eq!(server.asked(), [path.to_string(), format!("{path} from 4"), format!("{path} from 6")]);
    assert_eq!(counter.bytes.into_inner(), 9);
}

#[test]
fn what_an_earlier_run_left_is_resumed() {
    let server = Server::start(|_, from, _| good(from));
    let store = Folder::new();
    let proxy = package("proxy", "1.0", &["base"]);
    fs::write_atomic(&store.partial(&proxy.sha256), b"prox").unwrap();
    get(&server.url, &store, &[&proxy]).unwrap();
    assert_eq!(
        (store.content(), server.asked()),
        (vec!["proxy 1.0".to_string()], vec!["/pool/proxy_1.0_amd64.deb from 4".to_string()])
    );
}

#[test]
fn a_server_that_ignores_ranges_is_read_from_the_beginning() {
    let server = Server::start(|_, _, _| good(None));
    let store = Folder::new();
    let proxy = package("proxy", "1.0", &["base"]);
    fs::write_atomic(&store.partial(&proxy.sha256), b"prox").unwrap();
    get(&server.url, &store, &[&proxy]).unwrap();
    assert_eq!((store.content(), server.asked().len()), (vec!["proxy 1.0".to_string()], 1));
}

#[test]
fn a_server_that_resumes_elsewhere_is_read_from_the_beginning() {
    let server = Server::start(|_, from, _| match from {
        None => good(None),
        Some(_) => good(Some(2)),
    });
    let store = Folder::new();
    let proxy = package("proxy", "1.0", &["base"]);
    fs::write_atomic(&store.partial(&proxy.sha256), b"prox").unwrap();
    get(&server.url, &store, &[&proxy]).unwrap();
    let path = "/pool/proxy_1.0_amd64.deb";
    assert_eq!(
        (store.content(), server.asked()),
        (vec!["proxy 1.0".to_string()], vec![format!("{path} from 4"), path.to_string()])
    );
}

#[test]
fn a_wrong_beginning_is_thrown_away_and_the_package_got_anew() {
    for left in ["mouse", "proxy 2.0", "longer than the package is"] {
        let server = Server::start(|_, from, _| good(from));
        let store = Folder::new();
        let proxy = package("proxy", "1.0", &["base"]);
        fs::write_atomic(&store.partial(&proxy.sha256), left.as_bytes()).unwrap();
        get(&server.url, &store, &[&proxy]).unwrap();
        assert_eq!(store.content(), ["proxy 1.0"], "{left}");
    }
}

#[test]
fn a_server_in_trouble_is_asked_five_times() {
    let server = Server::start(|_, from, before| if before < 4 { Reply::new("503 Busy", b"") } else { good(from) });
    let store = Folder::new();
    get(&server.url, &store, &[&package("proxy", "1.0", &["base"])]).unwrap();
    assert_eq!((store.content(), server.asked().len()), (vec!["proxy 1.0".to_string()], 5));

    let server = Server::start(|_, _, _| Reply::new("500 Internal Server Error", b""));
    let result = get(&server.url, &Folder::new(), &[&package("proxy", "1.0", &["base"])]);
    assert_eq!(
        failure(result, &server),
        "getting proxy 1.0 from http://server/pool/proxy_1.0_amd64.deb: \
         the server answered 500 Internal Server Error (tried 5 times)\n  \
         next: try again later, or name another mirror below [mirror] in site.toml; what was got is kept"
    );
    assert_eq!(server.asked().len(), 5);
}

#[test]
fn a_server_that_refuses_is_asked_once() {
    let server = Server::start(|_, _, _| Reply::new("403 Forbidden", b""));
    let result = get(&server.url, &Folder::new(), &[&package("proxy", "1.0", &["base"])]);
    assert_eq!(
        failure(result, &server),
        "getting proxy 1.0 from http://server/pool/proxy_1.0_amd64.deb: the server answered 403 Forbidden\n  \
         next: name another mirror below [mirror] in site.toml"
    );
    assert_eq!(server.asked().len(), 1);
}

#[test]
fn other_bytes_than_the_locks_are_asked_for_twice_and_never_enter_the_store() {
    let next = "\n  next: name another mirror below [mirror] in site.toml, \
                or lock what this one has with `ostack-image lock --update proxy`";
    let getting = "getting proxy 1.0 from http://server/pool/proxy_1.0_amd64.deb: ";
    let (right, wrong) = (Digest::of("proxy 1.0"), Digest::of("proxy 6.6"));
    let cases = [
        ("proxy 6.6", format!("{getting}the file has {wrong}, the lock says {right}{next}")),
        ("proxy 1.0 and more", format!("{getting}the file is longer than the 9 bytes of the lock{next}")),
    ];
    for (body, expected) in cases {
        let server = Server::start(move |_, _, _| Reply::new("200 OK", body.as_bytes()));
        let store = Folder::new();
        let result = get(&server.url, &store, &[&package("proxy", "1.0", &["base"])]);
        assert_eq!(failure(result, &server), expected);
        assert_eq!((store.content(), server.asked().len()), (vec![], 2));
    }
}

#[test]
fn what_the_mirror_dropped_comes_from_the_snapshot_of_the_day_or_the_next() {
    for stamp in ["20260912T075541Z", "20260913T075541Z"] {
        let server = Server::start(move |path, from, _| match path.contains(stamp) {
            true => good(from),
            false => Reply::new("404 Not Found", b""),
        });
        let store = Folder::new();
        let snapshots = BTreeMap::from([(word("debian"), format!("{}/snapshot/", server.url))]);
        let proxy = package("proxy", "1.0", &["base"]);
        fetch_with(&[&proxy], &mirrors(&server.url), &snapshots, &store, false, &Silent, quick()).unwrap();
        let asked = server.asked();
        assert_eq!(store.content(), ["proxy 1.0"]);
        assert_eq!(asked[0], "/pool/proxy_1.0_amd64.deb");
        assert_eq!(asked.last().unwrap(), &format!("/snapshot/{stamp}/pool/proxy_1.0_amd64.deb"));
    }
}

#[test]
fn all_that_is_gone_is_named_and_the_rest_is_got() {
    let server =
        Server::start(|path, from, _| if path.contains("proxy") { good(from) } else { Reply::new("404 Not Found", b"") });
    let store = Folder::new();
    let packages = ["zebra", "proxy", "ant"].map(|one| package(one, "1.0", &["base"]));
    let error = get(&server.url, &store, &packages.iter().collect::<Vec<_>>()).unwrap_err();
    assert_eq!(error, FetchError::Gone(vec![name("ant"), name("zebra")]));
    assert_eq!(store.content(), ["proxy 1.0"]);
    assert_eq!(
        Error::from(error).to_string(),
        "2 locked packages are on no mirror any more: ant, zebra\n  \
         next: lock newer ones with `ostack-image lock --update ant zebra`, or name a mirror that keeps old packages \
         below [snapshot] in site.toml, or put the files into the store"
    );
}

#[test]
fn a_failing_mirror_is_no_proof_that_a_package_is_gone() {
    let server = Server::start(|path, _, _| match path.contains("snapshot") {
        true => Reply::new("404 Not Found", b""),
        false => Reply::new("502 Bad Gateway", b""),
    });
    let snapshots = BTreeMap::from([(word("debian"), format!("{}/snapshot", server.url))]);
    let proxy = package("proxy", "1.0", &["base"]);
    let result = fetch_with(&[&proxy], &mirrors(&server.url), &snapshots, &Folder::new(), false, &Silent, quick());
    assert!(failure(result, &server).contains("the server answered 502 Bad Gateway (tried 5 times)"));
}

#[test]
fn a_local_mirror_is_read_as_files() {
    let folder = tempfile::tempdir().unwrap();
    fs::write_atomic(&folder.path().join("pool/proxy_1.0+b1_amd64.deb"), b"proxy 1.0+b1").unwrap();
    fs::write_atomic(&folder.path().join("pool/short_1.0_amd64.deb"), b"short").unwrap();
    let url = format!("file://{}", folder.path().display());
    let store = Folder::new();
    get(&url, &store, &[&package("proxy", "1.0+b1", &["base"])]).unwrap();
    assert_eq!(store.content(), ["proxy 1.0+b1"]);
    let gone = get(&url, &store, &[&package("ant", "1.0", &["base"])]).unwrap_err();
    assert_eq!(gone, FetchError::Gone(vec![name("ant")]));
    let short = Error::from(get(&url, &store, &[&package("short", "1.0", &["base"])]).unwrap_err()).to_string();
    assert_eq!(
        short.replace(&url, "file://folder"),
        "getting short 1.0 from file://folder/pool/short_1.0_amd64.deb: only 5 of 9 bytes came\n  \
         next: name another mirror below [mirror] in site.toml"
    );
}

#[test]
fn a_url_has_no_byte_that_servers_read_differently() {
    assert_eq!(url("http://m/debian", "pool/a_1.0+b~1%3a2.deb"), "http://m/debian/pool/a_1.0%2bb~1%253a2.deb");
    assert_eq!(url("file:///m", "pool/a_1.0+b.deb"), "file:///m/pool/a_1.0+b.deb");
}

#[test]
fn offline_nothing_is_asked_and_what_is_missing_is_counted() {
    let server = Server::start(|_, from, _| good(from));
    let store = Folder::new();
    let packages: Vec<LockedPackage> = (10..20).map(|number| package(&format!("p{number}"), "1.0", &["base"])).collect();
    fs::write_atomic(&store.blob(&packages[9].sha256), b"p19 1.0").unwrap();
    let all: Vec<&LockedPackage> = packages.iter().rev().collect();
    let offline = |packages: &[&LockedPackage]| {
        fetch_with(packages, &mirrors(&server.url), &BTreeMap::new(), &store, true, &Silent, quick())
    };
    assert_eq!(
        failure(offline(&all), &server),
        "9 of 10 packages are not in the store: p10, p11, p12, p13, p14, p15, p16, p17 and 1 more\n  next: run once without --offline"
    );
    offline(&all[..1]).unwrap();
    assert_eq!(server.asked(), Vec::<String>::new());
}

#[test]
fn a_list_is_got_whole_asked_for_again_after_a_failure_and_said_to_be_missing() {
    let server = Server::start(|path, _, before| match (path, before) {
        ("/list", 0) => Reply::new("503 Service Unavailable", b""),
        ("/list", 1) => Reply { sent: 2, ..Reply::new("200 OK", b"whole") },
        ("/list", _) => Reply::new("200 OK", b"whole"),
        ("/broken", _) => Reply::new("500 Internal Server Error", b""),
        _ => Reply::new("404 Not Found", b""),
    });
    let get = |path: &str| get::tests::hasty().get(&format!("{}{path}", server.url)).map_err(|error| error.to_string());
    assert_eq!(get("/list"), Ok(Some(b"whole".to_vec())));
    assert_eq!(get("/absent"), Ok(None));
    assert_eq!(
        get("/broken"),
        Err(format!("{}/broken: the server answered 500 Internal Server Error (tried 3 times)", server.url))
    );
    assert_eq!(server.asked(), ["/list", "/list", "/list", "/absent", "/broken", "/broken", "/broken"]);
}
