//! What a maintainer script sees and leaves behind: its root, nothing of the host, and no process afterwards.
//!
//! The sandbox's root here is the host's own tree under an overlay, so that there are programs to run.

use ostack_image::layer::sandbox::Sandbox;
use std::path::Path;

struct Root {
    folder: tempfile::TempDir,
}

impl Root {
    fn new() -> Self {
        // Safe: every test of this file sets the same value.
        unsafe { std::env::set_var("OSTACK_IMAGE_PROGRAM", env!("CARGO_BIN_EXE_ostack-image")) };
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        for name in ["lower", "upper", "work", "root", "shown"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        // A small tree with a shell: what it needs of the host is bound below /run, which the sandbox allows.
        for (link, target) in
            [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64"), ("usr", "run/usr")]
        {
            std::os::unix::fs::symlink(target, folder.path().join("lower").join(link)).unwrap();
        }
        for name in ["dev", "proc", "run", "tmp", "etc"] {
            std::fs::create_dir(folder.path().join("lower").join(name)).unwrap();
        }
        std::fs::write(folder.path().join("lower/etc/old"), "old\n").unwrap();
        std::fs::write(folder.path().join("shown/file"), "shown\n").unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn sandbox(&self) -> Sandbox {
        Sandbox::new(&self.path("root"))
            .overlay(&self.path("lower"), &self.path("upper"), &self.path("work"))
            .bind(Path::new("/usr"), "/run/usr")
    }

    fn shell(&self, script: &str) -> String {
        self.sandbox().run(["/bin/sh", "-c", script], b"").unwrap().text()
    }
}

#[test]
fn there_is_no_network_but_an_idle_loopback() {
    assert_eq!(Root::new().shell("tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '"), "lo\n");
}

#[test]
fn no_process_of_the_host_is_seen() {
    assert_eq!(
        Root::new().shell("echo /proc/[0-9]* | tr ' ' '\\n' | head -1; readlink /proc/1/exe | sed 's,.*/,,'; hostname"),
        {
            let shell = std::fs::read_link("/bin/sh").unwrap();
            format!("/proc/1\n{}\nlocalhost\n", shell.file_name().unwrap().to_string_lossy())
        }
    );
}

#[test]
fn the_environment_is_the_same_wherever_the_build_runs() {
    let out = Root::new().sandbox().env("DEBIAN_FRONTEND", "noninteractive").run(["/usr/bin/env"], b"").unwrap().text();
    let mut lines: Vec<&str> = out.lines().collect();
    lines.sort_unstable();
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(lines, ["DEBIAN_FRONTEND=noninteractive", "HOME=/root", "LC_ALL=C.UTF-8", path, "TZ=UTC"]);
}

#[test]
fn changes_go_to_the_upper_directory_and_the_lower_one_stays() {
    let root = Root::new();
    root.shell("echo new > /etc/new; rm /etc/old");
    assert_eq!(std::fs::read_to_string(root.path("upper/etc/new")).unwrap(), "new\n");
    assert_eq!(std::fs::read_to_string(root.path("lower/etc/old")).unwrap(), "old\n");
    assert!(!root.path("lower/etc/new").exists());
}

#[test]
fn what_is_written_below_run_tmp_and_dev_is_no_part_of_the_root() {
    let root = Root::new();
    root.shell("echo 1 > /run/a; echo 1 > /tmp/a; echo 1 > /dev/shm/a; test -c /dev/null");
    let written: Vec<_> =
        walkdir::WalkDir::new(root.path("upper")).into_iter().flatten().filter(|entry| entry.file_type().is_file()).collect();
    assert!(written.is_empty(), "{written:?}");
}

#[test]
fn what_the_host_shows_cannot_be_written() {
    let root = Root::new();
    let sandbox = root.sandbox().bind(&root.path("shown"), "/run/shown");
    let error = sandbox.run(["/bin/sh", "-c", "cat /run/shown/file && echo x > /run/shown/file"], b"").err().unwrap().to_string();
    assert!(error.contains("Read-only file system"), "{error}");
    assert_eq!(std::fs::read_to_string(root.path("shown/file")).unwrap(), "shown\n");
}

#[test]
fn a_daemon_that_a_script_leaves_ends_with_the_script() {
    let root = Root::new();
    // The name makes it findable among the host's processes.
    root.shell("cp /bin/sleep /tmp/left-behind-daemon; setsid /tmp/left-behind-daemon 600 >/dev/null 2>&1 & echo started");
    let running = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .any(|entry| std::fs::read_to_string(entry.path().join("cmdline")).is_ok_and(|line| line.contains("left-behind-daemon")));
    assert!(!running);
}

#[test]
fn nothing_stays_mounted() {
    let root = Root::new();
    root.shell("true");
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(&root.folder.path().display().to_string()), "{mounts}");
}

#[test]
fn a_failing_command_gives_its_last_words() {
    let root = Root::new();
    let error = root.sandbox().run(["/bin/sh", "-c", "echo 'no such database' >&2; exit 7"], b"").err().unwrap();
    assert_eq!(
        error.to_string(),
        "running `/bin/sh -c echo 'no such database' >&2; exit 7` in the image's root: no such database"
    );
}

/// A sandbox with this script as the program beside.
fn with_beside(root: &Root, script: &str) -> Sandbox {
    use std::os::unix::fs::PermissionsExt;
    let helper = root.path("shown/helper");
    std::fs::write(&helper, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    root.sandbox().bind(&root.path("shown"), "/run/shown").beside("/run/shown/helper")
}

#[test]
fn what_runs_beside_begins_with_the_first_call_hears_all_of_them_and_is_waited_for() {
    let root = Root::new();
    let sandbox = with_beside(&root, "echo begun > /etc/begun; cat > /etc/heard; sleep 0.3; echo done >> /etc/heard");
    let script = "[ ! -e /etc/begun ] && echo one >> /run/ostack/calls && until [ -e /etc/begun ]; do sleep 0.01; done; \
                  echo two >> /run/ostack/calls; cat /etc/begun";
    assert_eq!(sandbox.run(["/bin/sh", "-c", script], b"").unwrap().text(), "begun\n");
    assert_eq!(std::fs::read_to_string(root.path("upper/etc/heard")).unwrap(), "one\ntwo\ndone\n");
}

#[test]
fn without_a_call_nothing_runs_beside() {
    let root = Root::new();
    with_beside(&root, "touch /etc/begun").run(["/bin/sh", "-c", "sleep 0.1"], b"").unwrap();
    assert!(!root.path("upper/etc/begun").exists());
}

#[test]
fn what_fails_beside_ends_the_command_and_is_heard() {
    let root = Root::new();
    for when in ["", "cat > /etc/heard"] {
        let sandbox = with_beside(&root, &format!("{when}\necho 'no such module' >&2; exit 3"));
        let rest = if when.is_empty() { "; sleep 600" } else { "" };
        let script = format!("echo one >> /run/ostack/calls{rest}");
        let error = sandbox.run(["/bin/sh", "-c", &script], b"").err().unwrap().to_string();
        assert!(error.ends_with("running `/run/shown/helper` beside: no such module"), "{error}");
    }
}

#[test]
fn a_failing_command_ends_what_runs_beside() {
    let root = Root::new();
    let error = with_beside(&root, "sleep 600")
        .run(["/bin/sh", "-c", "echo one >> /run/ostack/calls; echo 'no such package' >&2; exit 7"], b"")
        .err()
        .unwrap()
        .to_string();
    assert!(error.ends_with("no such package"), "{error}");
}

#[test]
fn both_end_with_whoever_started_the_sandbox() {
    let root = Root::new();
    let sandbox = with_beside(&root, "cp /bin/sleep /tmp/left-beside; exec /tmp/left-beside 600");
    // SAFETY: the child runs the sandbox until it is killed and comes back to nothing of the test.
    let child = match unsafe { libc::fork() } {
        0 => {
            let script = "cp /bin/sleep /tmp/left-behind; echo one >> /run/ostack/calls; exec /tmp/left-behind 600";
            let _ = sandbox.run(["/bin/sh", "-c", script], b"");
            std::process::abort()
        }
        child => child,
    };
    let left = || {
        let named = |path: std::path::PathBuf| {
            std::fs::read_to_string(path.join("cmdline")).is_ok_and(|line| line.starts_with("/tmp/left-be"))
        };
        std::fs::read_dir("/proc").unwrap().flatten().filter(|entry| named(entry.path())).count()
    };
    let until = |count: usize| {
        (0..500).any(|_| {
            left() == count || {
                std::thread::sleep(std::time::Duration::from_millis(20));
                false
            }
        })
    };
    assert!(until(2));
    // SAFETY: our own child.
    unsafe { libc::kill(child, libc::SIGKILL) };
    assert!(until(0), "{} are left", left());
}

#[test]
fn a_replaced_program_is_at_hand_for_what_replaces_it() {
    let root = Root::new();
    let sandbox = root.sandbox().replace(&root.path("shown/file"), &"/etc/old".parse().unwrap());
    let out = sandbox.run(["/bin/sh", "-c", "cat /etc/old /run/ostack/replaced/etc/old"], b"").unwrap().text();
    assert_eq!(out, "shown\nold\n");
    assert_eq!(std::fs::read_to_string(root.path("lower/etc/old")).unwrap(), "old\n");
}
