//! Whatever is wrong with what the user wrote: exit code 1, one error with file, line and what to write, and a store
//! that is as it was. The cases are data: `tests/fixtures/bad_input.toml`.

mod harness;

use harness::{Test, store};
use ostack_image::base::digest::Digest;
use serde::Deserialize;
use std::fs;
use std::path::PathBuf;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cases {
    case: Vec<Case>,
}

/// One broken input.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// What the case shows, unique.
    rule: String,
    /// The command line.
    #[serde(default = "plan")]
    run: Vec<String>,
    /// The file that is broken, and how: exactly one of the next five.
    file: Option<String>,
    replace: Option<String>,
    #[serde(default)]
    with: String,
    append: Option<String>,
    bytes: Option<Vec<u8>>,
    #[serde(default)]
    remove: bool,
    /// All of stderr.
    #[serde(default)]
    stderr: String,
}

fn plan() -> Vec<String> {
    vec!["plan".to_string(), "compute".to_string()]
}

impl Case {
    fn test(&self) -> Test {
        let test = Test::new();
        let Some(file) = &self.file else { return test };
        match (&self.replace, &self.append, &self.bytes, self.remove) {
            (Some(old), None, None, false) => test.replace(file, old, &self.with),
            (None, Some(text), None, false) => test.append(file, text),
            (None, None, Some(bytes), false) => test.write(file, bytes),
            (None, None, None, true) => test.remove(file),
            _ => panic!("the case `{}` must break its file in exactly one way", self.rule),
        }
    }

    /// What is not as it must be; `None` when all is.
    fn wrong(&self) -> Option<String> {
        let test = self.test();
        let ran = test.run(&self.run);
        let stderr = ran.stderr();
        let left = store::changes(&Default::default(), &store::snapshot(test.store()));
        let code = ran.output.status.code();
        let right = code == Some(1) && ran.stdout().is_empty() && stderr == self.stderr && left.is_empty();
        (!right).then(|| {
            format!(
                "{}\nexit code {code:?}, store {left:?}, stdout {:?}\n-- expected\n{}-- said\n{stderr}",
                self.rule,
                ran.stdout(),
                self.stderr
            )
        })
    }
}

#[test]
fn every_broken_input_gets_one_clear_error_and_leaves_the_store_alone() {
    let cases: Cases = toml::from_str(include_str!("fixtures/bad_input.toml")).unwrap();
    assert!(cases.case.len() >= 30);
    let wrong: Vec<String> = cases.case.iter().filter_map(Case::wrong).collect();
    assert!(wrong.is_empty(), "{} of {} cases:\n\n{}", wrong.len(), cases.case.len(), wrong.join("\n\n"));
}

/// The small project with a store that has its two packages: the lock's texts, which no build would get far with.
fn with_packages() -> Test {
    let test = Test::new();
    let blobs = test.store().join("blobs/sha256");
    for folder in ["ostack/steps", "ostack/last", "ostack/tools", "ostack/partial", "ostack/scratch"] {
        fs::create_dir_all(test.store().join(folder)).unwrap();
    }
    fs::create_dir_all(&blobs).unwrap();
    fs::write(test.store().join("ostack/lock"), "").unwrap();
    fs::write(test.store().join("ostack/meta.json"), r#"{"format":1}"#).unwrap();
    fs::write(test.store().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    for package in PACKAGES {
        fs::write(package_file(&test, package), package).unwrap();
    }
    test
}

const PACKAGES: [&str; 2] = ["erofs-utils 1.0", "systemd 1.0"];

fn package_file(test: &Test, package: &str) -> PathBuf {
    store::blob(test.store(), &Digest::of(package))
}

/// Runs `build compute --offline`, which must say this and leave the store as it was.
#[track_caller]
fn build_fails(test: &Test, stderr: &str) {
    let before = store::snapshot(test.store());
    test.run(["build", "compute", "--offline"]).fails(stderr);
    assert_eq!(store::changes(&before, &store::snapshot(test.store())), Vec::<String>::new());
}

#[test]
fn a_package_with_a_flipped_byte_is_refused_by_name() {
    harness::must_be_root();
    let test = with_packages();
    store::flip_a_byte(&package_file(&test, "erofs-utils 1.0"));
    refused_as_damaged(&test);
}

/// A file of the tools' first package has other bytes than the lock says.
fn refused_as_damaged(test: &Test) {
    let digest = Digest::of("erofs-utils 1.0");
    build_fails(
        test,
        &format!(
            "error: checking the package erofs-utils: the stored blob {digest} is damaged: its bytes have another digest\n  \
             next: remove TEST/store/blobs/sha256/{} and build again\n",
            digest.hex()
        ),
    );
}

#[test]
fn a_truncated_package_is_refused_by_name() {
    harness::must_be_root();
    let test = with_packages();
    store::spoil(&package_file(&test, "erofs-utils 1.0"), |bytes| bytes.truncate(5));
    refused_as_damaged(&test);
}

#[test]
fn a_package_that_is_whole_but_no_package_is_refused_by_name() {
    harness::must_be_root();
    let digits = Digest::of("erofs-utils 1.0").hex();
    build_fails(
        &with_packages(),
        &format!(
            "error: unpacking the package erofs-utils: reading the package TEST/store/blobs/sha256/{digits}: it is no ar \
             archive\n  next: remove it from the store; the next build fetches it again\n"
        ),
    );
}

#[test]
fn a_store_of_a_newer_program_is_refused() {
    let test = with_packages();
    fs::write(test.store().join("ostack/meta.json"), r#"{"format":2}"#).unwrap();
    build_fails(
        &test,
        "error: the store TEST/store has format 2, this program knows 1\n  next: use a newer ostack-image, or another --store\n",
    );
}

#[test]
fn a_store_whose_index_is_damaged_is_refused() {
    let test = with_packages();
    fs::write(test.store().join("index.json"), "{").unwrap();
    let before = store::snapshot(test.store());
    test.run(["store", "ls"]).fails(
        "error: reading TEST/store/index.json: EOF while parsing an object at line 1 column 1\n  \
         next: remove the file; the next build writes it again\n",
    );
    assert_eq!(store::changes(&before, &store::snapshot(test.store())), Vec::<String>::new());
}

#[test]
fn a_secret_means_the_same_in_every_overlay_that_declares_it() {
    let declared = |length| format!("\n[[secret]]\nname = \"shared\"\nlength = {length}\n");
    let declare = |second| {
        Test::new().append("overlays/base/overlay.toml", &declared(16)).append("overlays/hosts/overlay.toml", &declared(second))
    };
    declare(16).run(["plan", "compute"]).succeeds();
    declare(32).run(["plan", "compute"]).fails(
        "error: overlays/hosts/overlay.toml:11: the secret shared is declared otherwise in overlays/base/overlay.toml:33\n  \
         next: declare it alike, or give it another name\n",
    );
}

#[test]
fn a_folder_that_is_not_empty_is_not_rendered_into() {
    let test = Test::new().write("tree/mine", "text");
    test.run(["render", "compute01", "--out", "tree"])
        .fails("error: the folder tree is not empty\n  next: name an empty or a new one with --out DIR\n");
}

#[test]
fn a_wrong_command_line_is_exit_code_2() {
    for args in [&["build"][..], &["paint", "compute"], &["plan", "compute", "--colour"], &["plan", "computer"]] {
        assert_eq!(Test::new().run(args).output.status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn whoever_closes_the_output_has_read_enough() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let test = Test::new();
    let output =
        test.command(["plan", "compute", "--verbose"]).stdout(writer.try_clone().unwrap()).stderr(writer).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_result_that_cannot_be_written_is_an_error() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = Test::new().command(["plan", "compute"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = "error: writing the result to stdout: No space left on device (os error 28)\n";
    assert_eq!(String::from_utf8(output.stderr).unwrap(), stderr);
}
