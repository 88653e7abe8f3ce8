//! A project in a folder of its own, broken or changed as a test wants, and the program run on it.
//!
//! ```ignore
//! Test::new().replace("site.toml", "RegionOne", "").run(["plan", "compute"]).fails("error: …");
//! ```
//!
//! `Test::new` is `tests/fixtures/small`: a site of three nodes, one recipe, two overlays and a lock of packages that
//! exist nowhere. Everything that a test writes or starts ends with its [`Test`].

#![allow(dead_code, reason = "each test file uses its part of the harness")]

pub mod cloud;
pub mod faults;
pub mod guest;
pub mod guide;
pub mod leftovers;
pub mod machine;
pub mod mirror;
pub mod network;
pub mod probe;
pub mod role;
pub mod rpm;
pub mod server;
pub mod store;
pub mod table;
pub mod user;
pub mod variation;
pub mod world;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_ostack-image");

/// Python with the judges of kickstart files and of images, as `scripts/setup test` installs them.
#[track_caller]
pub fn python() -> Command {
    let home = || PathBuf::from(std::env::var_os("HOME").expect("HOME")).join(".cache");
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from);
    let program = cache.join("ostack-image/python/bin/python");
    assert!(program.exists(), "{} is missing: run scripts/setup test", program.display());
    Command::new(program)
}

/// The judge of kickstart files, of these: it says nothing of valid ones.
pub fn judge_kickstart(files: &[PathBuf]) -> Output {
    let validate = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/kickstart/validate.py");
    python().arg(validate).args(files).output().unwrap()
}

/// A project folder, an own store beside it, and a command line.
pub struct Test {
    folder: tempfile::TempDir,
    env: Vec<(String, String)>,
    store: PathBuf,
}

/// What a run gave.
pub struct Ran {
    pub output: Output,
    folder: PathBuf,
}

impl Test {
    /// The small project, with an absent store.
    pub fn new() -> Self {
        Self::of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/small"))
    }

    /// The project that ships: `site.toml`, recipes, overlays, images and lock.
    pub fn shipped() -> Self {
        Self::of(Path::new(env!("CARGO_MANIFEST_DIR")))
    }

    /// The project of rpm packages: without mirror, keys and lock, see [`rpm::Repository`].
    pub fn rpm() -> Self {
        Self::of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/rpm"))
    }

    fn of(source: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let project = folder.path().join("project");
        fs::create_dir(&project).unwrap();
        for part in ["site.toml", "recipes", "overlays", "images"] {
            copy(&source.join(part), &project.join(part));
        }
        if source.join("ostack.lock").exists() {
            copy(&source.join("ostack.lock"), &project.join("ostack.lock"));
        }
        let store = folder.path().join("store");
        Self { folder, env: Vec::new(), store }
    }

    /// The project's folder, in which the program runs.
    pub fn project(&self) -> PathBuf {
        self.folder.path().join("project")
    }

    /// The folder of project, store and whatever else the test makes.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The store.
    pub fn store(&self) -> &Path {
        &self.store
    }

    /// Uses another store.
    pub fn with_store(mut self, store: &Path) -> Self {
        self.store = store.to_path_buf();
        self
    }

    /// Replaces a text that a file has exactly once.
    #[track_caller]
    pub fn replace(self, file: &str, old: &str, new: &str) -> Self {
        let path = self.project().join(file);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_eq!(text.matches(old).count(), 1, "{file} does not have this exactly once: {old}");
        self.write(file, text.replace(old, new))
    }

    /// Writes a file.
    pub fn write(self, file: &str, content: impl AsRef<[u8]>) -> Self {
        let path = self.project().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        self
    }

    /// Adds to the end of a file.
    #[track_caller]
    pub fn append(self, file: &str, text: &str) -> Self {
        let before = fs::read_to_string(self.project().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        self.write(file, before + text)
    }

    /// Removes a file or a folder.
    #[track_caller]
    pub fn remove(self, file: &str) -> Self {
        let path = self.project().join(file);
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
        self
    }

    /// Sets an environment variable of later runs.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_string(), value.to_string()));
        self
    }

    /// The program with these arguments, in the project's folder, with the test's store; not started yet.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(args).arg("--store").arg(&self.store).current_dir(self.project()).stdin(Stdio::null());
        // What the machine's owner may have set must not decide a test.
        command.env_remove("OSTACK_STORE").env_remove("OSTACK_SECRETS").env_remove("OSTACK_PASSPHRASE");
        command.env("NO_PROXY", "127.0.0.1").envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs the program to its end.
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        Ran { output: self.command(args).output().unwrap(), folder: self.folder.path().to_path_buf() }
    }
}

impl Ran {
    /// Standard output; the test's own folder reads `TEST`.
    pub fn stdout(&self) -> String {
        self.text(&self.output.stdout)
    }

    /// Standard error, likewise.
    pub fn stderr(&self) -> String {
        self.text(&self.output.stderr)
    }

    fn text(&self, bytes: &[u8]) -> String {
        String::from_utf8(bytes.to_vec()).unwrap().replace(&self.folder.display().to_string(), "TEST")
    }

    /// Exit code 0.
    #[track_caller]
    pub fn succeeds(&self) -> &Self {
        assert_eq!(self.output.status.code(), Some(0), "stderr:\n{}", self.stderr());
        self
    }

    /// Exit code 0 and exactly this on stdout.
    #[track_caller]
    pub fn prints(&self, stdout: &str) {
        self.succeeds();
        assert_eq!(self.stdout(), stdout);
    }

    /// Exit code 1, nothing on stdout and exactly this on stderr.
    #[track_caller]
    pub fn fails(&self, stderr: &str) {
        assert_eq!((self.output.status.code(), self.stdout().as_str(), self.stderr().as_str()), (Some(1), "", stderr));
    }

    /// Exit code 0 and one JSON document on stdout.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        self.succeeds();
        serde_json::from_slice(&self.output.stdout).unwrap()
    }
}

/// Copies a file or a folder with all that is in it.
pub fn copy(from: &Path, to: &Path) {
    if !from.is_dir() {
        fs::copy(from, to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
        return;
    }
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        copy(&entry.path(), &to.join(entry.file_name()));
    }
}

/// The tests lay out roots and read other processes: only root may. Saying so beats thirty odd failures.
#[track_caller]
pub fn must_be_root() {
    assert!(rustix::process::geteuid().is_root(), "this test builds images: run it as root");
}
