//! The whole controller against dpkg: the layers are those that dpkg alone leaves, and in the root that they are dpkg finds nothing
//! wrong. `dpkg.rs` does the first with a small role.

mod harness;

use harness::Test;
use harness::role::{default_store, lock_of, put_packages};
use harness::store;
use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;

const RELEASE: &str = "recipes/releases/epoxy-debian13.toml";

/// Documentation that the release leaves out. Here it stays: dpkg misses what is gone, and where the base has lost a folder of it, it also
/// takes that folder out of the lists of the base's packages when another package brings it again.
const PRUNED: &str = "[clean.prune]\n\"/usr/share/doc\" = [\"copyright\"]\n\"/usr/share/info\" = []\n\"/usr/share/man\" = []\n";

/// Shows two layers as one root in mounts of its own, and runs a command in it.
const IN_ROOT: &str = r#"
mount -t tmpfs none "$1"; cd "$1"; mkdir base packages upper work root; shift
mount -t erofs -o ro "$1" base; mount -t erofs -o ro "$2" packages; shift 2
mount -t overlay -o lowerdir=packages:base,upperdir=upper,workdir=work none root
exec chroot root "$@"
"#;

/// The layers that packages make, the base first.
fn layers(json: &Value) -> Vec<&Value> {
    json["layers"].as_array().unwrap().iter().filter(|layer| layer["kind"] == "base" || layer["kind"] == "packages").collect()
}

#[test]
fn a_controller_is_what_dpkg_alone_leaves_and_dpkg_finds_nothing_wrong_with_it() {
    harness::must_be_root();
    let test = Test::shipped().replace(RELEASE, PRUNED, "");
    put_packages(&test, &default_store(), &lock_of(&test, "epoxy-debian13"));
    let ours = test.run(["build", "controller", "--relock", "--json"]).json();
    assert_eq!(layers(&ours).len(), 2, "{ours}");

    let image = test.run(["inspect", "controller", "--json"]).json();
    let in_root = |command: &[&str]| {
        let mounted = test.folder().join("mounted");
        std::fs::create_dir_all(&mounted).unwrap();
        let blob =
            |layer: &Value| -> PathBuf { store::blob(test.store(), &layer["blob"]["digest"].as_str().unwrap().parse().unwrap()) };
        let mut shell = Command::new("unshare");
        shell
            .args(["--mount", "sh", "-ec", IN_ROOT, "sh"])
            .arg(&mounted)
            .args(layers(&image).into_iter().map(blob))
            .args(command);
        let output = shell.output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let quiet = (Some(0), String::new(), String::new());
    assert_eq!(in_root(&["dpkg", "--audit"]), quiet);
    // Of every file that packages bring, configuration files included.
    assert_eq!(in_root(&["dpkg", "--verify"]), quiet);
    // It does look.
    let (_, said, _) = in_root(&["sh", "-c", "echo >> /usr/bin/less; rm /usr/bin/lsof; dpkg --verify less lsof"]);
    assert_eq!(said, "??5??????   /usr/bin/less\nmissing     /usr/bin/lsof\n");

    // Type, owner, mode, attributes and bytes of every path are in a layer's identity. Compiled Python is taken from the first build.
    let test = test.replace(RELEASE, "\n[configure]\n", "\n[configure]\ndpkg_unpacks = true\n");
    let by_dpkg = test.run(["build", "controller", "--json"]).json();
    assert!(by_dpkg["seconds"]["base"].is_number() && by_dpkg["seconds"]["packages"].is_number(), "{by_dpkg}");
    assert_eq!(layers(&by_dpkg), layers(&ours), "{}", test.run(["diff", "controller"]).stdout());
}
