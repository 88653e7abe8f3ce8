//! The host needs the program and a kernel: a Debian 13 with nothing in it that locks, unpacks or writes images gives the
//! bytes that this machine gives, whatever this machine has installed.

mod harness;

use harness::role::{lock, role};
use harness::{PROGRAM, Test, leftovers, store};
use ostack_image::layer::sandbox::Sandbox;
use ostack_image::layer::{deb, order};
use ostack_image::lock::ReleaseLock;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What must not be there: whatever solves, fetches, verifies, unpacks, packs or writes filesystems and disks.
const ABSENT: [&str; 26] = [
    "apt",
    "apt-get",
    "bzip2",
    "cpio",
    "curl",
    "dpkg",
    "dpkg-deb",
    "fsck.erofs",
    "gpg",
    "gpgv",
    "grub-mkimage",
    "gzip",
    "mcopy",
    "mke2fs",
    "mkfs.erofs",
    "mkfs.ext4",
    "mkfs.fat",
    "python3",
    "qemu-img",
    "rpm",
    "sgdisk",
    "sqv",
    "tar",
    "wget",
    "xz",
    "zstd",
];

/// Essential packages that have some of these.
const LEFT_OUT: [&str; 3] = ["dpkg", "gzip", "tar"];

/// The essential packages of Debian 13, unpacked.
fn bare_root(folder: &Path, store: &Path, lock: &ReleaseLock) -> PathBuf {
    let root = folder.join("bare");
    for (link, to) in [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")] {
        fs::create_dir_all(root.join(to)).unwrap();
        std::os::unix::fs::symlink(to, root.join(link)).unwrap();
    }
    let packages = lock.set(&"base".parse().unwrap());
    let files: Vec<PathBuf> = packages.iter().map(|package| store::blob(store, &package.sha256)).collect();
    let controls: Vec<deb::Control> = files.iter().map(|file| deb::control(file).unwrap()).collect();
    for one in order::essential(&controls) {
        if !LEFT_OUT.contains(&packages[one].name.as_str()) {
            deb::extract(&files[one], &root).unwrap();
        }
    }
    for file in ["passwd", "group"] {
        fs::copy(root.join("usr/share/base-passwd").join(format!("{file}.master")), root.join("etc").join(file)).unwrap();
    }
    for folder in ["usr/bin", "usr/sbin", "usr/local/bin", "usr/local/sbin"] {
        let there: Vec<&str> = ABSENT.into_iter().filter(|name| root.join(folder).join(name).exists()).collect();
        assert_eq!(there, Vec::<&str>::new(), "in {folder}");
    }
    assert!(root.join("usr/bin/ls").exists());
    root
}

/// A copy of as much of Debian's archives as the small project needs: the signed lists, and the packages that a store has.
fn mirror(folder: &Path, store: &Path, lock: &ReleaseLock) -> PathBuf {
    let mirror = folder.join("mirror");
    let sites = ostack_image::lock::mirror::Mirrors::find(&Default::default(), Path::new("/etc/apt")).unwrap();
    for suite in &lock.suites {
        let dists = mirror.join(suite.archive.as_str()).join("dists").join(&suite.name);
        let get = |path: &str| {
            let url = format!("{}/dists/{}/{path}", sites.of(&suite.archive).unwrap()[0], suite.name);
            let mut curl = Command::new("curl");
            curl.args(["--silent", "--show-error", "--fail", "--location", "--create-dirs", "--output"]);
            let output = curl.arg(dists.join(path)).arg(&url).output().expect("run scripts/setup test");
            assert!(output.status.success(), "{url}: {}", String::from_utf8_lossy(&output.stderr));
        };
        get("InRelease");
        get("main/binary-amd64/Packages.xz");
    }
    for package in lock.all() {
        let file = mirror.join(package.archive.as_str()).join(package.path.as_str());
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::hard_link(store::blob(store, &package.sha256), file).unwrap();
    }
    mirror
}

/// A machine that is that root: no network, and beside it the project, the program, the mirror and an empty store.
struct Bare {
    root: PathBuf,
    folder: PathBuf,
}

impl Bare {
    fn run(&self, args: &[&str]) -> String {
        // SAFETY: the tests of this file are one, and it has one thread.
        unsafe { std::env::set_var("OSTACK_IMAGE_PROGRAM", PROGRAM) };
        let command = ["/run/bare/bin/ostack-image", "-C", "/run/bare/project", "--store", "/run/bare/store"];
        let mirror = ["--mirror", "file:///run/bare/mirror/debian"];
        let output = Sandbox::new(&self.root)
            .bind_writable(&self.folder, "/run/bare")
            .run([&command[..], args, &mirror].concat(), b"")
            .unwrap_or_else(|error| panic!("{error}"));
        output.text()
    }
}

#[test]
fn a_machine_without_any_tool_locks_and_builds_the_same_bytes() {
    let outside = role();
    let packages = lock(&Test::new().write("ostack.lock", fs::read(outside.lock_file()).unwrap()));
    let folder = tempfile::tempdir_in(outside.store().parent().unwrap()).unwrap();
    let inside = folder.path().join("inside");
    let test = Test::new().remove("ostack.lock");
    harness::copy(&test.project(), &inside.join("project"));
    fs::create_dir(inside.join("bin")).unwrap();
    for program in ["ostack-image", "ostack-node"] {
        harness::copy(&Path::new(PROGRAM).with_file_name(program), &inside.join("bin").join(program));
    }
    mirror(&inside, outside.store(), &packages);
    let bare = Bare { root: bare_root(folder.path(), outside.store(), &packages), folder: inside.clone() };

    assert_eq!(bare.run(&["lock"]), format!("/run/bare/project/ostack.lock: {} packages\n", packages.all().count()));
    let (mine, here) =
        (fs::read_to_string(inside.join("project/ostack.lock")).unwrap(), fs::read_to_string(outside.lock_file()).unwrap());
    assert!(mine == here, "{}", similar::TextDiff::from_lines(&here, &mine).unified_diff());

    let json: serde_json::Value = serde_json::from_str(&bare.run(&["build", "compute", "--json"])).unwrap();
    assert_eq!(json["layers"], outside.json["layers"]);
    assert_eq!(json["image"], outside.json["image"]);
    assert_eq!(json["artifacts"][0]["digest"], outside.json["artifacts"][0]["digest"]);
    assert_eq!(leftovers::of(folder.path()), Vec::<String>::new());
}
