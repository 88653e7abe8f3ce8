//! An ordinary user of a build machine, as a build needs one: with subordinate ids, and known to nobody else.

use super::Test;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The user's and its group's number, which no account of this machine has.
pub const USER: u32 = 47_113;

/// Makes an `/etc` that knows the user, for a mount namespace; `subordinate` is its `/etc/subuid` and `/etc/subgid`.
pub fn etc(folder: &Path, subordinate: &str) -> PathBuf {
    let etc = folder.join("etc");
    let copied = Command::new("cp").args(["-a", "/etc"]).arg(&etc).status().unwrap();
    assert!(copied.success());
    let accounts = fs::read_to_string("/etc/passwd").unwrap();
    fs::write(etc.join("passwd"), format!("{accounts}somebody:x:{USER}:{USER}::/nonexistent:/bin/sh\n")).unwrap();
    for file in ["subuid", "subgid"] {
        fs::write(etc.join(file), subordinate).unwrap();
    }
    etc
}

/// Copies both programs to where the user may read them: their own folder may be root's alone.
pub fn programs(folder: &Path) -> PathBuf {
    let bin = folder.join("bin");
    fs::create_dir_all(&bin).unwrap();
    for program in [PathBuf::from(super::PROGRAM), Path::new(super::PROGRAM).with_file_name("ostack-node")] {
        fs::copy(&program, bin.join(program.file_name().unwrap())).unwrap();
    }
    bin.join("ostack-image")
}

/// An ordinary user, with a project of its own. The user is in a copy of /etc, which its processes see in the machine's place.
pub struct User {
    pub test: Test,
    etc: PathBuf,
}

impl User {
    /// Gives the project and its store to a new user; `subordinate` is `/etc/subuid` and `/etc/subgid`.
    pub fn new(subordinate: &str, test: Test) -> Self {
        let etc = etc(test.folder(), subordinate);
        let bin = programs(test.folder()).parent().unwrap().to_path_buf();
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
    pub fn run(&self, args: &[&str]) -> Output {
        let script = "mount --bind \"$1\" /etc && user=$2 && shift 2 && \
                      exec setpriv --reuid $user --regid $user --clear-groups env -i PATH=/usr/bin:/bin HOME=/nonexistent \"$@\"";
        let program = self.test.folder().join("bin/ostack-image");
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script, "sh"]).arg(&self.etc).arg(USER.to_string()).arg(program).args(args);
        command.arg("--store").arg(self.test.store()).current_dir(self.test.project()).stdin(Stdio::null());
        command.output().unwrap()
    }

    /// Runs the program as the user, to a good end.
    pub fn run_well(&self, args: &[&str]) -> Output {
        let output = self.run(args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output
    }
}
