//! The small project with a real lock, and its image, built once for all tests of a file.

use super::{Ran, Test, leftovers, store};
use ostack_image::base::digest::Digest;
use ostack_image::base::name::{PackageName, Word};
use ostack_image::lock::{Lock, LockedPackage, ReleaseLock};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

/// The image that tests share. None of them may write to its folder: they work on duplicates.
pub struct Role {
    test: Test,
    /// What `build compute --json` printed.
    pub json: Value,
    /// Files of this machine as they were before anything was locked or built.
    pub host: Vec<(PathBuf, Option<Digest>)>,
    /// What lock and build left behind when they had ended.
    pub left: Vec<String>,
}

/// What a build could damage first if it ever left its root.
const HOST_FILES: [&str; 8] = [
    "/etc/passwd",
    "/etc/shadow",
    "/etc/group",
    "/etc/resolv.conf",
    "/etc/hostname",
    "/etc/machine-id",
    "/etc/ld.so.cache",
    "/var/lib/dpkg/status",
];

pub fn host_files() -> Vec<(PathBuf, Option<Digest>)> {
    let digest = |path: &Path| Digest::of_file(path).ok().map(|(digest, _)| digest);
    HOST_FILES.iter().map(|path| (PathBuf::from(path), digest(Path::new(path)))).collect()
}

/// Locks and builds at the first call.
pub fn role() -> &'static Role {
    static ROLE: OnceLock<Role> = OnceLock::new();
    ROLE.get_or_init(|| {
        super::must_be_root();
        let host = host_files();
        let test = Test::new().remove("ostack.lock");
        remove_at_exit(test.folder());
        test.run(["lock"]).succeeds();
        put_packages(&test, &default_store(), &lock(&test));
        let json = test.run(["build", "compute", "--json"]).json();
        let left = leftovers::of(test.folder());
        Role { test, json, host, left }
    })
}

/// Where the program has its store when it is told nothing: what was fetched there need not be fetched again.
pub fn default_store() -> PathBuf {
    PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/ostack-image/store")
}

/// Copies the locked packages that another store has, whole, into a test's.
pub fn put_packages(test: &Test, from: &Path, lock: &ReleaseLock) {
    fs::create_dir_all(test.store().join("blobs/sha256")).unwrap();
    for package in lock.all() {
        let (old, new) = (store::blob(from, &package.sha256), store::blob(test.store(), &package.sha256));
        if Digest::of_file(&old).is_ok_and(|(digest, _)| digest == package.sha256) {
            fs::copy(old, new).unwrap();
        }
    }
}

/// Adds a package of this name to the small role: it has nothing but this script, which runs when it is configured. The lock is this one
/// and the package.
pub fn with_script(test: Test, lock: &ReleaseLock, name: &str, script: &str) -> Test {
    let folder = tempfile::tempdir().unwrap();
    let (package, control) = (folder.path().join("package.deb"), folder.path().join("root/DEBIAN"));
    fs::create_dir_all(&control).unwrap();
    let fields = format!("Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: x\nDescription: x\n");
    fs::write(control.join("control"), fields).unwrap();
    fs::write(control.join("postinst"), script).unwrap();
    fs::set_permissions(control.join("postinst"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut make = Command::new("dpkg-deb");
    make.args(["--root-owner-group", "--build"]).arg(folder.path().join("root")).arg(&package);
    assert!(make.output().unwrap().status.success());

    let test = test.append("overlays/base/overlay.toml", &format!("\n[packages]\nsmall = [\"{name}\"]\n"));
    let (sha256, size) = Digest::of_file(&package).unwrap();
    fs::copy(&package, store::blob(test.store(), &sha256)).unwrap();
    let path = format!("pool/main/{name}_1_all.deb").parse().unwrap();
    let (name, set): (PackageName, Word) = (name.parse().unwrap(), "compute".parse().unwrap());
    let mut lock = lock.clone();
    lock.requested.entry(set.clone()).or_default().insert(name.clone());
    let like = lock.packages.values().next().unwrap().clone();
    let version = "1".to_string();
    lock.packages.insert(name.clone(), LockedPackage { name, version, size, sha256, path, sets: [set].into(), ..like });
    Lock { releases: [("small".parse().unwrap(), lock)].into() }.write(&test.project().join("ostack.lock")).unwrap();
    test
}

/// The project's lock.
pub fn lock(test: &Test) -> ReleaseLock {
    lock_of(test, "small")
}

/// The project's lock of a release.
pub fn lock_of(test: &Test, release: &str) -> ReleaseLock {
    Lock::load(&test.project().join("ostack.lock")).unwrap().releases.remove(&release.parse().unwrap()).unwrap()
}

impl Role {
    /// The store with the image; read only.
    pub fn store(&self) -> &Path {
        self.test.store()
    }

    /// The lock that it was built from; read only.
    pub fn lock_file(&self) -> PathBuf {
        self.test.project().join("ostack.lock")
    }

    /// A read-only command on the shared project.
    pub fn run<const N: usize>(&self, args: [&str; N]) -> Ran {
        self.test.run(args)
    }

    /// The project, lock and artifacts included, and a store of its own that has the image.
    pub fn duplicate(&self) -> Test {
        let test = self.project();
        store::duplicate(self.store(), test.store());
        test
    }

    /// The project with its lock, and a store of its own that has the packages only.
    pub fn unbuilt(&self) -> Test {
        let test = self.project();
        put_packages(&test, self.store(), &lock(&test));
        test
    }

    fn project(&self) -> Test {
        Test::new().write("ostack.lock", fs::read(self.lock_file()).unwrap())
    }
}

/// A static is never dropped, but its folder must not outlive the tests.
pub fn remove_at_exit(folder: &Path) {
    static FOLDERS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
    extern "C" fn remove() {
        for folder in FOLDERS.lock().unwrap().iter() {
            let _ = fs::remove_dir_all(folder);
        }
    }
    let mut folders = FOLDERS.lock().unwrap();
    if folders.is_empty() {
        // SAFETY: the function touches nothing that is gone when the process exits.
        assert_eq!(unsafe { libc::atexit(remove) }, 0);
    }
    folders.push(folder.to_path_buf());
}
