//! Compiled Python: made beside the configuring of packages, kept from one build to the next, the same in every byte either way.

mod harness;

use harness::role::{default_store, lock, put_packages, remove_at_exit};
use harness::{Test, store};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The small project with packages of Python, configured as the release that ships does.
fn project(packages: &str) -> Test {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
    let release = fs::read_to_string(shipped.join("releases/epoxy-debian13.toml")).unwrap();
    let (_, configure) = release.split_once("\n[configure]\n").unwrap();
    let (configure, _) = configure.split_once("\n[").unwrap();
    let mut test = Test::new()
        .append("overlays/hosts/overlay.toml", &format!("\n[packages]\nsmall = [{packages}]\n"))
        .append("recipes/releases/small.toml", &format!("\n[configure]\n{configure}\n"));
    for helper in fs::read_dir(shipped.join("helpers")).unwrap().map(|entry| entry.unwrap()) {
        let name = helper.file_name().into_string().unwrap();
        test = test.write(&format!("recipes/helpers/{name}"), fs::read(helper.path()).unwrap());
    }
    remove_at_exit(test.folder());
    test
}

/// What is kept: key -> digest and when it was written.
fn kept(test: &Test) -> BTreeMap<String, (String, SystemTime)> {
    let files = fs::read_dir(test.store().join("ostack/kept")).unwrap().map(|entry| entry.unwrap());
    files
        .map(|file| {
            let name = file.file_name().into_string().unwrap();
            let (key, digest) = name.split_once('-').unwrap();
            (key.to_string(), (digest.to_string(), file.metadata().unwrap().modified().unwrap()))
        })
        .collect()
}

/// Forgets that the packages' layer was built.
fn forget_packages(test: &Test) {
    for entry in fs::read_dir(test.store().join("ostack/steps")).unwrap() {
        let path: PathBuf = entry.unwrap().path();
        if fs::read_to_string(&path).unwrap().contains("\"step\": \"packages\"") {
            fs::remove_file(path).unwrap();
        }
    }
}

/// The layer of packages.
fn build(test: &Test) -> serde_json::Value {
    let json = test.run(["build", "compute", "--json"]).json();
    assert!(json["seconds"]["packages"].is_number(), "{json}");
    json["layers"][1].clone()
}

#[test]
fn compiled_python_is_kept_and_gives_the_bytes_that_compiling_anew_does() {
    harness::must_be_root();
    let test = project("\"python3-certifi\", \"python3-six\"").remove("ostack.lock");
    test.run(["lock"]).succeeds();
    put_packages(&test, &default_store(), &lock(&test));
    let anew = build(&test);
    let first = kept(&test);
    assert!(first.len() >= 2, "{first:?}");

    // Nothing is compiled twice.
    forget_packages(&test);
    assert_eq!(build(&test), anew);
    assert_eq!(kept(&test), first);

    // What is damaged is compiled again.
    let (key, (digest, _)) = first.first_key_value().unwrap();
    let path = test.store().join(format!("ostack/kept/{key}-{digest}"));
    store::flip_a_byte(&path);
    forget_packages(&test);
    assert_eq!(build(&test), anew);
    assert_eq!(kept(&test)[key].0, *digest);
    assert_eq!(ostack_image::base::digest::Digest::of_file(&path).unwrap().0.hex(), *digest);

    // Of one more package only its own is compiled; the layer is that of a build that has compiled all.
    let before = kept(&test);
    let test = test.replace("overlays/hosts/overlay.toml", "\"python3-six\"", "\"python3-idna\", \"python3-six\"");
    test.run(["lock"]).succeeds();
    let more = build(&test);
    let after = kept(&test);
    assert_eq!(after.iter().filter(|(key, file)| before.get(*key) == Some(*file)).count(), before.len());
    assert_eq!(after.len(), before.len() + 1);
    fs::remove_dir_all(test.store().join("ostack/kept")).unwrap();
    forget_packages(&test);
    assert_eq!(build(&test), more);

    // It goes when the store is cleaned.
    test.run(["store", "gc"]).succeeds();
    assert_eq!(kept(&test), BTreeMap::new());
}
