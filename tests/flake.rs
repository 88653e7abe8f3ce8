//! `flake.nix` is valid Nix: parsed by Debian's `nix-bin`, which needs no Nix store for that.

use std::path::Path;
use std::process::Command;

#[test]
fn the_flake_parses() {
    let flake = Path::new(env!("CARGO_MANIFEST_DIR")).join("flake.nix");
    assert!(flake.exists(), "there is no flake.nix");
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path();
    let output = Command::new("nix-instantiate")
        .arg("--parse")
        .arg(&flake)
        // Whatever it keeps, it keeps in the test's folder.
        .env("HOME", state)
        .env("NIX_STATE_DIR", state.join("state"))
        .env("NIX_STORE_DIR", state.join("store"))
        .env("NIX_LOG_DIR", state.join("log"))
        .output()
        .expect("nix-instantiate is missing: run scripts/setup test");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("outputs"), "a flake has outputs");
}
