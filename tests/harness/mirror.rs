//! A mirror that has the locked packages, and gives them in an order of its own: of the requests that wait, the last comes first.

use super::store;
use ostack_image::lock::ReleaseLock;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// How long nobody must have come after a request for it to be the last.
const PAUSE: Duration = Duration::from_millis(10);

/// Requests that wait, by their number.
#[derive(Default)]
struct Queue {
    waiting: Mutex<Vec<usize>>,
    changed: Condvar,
}

/// Serves the packages that a store has, on a port of the kernel's choice, as long as the process lives; the URL of the main archive.
pub fn serve(lock: &ReleaseLock, from: &Path) -> String {
    let file = |archive: &str, path: &str| format!("/{archive}/{path}");
    let files = lock.all().map(|one| (file(one.archive.as_str(), one.path.as_str()), store::blob(from, &one.sha256)));
    let files: Arc<BTreeMap<String, PathBuf>> = Arc::new(files.collect());
    let queue = Arc::new(Queue::default());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/debian", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let (files, queue) = (Arc::clone(&files), Arc::clone(&queue));
            std::thread::spawn(move || {
                let Ok(stream) = stream else { return };
                queue.wait(number);
                answer(&stream, &files);
                queue.leave(number);
            });
        }
    });
    url
}

impl Queue {
    fn wait(&self, number: usize) {
        let mut waiting = self.waiting.lock().unwrap();
        waiting.push(number);
        self.changed.notify_all();
        loop {
            let (guard, ended) = self.changed.wait_timeout(waiting, PAUSE).unwrap();
            waiting = guard;
            if ended.timed_out() && waiting.last() == Some(&number) {
                return;
            }
        }
    }

    fn leave(&self, number: usize) {
        self.waiting.lock().unwrap().retain(|other| *other != number);
        self.changed.notify_all();
    }
}

/// One request, then the connection ends.
fn answer(mut stream: &TcpStream, files: &BTreeMap<String, PathBuf>) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let Some(request) = lines.next() else { return };
    lines.for_each(drop);
    let path = percent_encoding::percent_decode_str(request.split(' ').nth(1).unwrap()).decode_utf8().unwrap();
    let (status, body) = match files.get(path.as_ref()).and_then(|file| std::fs::read(file).ok()) {
        Some(body) => ("200 OK", body),
        None => ("404 Not Found", Vec::new()),
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    // The client may have hung up; it says so itself.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
}
