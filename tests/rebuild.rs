//! What must not matter to a build: who builds where, with root's power or without, what a killed build left, what a mirror has dropped.

mod harness;

use harness::role::{lock, role};
use harness::user::{self, USER};
use harness::{Test, leftovers};
use ostack_image::base::digest::Digest;
use ostack_image::lock::Lock;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

#[test]
fn another_time_zone_umask_home_folder_and_locale_give_the_same_bytes() {
    let test = role().unbuilt();
    let folder = test.folder().join("else where");
    fs::create_dir(&folder).unwrap();
    let mut command = test.command(["build", "compute", "--json"]);
    command.arg("-C").arg(test.project()).current_dir(&folder);
    command.env("TZ", "Pacific/Kiritimati").env("HOME", &folder).env("LC_ALL", "tr_TR.UTF-8").env("LANG", "C").env("USER", "x");
    // SAFETY: one system call, allowed between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::umask(0o077);
            Ok(())
        });
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["layers"], role().json["layers"]);
    assert_eq!(json["image"], role().json["image"]);
    assert_eq!(json["artifacts"][0]["digest"], role().json["artifacts"][0]["digest"]);
}

/// Ends the process, however the test ends.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_build_killed_while_it_configures_packages_leaves_nothing_and_the_next_one_succeeds() {
    let test = role().unbuilt();
    let namespaces = leftovers::named_namespaces();
    let temporary = test.folder().join("temporary");
    fs::create_dir(&temporary).unwrap();
    let mut command = test.command(["build", "compute"]);
    command.env("TMPDIR", &temporary).stdout(Stdio::null()).stderr(Stdio::null());
    let mut build = Killed(command.spawn().unwrap());
    let end = Instant::now() + Duration::from_secs(120);
    let family = loop {
        assert!(build.0.try_wait().unwrap().is_none() && Instant::now() < end, "dpkg --configure was never seen");
        let family = leftovers::family(build.0.id());
        let configures = |(pid, _): &(u32, u64)| {
            let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            command.starts_with("dpkg\0") && command.contains("--configure\0-a")
        };
        if family.iter().any(configures) {
            break family;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    build.0.kill().unwrap();
    build.0.wait().unwrap();
    assert!(family.len() >= 3, "the program, the sandbox and dpkg: {family:?}");
    assert_eq!(leftovers::alive(&family), Vec::<u32>::new());
    assert_eq!(leftovers::of(test.folder()), Vec::<String>::new());
    assert_eq!(leftovers::named_namespaces(), namespaces);
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);

    let json = test.run(["build", "compute", "--json"]).json();
    assert_eq!(json["image"], role().json["image"]);
    assert_eq!(fs::read_dir(test.store().join("ostack/scratch")).unwrap().count(), 0);
    assert_eq!(leftovers::of(test.folder()), Vec::<String>::new());
}

/// A mirror that has dropped everything. The thread ends with the process; the port is the kernel's choice.
fn empty_mirror() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
                request.push(byte[0]);
            }
            let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    format!("http://{address}/debian")
}

#[test]
fn a_package_that_left_the_mirror_is_named_with_the_ways_out_and_relock_mends_it() {
    let test = role().unbuilt();
    let path = test.project().join("ostack.lock");
    let whole = lock(&test).packages[&"kmod".parse().unwrap()].clone();
    let mut lock_file = Lock::load(&path).unwrap();
    let release = lock_file.releases.get_mut(&"small".parse().unwrap()).unwrap();
    let kmod = release.packages.get_mut(&"kmod".parse().unwrap()).unwrap();
    (kmod.version, kmod.sha256) = ("0.1".to_string(), Digest::of("long gone"));
    kmod.path = "pool/main/k/kmod/kmod_0.1_amd64.deb".parse().unwrap();
    lock_file.write(&path).unwrap();

    let ran = test.run(["build", "compute", "--mirror", &empty_mirror()]);
    ran.fails(&format!(
        "  fetching 1 packages, {:.1} MB …\nerror: 1 locked package is on no mirror any more: kmod\n  next: lock newer ones with \
         `ostack-image lock --update kmod`, or name a mirror that keeps old packages below [snapshot] in site.toml, or put the \
         files into the store\n",
        whole.size as f64 / 1e6
    ));

    let ran = test.run(["build", "compute", "--relock"]);
    ran.succeeds();
    // How long it took to unpack the solver does not matter here.
    let said: String =
        ran.stderr().lines().filter(|line| !line.starts_with("  solver: ")).map(|line| format!("{line}\n")).collect();
    let expected = format!(
        "  1 locked package is on no mirror any more; locking anew\n  asking apt for the packages of small …\n  kmod 0.1 -> {}\n",
        whole.version
    );
    assert!(said.contains(&expected), "{said}");
    assert_eq!(lock(&test).packages[&whole.name], whole);
}

/// An ordinary user, with a project of its own. The user is in a copy of /etc, which its processes see in the machine's place.
struct User {
    test: Test,
    etc: PathBuf,
}

impl User {
    fn new(subordinate: &str) -> Self {
        let test = role().unbuilt();
        let etc = user::etc(test.folder(), subordinate);
        let bin = user::programs(test.folder()).parent().unwrap().to_path_buf();
        fs::create_dir_all(test.store()).unwrap();
        for folder in [test.project(), test.store().to_path_buf(), bin] {
            let given = Command::new("chown").args(["-R", &format!("{USER}:{USER}")]).arg(folder).status().unwrap();
            assert!(given.success());
        }
        let given = Command::new("chown").arg(USER.to_string()).arg(test.folder()).status().unwrap();
        assert!(given.success());
        Self { test, etc }
    }

    /// Runs the program as the user, who has nothing of root's.
    fn run(&self, args: &[&str]) -> Output {
        let script = "mount --bind \"$1\" /etc && user=$2 && shift 2 && \
                      exec setpriv --reuid $user --regid $user --clear-groups env -i PATH=/usr/bin:/bin HOME=/nonexistent \"$@\"";
        let program = self.test.folder().join("bin/ostack-image");
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script, "sh"]).arg(&self.etc).arg(USER.to_string()).arg(program).args(args);
        command.arg("--store").arg(self.test.store()).current_dir(self.test.project()).stdin(Stdio::null());
        command.output().unwrap()
    }

    /// Runs the program as the user, to a good end.
    fn run_well(&self, args: &[&str]) -> Output {
        let output = self.run(args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output
    }

    /// Locks and builds anew: the lock is the same, and so are layers, image and disk. What the build said on stderr.
    fn locks_and_builds_what_root_does(&self) -> String {
        let path = self.test.project().join("ostack.lock");
        let lock = fs::read_to_string(&path).unwrap();
        fs::remove_file(&path).unwrap();
        self.run_well(&["lock"]);
        assert_eq!(fs::read_to_string(&path).unwrap(), lock);
        let output = self.run_well(&["build", "compute", "--json"]);
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(json["layers"], role().json["layers"]);
        assert_eq!(json["image"], role().json["image"]);
        assert_eq!(json["artifacts"][0]["digest"], role().json["artifacts"][0]["digest"]);
        String::from_utf8(output.stderr).unwrap()
    }
}

#[test]
fn an_ordinary_user_locks_and_builds_the_bytes_that_root_does() {
    let user = User::new(&format!("somebody:600000:30000\n{USER}:900000:65536\n"));
    user.locks_and_builds_what_root_does();

    // The root that the layers are, with file capabilities, which no unpacking by a user would keep.
    let archive = ["build", "compute", "--format", "tar.gz", "--json"];
    let output = user.run_well(&archive);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["artifacts"][0]["digest"], role().duplicate().run(archive).json()["artifacts"][0]["digest"]);

    // What it leaves is its own, and it can clean up.
    user.run_well(&["store", "gc"]);
    assert_eq!(fs::read_dir(user.test.store().join("ostack/scratch")).unwrap().count(), 0);
    assert_eq!(leftovers::of(user.test.folder()), Vec::<String>::new());
}

#[test]
fn a_user_with_too_few_ids_locks_and_builds_the_same_bytes_and_is_told_how_it_would_be_faster() {
    let user = User::new("somebody:600000:1000\n");
    let said = user.locks_and_builds_what_root_does();
    let note = "note: owners are written down and not given, which takes longer: building without root takes 65534 subordinate ids, \
                and /etc/subuid gives somebody 1000\n  next: run as root, or have root give them: usermod --add-subuids \
                100000-165535 --add-subgids 100000-165535 somebody\n";
    assert!(said.contains(note), "{said}");
    user.run_well(&["store", "gc"]);
    assert_eq!(leftovers::of(user.test.folder()), Vec::<String>::new());
}
