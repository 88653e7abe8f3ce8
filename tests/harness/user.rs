//! An ordinary user of a build machine, as a build needs one: with subordinate ids, and known to nobody else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

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
