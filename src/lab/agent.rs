//! Commands inside a virtual machine, by the QEMU guest agent's protocol: JSON lines over a virtio serial port.

use crate::base::error::{Context, Error, Result};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// A connection to the agent of one machine.
pub struct Agent {
    stream: BufReader<UnixStream>,
}

/// What a command inside the machine gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its exit code.
    pub code: i64,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
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
        let stream = UnixStream::connect(socket).doing(|| "connecting")?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).doing(|| "connecting")?;
        let mut agent = Self { stream: BufReader::new(stream) };
        let id = 0x0005_7ac4;
        // The agent may still hold half a command of an earlier connection: 0xff makes it drop that.
        agent.send(&json!({ "execute": "guest-sync", "arguments": { "id": id } }), &[0xff])?;
        loop {
            if agent.receive()?["return"] == id {
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

    /// Runs a shell command to its end.
    ///
    /// # Errors
    /// The agent does not answer, or the command takes longer than two minutes.
    pub fn shell(&mut self, command: &str) -> Result<Answer> {
        let arguments = json!({ "path": "/bin/sh", "arg": ["-c", command], "capture-output": true });
        let pid = self.call("guest-exec", &arguments)?["pid"].take();
        let begin = Instant::now();
        loop {
            let status = self.call("guest-exec-status", &json!({ "pid": pid }))?;
            if status["exited"] == true {
                let text = |key: &str| decode(status[key].as_str().unwrap_or_default());
                return Ok(Answer {
                    code: status["exitcode"].as_i64().unwrap_or(-1),
                    stdout: text("out-data"),
                    stderr: text("err-data"),
                });
            }
            if begin.elapsed() > Duration::from_secs(120) {
                return Err(Error::new(format!("`{command}` did not end within two minutes")));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Base64 (RFC 4648), as the agent sends output.
fn decode(text: &str) -> String {
    let value = |c: u8| match c {
        b'A'..=b'Z' => Some(c - b'A'),
        b'a'..=b'z' => Some(c - b'a' + 26),
        b'0'..=b'9' => Some(c - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let (mut bits, mut count, mut bytes) = (0u32, 0, Vec::new());
    for six in text.bytes().filter_map(value) {
        bits = bits << 6 | u32::from(six);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    #[test]
    fn output_is_decoded_from_base64() {
        for (encoded, text) in [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9vYmFyCg==", "foobar\n")] {
            assert_eq!(super::decode(encoded), text);
        }
    }
}
