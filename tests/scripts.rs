//! Scripts of steps decide right. What they decide is in functions, which `tests/fixtures/scripts/*.py` try without a cluster.

use std::process::Command;

fn passes(name: &str) {
    let root = env!("CARGO_MANIFEST_DIR");
    let script = format!("tests/fixtures/scripts/{name}.py");
    let output = Command::new("python3").arg(script).env("PYTHONDONTWRITEBYTECODE", "1").current_dir(root).output();
    let output = output.expect("python3 is installed by scripts/setup test");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_member_of_etcd_makes_a_cluster_only_when_there_is_none_and_removes_only_itself() {
    passes("etcd_member");
}

#[test]
fn fernet_keys_are_rotated_as_keystone_does() {
    passes("fernet_keys");
}
