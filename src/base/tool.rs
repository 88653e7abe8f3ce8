//! The only door to processes.
//!
//! A [`Tool`] knows what it is for and which Debian package has it, so that a missing one is an
//! error with a remedy. A failing one shows its command line, ready to paste, and the end of its stderr.

use crate::base::error::{Error, Result};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// How much of a failing tool's stderr an error carries, in bytes: enough for the last lines.
const STDERR_TAIL_BYTES: usize = 2048;

/// The variable that may have the passphrase of the site's secrets: for this program alone, so no other one gets it.
pub const PASSPHRASE: &str = "OSTACK_PASSPHRASE";

/// A foreign program, about to be run.
pub struct Tool {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    clear_env: bool,
    stdin: Vec<u8>,
    folder: Option<PathBuf>,
    package: Option<&'static str>,
}

/// What a successful run printed.
pub struct Output {
    /// Standard output, whole.
    pub stdout: Vec<u8>,
    /// Standard error, whole.
    pub stderr: Vec<u8>,
}

/// How a program ended that may say something by its exit code.
pub struct Ended {
    /// The exit code; `None` after a signal.
    pub code: Option<i32>,
    /// Its status in words.
    pub status: String,
    /// What it printed.
    pub output: Output,
}

/// A program that waits for the word to begin. Without it, it ends with this value.
pub struct Held {
    child: std::process::Child,
    line: String,
    program: OsString,
    package: Option<&'static str>,
}

impl Held {
    /// Lets it run to its end.
    ///
    /// # Errors
    /// The program is missing or its exit status is not 0.
    pub fn go(mut self) -> Result<()> {
        use std::io::Write;
        // Whether it hears that, its end says.
        let _ = self.child.stdin.take().map(|mut word| word.write_all(b"\n"));
        let output = self.child.wait_with_output().map_err(|error| missing(&self.program, self.package, &error))?;
        match output.status.code() {
            Some(0) => Ok(()),
            // So the shell says that there is none.
            Some(127) => Err(missing(&self.program, self.package, &std::io::Error::from_raw_os_error(libc::ENOENT))),
            code => {
                let status = output.status.to_string();
                let output = Output { stdout: output.stdout, stderr: output.stderr };
                Err(failed(&self.line, &Ended { code, status, output }))
            }
        }
    }
}

impl Output {
    /// The end of what it said, for an error's words: standard error, or standard output where that is empty, because some
    /// tools (dpkg among them) explain themselves there.
    pub fn last_words(&self) -> String {
        let said = if self.stderr.trim_ascii().is_empty() { &self.stdout } else { &self.stderr };
        String::from_utf8_lossy(&said[said.len().saturating_sub(STDERR_TAIL_BYTES)..]).trim().to_string()
    }

    /// Standard output as text, invalid bytes replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

impl Tool {
    /// A program by name or path.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_os_string(),
            args: Vec::new(),
            env: Vec::new(),
            clear_env: false,
            stdin: Vec::new(),
            folder: None,
            package: None,
        }
    }

    /// Names the Debian package to install when the program is missing.
    #[must_use]
    pub fn package(mut self, package: &'static str) -> Self {
        self.package = Some(package);
        self
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_os_string());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_os_string()));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_os_string(), value.as_ref().to_os_string()));
        self
    }

    /// Starts from an empty environment: nothing of the caller's reaches the program.
    #[must_use]
    pub fn clear_env(mut self) -> Self {
        self.clear_env = true;
        self
    }

    /// The folder that the program starts in; the caller's own by default.
    #[must_use]
    pub fn folder(mut self, folder: &Path) -> Self {
        self.folder = Some(folder.to_path_buf());
        self
    }

    /// What the program reads from standard input; nothing by default.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Runs to the end with both outputs captured.
    ///
    /// # Errors
    /// The program is missing or its exit status is not 0.
    pub fn run(self) -> Result<Output> {
        let line = self.command_line();
        let ended = self.run_to_any_end()?;
        if ended.code == Some(0) {
            return Ok(ended.output);
        }
        Err(failed(&line, &ended))
    }

    /// Runs to the end with both outputs captured; what the exit code means is the caller's business.
    ///
    /// # Errors
    /// The program is missing.
    pub fn run_to_any_end(self) -> Result<Ended> {
        let package = self.package;
        let program = self.program.clone();
        let output = self.expression().stdout_capture().stderr_capture().unchecked().run();
        let output = output.map_err(|error| missing(&program, package, &error))?;
        let status = output.status.to_string();
        Ok(Ended { code: output.status.code(), status, output: Output { stdout: output.stdout, stderr: output.stderr } })
    }

    /// Runs to the end, whatever its exit status; gives both outputs as the one stream that a terminal would show.
    ///
    /// # Errors
    /// The program is missing.
    pub fn run_as_seen(self) -> Result<Vec<u8>> {
        let package = self.package;
        let program = self.program.clone();
        let output = self.expression().stderr_to_stdout().stdout_capture().unchecked().run();
        Ok(output.map_err(|error| missing(&program, package, &error))?.stdout)
    }

    /// Starts the program with its output going to `log`, for the caller to watch and end. It also ends with the thread
    /// that started it, however that ends.
    ///
    /// # Errors
    /// The program is missing or `log` cannot be written.
    pub fn start(self, log: &Path) -> Result<duct::Handle> {
        self.spawn(log, || Ok(rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?))
    }

    /// Starts the program in a session of its own, with its output going to `log`, and leaves it: whoever made the PID
    /// namespace ends it.
    ///
    /// # Errors
    /// The program is missing or `log` cannot be written.
    pub fn launch(self, log: &Path) -> Result<()> {
        self.spawn(log, || Ok(rustix::process::setsid().map(|_| ())?)).map(|_| ())
    }

    /// Starts a process that becomes the program when it is told to, and is none of this process's threads' business: what this
    /// process does to itself meanwhile does not reach it.
    ///
    /// # Errors
    /// No process can be started.
    pub fn hold(self) -> Result<Held> {
        use std::process::{Command, Stdio};
        let line = self.command_line();
        let mut command = Command::new("sh");
        command.args(["-c", "read -r go && exec \"$@\"", "sh"]).arg(&self.program).args(&self.args).env_remove(PASSPHRASE);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().map_err(|error| missing(OsStr::new("sh"), None, &error))?;
        Ok(Held { child, line, program: self.program, package: self.package })
    }

    /// Starts the program and leaves it, with no output, and with an open file as standard input, which stays open as long as the program
    /// lives.
    ///
    /// # Errors
    /// The program is missing.
    pub fn launch_holding(self, file: std::fs::File) -> Result<()> {
        let (package, program) = (self.package, self.program.clone());
        let quiet = self.command().stdin_file(file).stdout_null().stderr_null().unchecked();
        quiet.start().map(|_| ()).map_err(|error| missing(&program, package, &error))
    }

    /// Starts the program; `first` is one system call that its process makes before.
    fn spawn(self, log: &Path, first: fn() -> std::io::Result<()>) -> Result<duct::Handle> {
        let package = self.package;
        let program = self.program.clone();
        let prepared = self.expression().stderr_to_stdout().stdout_path(log).unchecked().before_spawn(move |command| {
            use std::os::unix::process::CommandExt;
            // SAFETY: one system call, allowed between fork and exec.
            unsafe {
                command.pre_exec(first);
            }
            Ok(())
        });
        prepared.start().map_err(|error| missing(&program, package, &error))
    }

    /// Runs to the end on the caller's terminal; gives the exit code.
    ///
    /// # Errors
    /// The program is missing.
    pub fn run_visible(self) -> Result<i32> {
        let package = self.package;
        let program = self.program.clone();
        let output = self.command().unchecked().run();
        let output = output.map_err(|error| missing(&program, package, &error))?;
        Ok(output.status.code().unwrap_or(1))
    }

    fn expression(mut self) -> duct::Expression {
        let stdin = std::mem::take(&mut self.stdin);
        self.command().stdin_bytes(stdin)
    }

    /// The program with its environment, and with the caller's standard input.
    fn command(self) -> duct::Expression {
        let mut expression = duct::cmd(self.program, self.args);
        if self.clear_env {
            expression = expression.full_env(self.env);
        } else {
            for (name, value) in self.env {
                expression = expression.env(name, value);
            }
            // duct carries out the last first: whoever passes it on purpose still does.
            expression = expression.env_remove(PASSPHRASE);
        }
        if let Some(folder) = self.folder {
            expression = expression.dir(folder);
        }
        expression
    }

    fn command_line(&self) -> String {
        let quote = |word: &OsString| {
            let word = word.to_string_lossy();
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,+@%".contains(c);
            if !word.is_empty() && word.chars().all(plain) {
                word.into_owned()
            } else {
                format!("'{}'", word.replace('\'', r"'\''"))
            }
        };
        let words: Vec<String> = std::iter::once(&self.program).chain(&self.args).map(quote).collect();
        words.join(" ")
    }
}

fn missing(program: &OsStr, package: Option<&str>, error: &std::io::Error) -> Error {
    let name = program.to_string_lossy();
    let error = Error::new(format!("running `{name}` failed: {error}"));
    match package {
        Some(package) => error.next(format!("install it: apt-get install {package}")),
        None => error,
    }
}

fn failed(line: &str, ended: &Ended) -> Error {
    let shown = if line.len() > 400 { format!("{} …", line.chars().take(400).collect::<String>()) } else { line.to_string() };
    Error::new(format!(
        "`{shown}` failed ({}):
{}",
        ended.status,
        ended.output.last_words()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_names_the_package_to_install() {
        let error = Tool::new("no-such-program").package("some-package").run().err().unwrap();
        assert_eq!(error.remedy(), Some("install it: apt-get install some-package"));
    }

    #[test]
    fn a_failing_program_shows_its_command_line_and_its_last_words() {
        let error = Tool::new("sh").args(["-c", "echo 'no room' >&2; exit 3"]).run().err().unwrap();
        assert_eq!(error.to_string(), "`sh -c 'echo '\\''no room'\\'' >&2; exit 3'` failed (exit status: 3):\nno room");
    }

    #[test]
    fn a_held_program_begins_when_it_is_told_to_and_never_when_it_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let mark = |name: &str| folder.path().join(name);
        let forgotten = Tool::new("touch").arg(mark("forgotten")).hold().unwrap();
        let told = Tool::new("touch").arg(mark("told")).hold().unwrap();
        assert!(!mark("told").exists());
        told.go().unwrap();
        assert!(mark("told").exists());
        let Held { mut child, .. } = forgotten;
        drop(child.stdin.take());
        assert!(!child.wait().unwrap().success());
        assert!(!mark("forgotten").exists());
    }

    #[test]
    fn a_held_program_that_is_missing_or_fails_says_so() {
        let error = Tool::new("no-such-program").package("some-package").hold().unwrap().go().err().unwrap();
        assert_eq!(error.remedy(), Some("install it: apt-get install some-package"));
        let error = Tool::new("sh").args(["-c", "echo 'no room' >&2; exit 3"]).hold().unwrap().go().err().unwrap();
        assert_eq!(error.to_string(), "`sh -c 'echo '\\''no room'\\'' >&2; exit 3'` failed (exit status: 3):\nno room");
    }

    #[test]
    fn the_passphrase_reaches_only_a_program_that_is_given_it() {
        // This test's own program again, with the variable set: what it starts must not see it.
        let shown = |tool: Tool| tool.arg("-c").arg("echo ${OSTACK_PASSPHRASE-none}").run().unwrap().text();
        assert_eq!(shown(Tool::new("sh").env(PASSPHRASE, "on purpose")), "on purpose\n");
        let name = "base::tool::tests::the_passphrase_reaches_only_a_program_that_is_given_it";
        if std::env::var_os(PASSPHRASE).is_some() {
            assert_eq!(shown(Tool::new("sh")), "none\n");
            let seen = Tool::new("sh").args(["-c", "exit ${OSTACK_PASSPHRASE:+9}"]).run_visible();
            assert_eq!(seen.unwrap(), 0);
        } else {
            let own = std::env::current_exe().unwrap();
            let out = Tool::new(own).args(["--exact", name]).env(PASSPHRASE, "of the caller").run().unwrap();
            assert!(out.text().contains("1 passed"), "{}", out.text());
        }
    }

    #[test]
    fn nothing_of_the_callers_environment_reaches_a_cleared_program() {
        let out = Tool::new("/usr/bin/env").clear_env().env("A", "1").run().unwrap();
        assert_eq!(out.text(), "A=1\n");
    }
}
