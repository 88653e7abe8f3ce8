//! What people at a console see. Nothing else is running yet, so writing there is this program's output.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Says a line on every console and in the kernel's log.
///
/// The log gets it at debug level: recorded for the journal, but not printed to the consoles a second time.
pub fn say(line: &str) {
    for line in line.lines() {
        write("/dev/kmsg", &format!("<7>{line}\n"));
        for console in consoles() {
            write(&format!("/dev/{console}"), &format!("{line}\r\n"));
        }
    }
}

/// Prints a result on standard output, for a person, a program or the journal.
pub fn print(text: &str) {
    // Whoever closed a pipe has read enough.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Says a line on standard error, for a person who ran this program.
pub fn error(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Every console the kernel prints to; `/dev/console` alone would be the last of them. A container sees the names of the
/// host's, and has but that one.
fn consoles() -> Vec<String> {
    let active = std::fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
    let here = |name: &&str| Path::new("/dev").join(name).exists();
    let names: Vec<String> = active.split_whitespace().filter(here).map(str::to_string).collect();
    if names.is_empty() { vec!["console".into()] } else { names }
}

fn write(path: &str, text: &str) {
    // Never the controlling terminal of pid 1, and no waiting for a modem's carrier; the text itself may wait.
    let flags = libc::O_NOCTTY | libc::O_NONBLOCK;
    // A console that cannot be written is no reason not to boot.
    if let Ok(mut file) = OpenOptions::new().write(true).custom_flags(flags).open(path) {
        let _ = rustix::fs::fcntl_setfl(&file, rustix::fs::OFlags::empty());
        let _ = file.write_all(text.as_bytes());
    }
}
