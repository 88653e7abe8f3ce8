//! Commands inside a virtual machine, by the QEMU guest agent's protocol: JSON lines over a virtio serial port.

use crate::base::error::{Context, Error, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long the agent may take to find its place, and to answer a call.
const SYNC: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(60);
/// How long a command keeps the agent to itself: QEMU gives it to one client after the other.
const ALONE: Duration = Duration::from_secs(1);
/// How long to wait for it when others have it.
const TURN: Duration = Duration::from_secs(120);

/// A connection to the agent of one machine.
pub struct Agent {
    stream: BufReader<UnixStream>,
    socket: PathBuf,
}

/// What a command inside the machine gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its exit code.
    pub code: i64,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

impl Agent {
    /// Connects, and waits until the agent answers.
    ///
    /// # Errors
    /// It does not within `patience`.
    pub fn connect(socket: &Path, patience: Duration) -> Result<Self> {
        let begin = Instant::now();
        loop {
            let attempt = Self::try_connect(socket);
            match attempt {
                Ok(agent) => return Ok(agent),
                Err(error) if begin.elapsed() > patience => return Err(error.doing("reaching the guest agent")),
                Err(_) => std::thread::sleep(Duration::from_millis(500)),
            }
        }
    }

    fn try_connect(socket: &Path) -> Result<Self> {
        let stream = connect(socket).doing(|| "connecting")?;
        stream.set_read_timeout(Some(SYNC)).doing(|| "connecting")?;
        let mut agent = Self { stream: BufReader::new(stream), socket: socket.to_path_buf() };
        // Nobody else's: an answer that comes late to a client that has gone is read by the next one.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let id = since.as_nanos() as u64 >> 12 & 0x000f_ffff_ffff_ffff;
        // The agent may still hold half a command of an earlier connection: 0xff makes it drop that.
        agent.send(&json!({ "execute": "guest-sync", "arguments": { "id": id } }), &[0xff])?;
        loop {
            if agent.receive()?.get("return").and_then(Value::as_u64) == Some(id) {
                agent.stream.get_ref().set_read_timeout(Some(ANSWER)).doing(|| "connecting")?;
                return Ok(agent);
            }
        }
    }

    fn send(&mut self, message: &Value, prefix: &[u8]) -> Result<()> {
        let mut bytes = prefix.to_vec();
        bytes.extend_from_slice(message.to_string().as_bytes());
        bytes.push(b'\n');
        self.stream.get_mut().write_all(&bytes).doing(|| "asking the guest agent")
    }

    fn receive(&mut self) -> Result<Value> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).doing(|| "hearing the guest agent")?;
        if line.is_empty() {
            return Err(Error::new("the guest agent is gone"));
        }
        let start = line.iter().position(|byte| *byte == b'{').unwrap_or(0);
        serde_json::from_slice(&line[start..]).doing(|| "hearing the guest agent")
    }

    fn call(&mut self, name: &str, arguments: &Value) -> Result<Value> {
        self.send(&json!({ "execute": name, "arguments": arguments }), &[])?;
        let mut answer = self.receive()?;
        match answer.get("error") {
            Some(error) => {
                Err(Error::new(error["desc"].as_str().unwrap_or("unknown")).doing(format!("asking the guest agent for {name}")))
            }
            None => Ok(answer["return"].take()),
        }
    }

    /// Runs a program to its end, for so long or as long as it takes. It has `input` as its standard input, and the agent's
    /// environment.
    ///
    /// # Errors
    /// There is no such program, the agent does not answer, or the time is over.
    pub fn run(&mut self, path: &str, args: &[&str], input: &[u8], patience: Option<Duration>) -> Result<Answer> {
        let arguments = json!({ "path": path, "arg": args, "input-data": BASE64.encode(input), "capture-output": true });
        let started = self.call("guest-exec", &arguments)?;
        let pid = started.get("pid").and_then(Value::as_i64);
        let pid = pid.ok_or_else(|| Error::new(format!("the guest agent's answer to guest-exec is {started}")))?;
        let begin = Instant::now();
        loop {
            let status = self.call("guest-exec-status", &json!({ "pid": pid }))?;
            if status["exited"] == true {
                if status["out-truncated"] == true || status["err-truncated"] == true {
                    return Err(Error::new(format!("`{path} {}` says more than the guest agent keeps", args.join(" ")))
                        .next("let it write to a file"));
                }
                let output = |key: &str| {
                    let text = status[key].as_str().unwrap_or_default();
                    BASE64.decode(text).map_err(|error| Error::new(format!("the guest agent's {key}: {error}")))
                };
                return Ok(Answer {
                    // After a signal there is only that, as a shell would say it.
                    code: status["exitcode"].as_i64().or(status["signal"].as_i64().map(|signal| 128 + signal)).unwrap_or(-1),
                    stdout: output("out-data")?,
                    stderr: output("err-data")?,
                });
            }
            if let Some(patience) = patience.filter(|patience| begin.elapsed() > *patience) {
                return Err(Error::new(format!("`{path} {}` did not end within {} s", args.join(" "), patience.as_secs())));
            }
            if begin.elapsed() < ALONE {
                std::thread::sleep(Duration::from_millis(50));
            } else {
                self.give_way()?;
            }
        }
    }

    /// Lets others have the agent for a while.
    fn give_way(&mut self) -> Result<()> {
        // Half of a pair that leads nowhere: the connection must be closed before the pause, and there must be one in its place.
        let (nowhere, _) = UnixStream::pair().doing(|| "leaving the guest agent")?;
        self.stream = BufReader::new(nowhere);
        std::thread::sleep(Duration::from_millis(200));
        *self = Self::connect(&self.socket, TURN)?;
        Ok(())
    }

    /// Runs a shell command to its end, for two minutes at most.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn shell(&mut self, command: &str) -> Result<Answer> {
        self.run("/bin/sh", &["-c", command], b"", Some(Duration::from_secs(120)))
    }
}

/// A connection to a socket whose path may be longer than the 107 bytes that an address holds.
///
/// # Errors
/// Nobody listens there.
pub(super) fn connect(socket: &Path) -> std::io::Result<UnixStream> {
    let folder = std::fs::File::open(socket.parent().unwrap_or(Path::new("/")))?;
    let short = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string());
    UnixStream::connect(short.join(socket.file_name().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_socket_is_reached_however_long_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let long = folder.path().join("a".repeat(200));
        std::fs::create_dir(&long).unwrap();
        let fd = std::fs::File::open(&long).unwrap();
        let short = format!("/proc/self/fd/{}/agent.sock", std::os::fd::AsRawFd::as_raw_fd(&fd));
        let _listener = std::os::unix::net::UnixListener::bind(short).unwrap();
        super::connect(&long.join("agent.sock")).unwrap();
    }
}
