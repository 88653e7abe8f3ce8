//! `serve` on a project, in a network of the test's own.

use super::Test;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The server's address in [`super::network::within`].
pub const SERVER: &str = "172.16.181.2";

/// The server, ended with the value.
pub struct Server(pub Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

/// Starts `serve` with more arguments, and waits until it answers at `port`.
pub fn serve(test: &Test, args: &[&str], port: u16) -> Server {
    let mut command = test.command([&["serve"], args].concat());
    let server = Server(command.stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().unwrap());
    let begin = Instant::now();
    while std::net::TcpStream::connect((SERVER, port)).is_err() {
        assert!(begin.elapsed() < Duration::from_secs(30), "the server does not answer");
        std::thread::sleep(Duration::from_millis(50));
    }
    server
}
