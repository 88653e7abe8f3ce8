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

#[test]
fn a_schema_is_the_newest_when_no_script_of_alembics_follows() {
    passes("schema");
}

#[test]
fn haproxy_sends_clients_to_synced_members_only() {
    passes("clustercheck");
}

#[test]
fn a_database_that_hangs_on_its_way_into_the_cluster_is_started_again() {
    passes("galera");
}

#[test]
fn keystone_is_waited_for_while_it_cannot_answer_and_believed_when_it_does() {
    passes("catalog");
}

#[test]
fn a_database_that_does_not_answer_is_waited_for_and_a_statement_that_fails_is_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    let client = folder.path().join("mariadb");
    let said = |script: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::write(&client, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&client, std::fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!("{}:/usr/bin:/bin", folder.path().display());
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/overlays/mariadb/files/sql");
        let output = Command::new("sh").arg(script).env("PATH", path).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    };
    assert_eq!(said("echo row"), (0, "row\n".to_string(), String::new()));
    let wrong = "ERROR 1146 (42S02) at line 1: no such table\n";
    assert_eq!(said("echo 'ERROR 1146 (42S02) at line 1: no such table' >&2; exit 1"), (1, String::new(), wrong.to_string()));
    for error in ["ERROR 2002 (HY000): no server", "ERROR 1047 (08S01) at line 1: WSREP has not yet prepared"] {
        let (code, _, words) = said(&format!("echo '{error}' >&2; exit 1"));
        assert_eq!((code, words), (75, format!("{error}\nthe database of this node: {error}\n")));
    }
}
