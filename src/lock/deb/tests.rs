//! apt itself against the tiny signed archives of `tests/fixtures/archive` (made by `archive.gen.sh`).

use super::super::tests::{name, word};
use super::*;
use std::path::{Path, PathBuf};

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/archive")
}

/// The release of the fixture: `stable`, and with it `stable-security` when asked for.
fn release(security: bool) -> Release {
    let suite =
        |name: &str, archive: &str| format!("[[suite]]\nname = \"{name}\"\narchive = \"{archive}\"\ncomponents = [\"main\"]\n");
    let mut text = format!(
        "title = \"Fixture\"\nbackend = \"deb\"\narchitecture = \"amd64\"\nkeyring = \"{}\"\npackages = {{ base = [] }}\n",
        fixture().join("archive.gpg").display()
    );
    text += &suite("stable", "debian");
    if security {
        text += &suite("stable-security", "debian-security");
    }
    crate::model::release::parse(&crate::model::Source { file: Path::new("fixture.toml"), text: &text }).unwrap()
}

fn mirrors(folder: &Path) -> Mirrors {
    let explicit = BTreeMap::from([(word("debian"), format!("file://{}/debian", folder.display()))]);
    Mirrors::find(&explicit, Path::new("/no/such/folder")).unwrap()
}

fn sets(sets: &[(&str, &[&str])]) -> BTreeMap<Word, BTreeSet<PackageName>> {
    sets.iter().map(|(set, names)| (word(set), names.iter().map(|one| name(one)).collect())).collect()
}

fn run(release: &Release, wanted: &[(&str, &[&str])], old: Option<&ReleaseLock>, update: &Update) -> Result<ReleaseLock> {
    let name = word("fixture");
    let request = Request::new(&name, release, sets(wanted));
    resolve(&request, old, update, &mirrors(&fixture()))
}

fn new(security: bool, wanted: &[(&str, &[&str])]) -> ReleaseLock {
    run(&release(security), wanted, None, &Update::None).unwrap()
}

/// `NAME VERSION SUITE` of a set.
fn said(lock: &ReleaseLock, set: &str) -> Vec<String> {
    lock.set(&word(set)).iter().map(|one| format!("{} {} {}", one.name, one.version, one.suite)).collect()
}

fn only(names: &[&str]) -> Update {
    Update::Only(names.iter().map(|one| name(one)).collect())
}

#[test]
fn a_locked_package_is_what_the_verified_list_says() {
    let lock = new(true, &[("base", &["init"])]);
    let libc = LockedPackage {
        name: name("libc"),
        version: "2.1".to_string(),
        arch: word("amd64"),
        size: 3,
        sha256: Digest::of("2.1"),
        path: "pool/main/libc_2.1_amd64.deb".parse().unwrap(),
        archive: word("debian-security"),
        suite: "stable-security".to_string(),
        date: "2024-06-02T11:30:00Z".parse().unwrap(),
        sets: BTreeSet::from([word("base")]),
    };
    assert_eq!(lock.packages[&name("libc")], libc);
    assert_eq!(lock.requested, sets(&[("base", &["init"])]));
}

#[test]
fn suites_are_locked_with_date_and_digest_and_the_newest_is_the_epoch() {
    let lock = new(true, &[("base", &[])]);
    let said: Vec<String> =
        lock.suites.iter().map(|suite| format!("{} {} {} {}", suite.name, suite.archive, suite.date, suite.sha256)).collect();
    let digest = |path: &str| Digest::of_file(&fixture().join(path)).unwrap().0;
    assert_eq!(
        said,
        [
            format!("stable debian 2024-06-01T10:00:00Z {}", digest("debian/dists/stable/InRelease")),
            format!(
                "stable-security debian-security 2024-06-02T11:30:00Z {}",
                digest("debian-security/dists/stable-security/InRelease")
            ),
        ]
    );
    assert_eq!(lock.source_date_epoch, 1_717_327_800);
}

#[test]
fn base_has_the_essential_packages_roles_have_all_of_base_and_tools_only_what_they_need() {
    let lock = new(false, &[("base", &["init"]), ("controller", &["proxy"]), ("compute", &[]), ("tools", &["mkfs"])]);
    assert_eq!(said(&lock, "base"), ["bash 5.2 stable", "init 1.0 stable", "libc 2.0 stable"]);
    assert_eq!(
        said(&lock, "controller"),
        ["bash 5.2 stable", "init 1.0 stable", "libc 2.0 stable", "libproxy 3.0 stable", "proxy 3.0 stable"]
    );
    assert_eq!(said(&lock, "compute"), said(&lock, "base"));
    assert_eq!(said(&lock, "tools"), ["libc 2.0 stable", "mkfs 1.0 stable"]);
}

#[test]
fn a_new_lock_takes_the_newest_version_of_all_suites() {
    let lock = new(true, &[("controller", &["proxy"])]);
    assert_eq!(
        said(&lock, "controller"),
        ["bash 5.2 stable", "libc 2.1 stable-security", "libproxy 3.1 stable-security", "proxy 3.1 stable-security"]
    );
}

#[test]
fn locking_again_keeps_what_the_archive_still_has() {
    let old = new(false, &[("controller", &["proxy"])]);
    let lock = run(&release(true), &[("controller", &["proxy"]), ("storage", &["mkfs"])], Some(&old), &Update::None).unwrap();
    let changes: Vec<String> = ReleaseLock::diff(&old, &lock).iter().map(ToString::to_string).collect();
    assert_eq!(changes, ["mkfs 1.0 added"]);
}

#[test]
fn locking_again_with_nothing_new_keeps_suites_and_epoch() {
    let wanted: &[(&str, &[&str])] = &[("controller", &["proxy"])];
    let mut old = new(false, wanted);
    old.source_date_epoch -= 60;
    old.suites[0].date = "2024-06-01T09:59:00Z".parse().unwrap();
    for package in old.packages.values_mut() {
        package.date = old.suites[0].date;
    }
    assert_eq!(run(&release(false), wanted, Some(&old), &Update::None).unwrap(), old);
}

#[test]
fn updating_all_takes_the_newest_versions() {
    let old = new(false, &[("controller", &["proxy"])]);
    let lock = run(&release(true), &[("controller", &["proxy"])], Some(&old), &Update::All).unwrap();
    let changes: Vec<String> = ReleaseLock::diff(&old, &lock).iter().map(ToString::to_string).collect();
    assert_eq!(changes, ["libc 2.0 -> 2.1", "libproxy 3.0 -> 3.1", "proxy 3.0 -> 3.1"]);
}

#[test]
fn updating_one_package_takes_its_source_along_and_nothing_else() {
    let old = new(false, &[("controller", &["proxy"])]);
    let lock = run(&release(true), &[("controller", &["proxy"])], Some(&old), &only(&["libproxy"])).unwrap();
    let changes: Vec<String> = ReleaseLock::diff(&old, &lock).iter().map(ToString::to_string).collect();
    assert_eq!(changes, ["libproxy 3.0 -> 3.1", "proxy 3.0 -> 3.1"]);
}

#[test]
fn a_new_package_frees_the_kept_versions_that_it_cannot_go_with() {
    let old = new(false, &[("controller", &["proxy", "queue"])]);
    let lock = run(&release(true), &[("controller", &["proxy", "queue", "console"])], Some(&old), &Update::None).unwrap();
    let changes: Vec<String> = ReleaseLock::diff(&old, &lock).iter().map(ToString::to_string).collect();
    assert_eq!(changes, ["console 1.0 added", "libqueue 1.0 -> 1.1"]);
}

#[test]
fn a_version_that_the_archive_dropped_is_replaced() {
    let mut old = new(false, &[("controller", &["proxy"])]);
    old.packages.get_mut(&name("proxy")).unwrap().version = "2.9".to_string();
    let lock = run(&release(false), &[("controller", &["proxy"])], Some(&old), &Update::None).unwrap();
    let changes: Vec<String> = ReleaseLock::diff(&old, &lock).iter().map(ToString::to_string).collect();
    assert_eq!(changes, ["proxy 2.9 -> 3.0"]);
}

#[test]
fn updating_what_is_not_locked_is_an_error() {
    let error = run(&release(false), &[("controller", &["proxy"])], None, &only(&["proxi"])).unwrap_err().to_string();
    assert_eq!(
        error,
        "locking fixture: `proxi` cannot be updated: it is not locked\n  next: name packages of ostack.lock, or none to update all"
    );
}

#[test]
fn packages_that_do_not_exist_are_named_with_their_sets() {
    let wanted: &[(&str, &[&str])] = &[("compute", &["libvert"]), ("controller", &["mail-server", "prxy", "proxy"])];
    assert_eq!(
        run(&release(true), wanted, None, &Update::None).unwrap_err().to_string(),
        "locking fixture: there is no package `libvert`, which compute asks for; \
         `mail-server`, which controller asks for, is virtual: exim, postfix provide it; \
         there is no package `prxy`, which controller asks for (in stable, stable-security)\n  \
         next: write the name of a package that these suites have"
    );
}

/// apt's phrasing differs between versions, so only the words that every one uses are compared.
fn assert_has(error: &Error, words: &[&str]) {
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
}

#[test]
fn what_the_solver_cannot_satisfy_is_said_in_its_own_words() {
    let error = run(&release(false), &[("base", &[]), ("controller", &["broken"])], None, &Update::None).unwrap_err();
    assert_has(
        &error,
        &["locking fixture: solving the set controller: apt finds no solution:\n", "broken", "no-such-thing (>= 2)"],
    );
    let error = run(&release(false), &[("base", &["init"]), ("controller", &["rival"])], None, &Update::None).unwrap_err();
    assert_has(&error, &["solving the set controller", "rival : Conflicts: init"]);
}

/// The archives' lists, copied so that a test can spoil them.
fn copy_of_archive() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for path in ["debian/dists/stable/InRelease", "debian/dists/stable/main/binary-amd64/Packages"] {
        fs::write_atomic(&folder.path().join(path), &fs::read(&fixture().join(path)).unwrap()).unwrap();
    }
    folder
}

fn refused(release: &Release, folder: &Path) -> Error {
    let name = word("fixture");
    let request = Request::new(&name, release, sets(&[("base", &[])]));
    resolve(&request, None, &Update::None, &mirrors(folder)).unwrap_err()
}

const UNVERIFIED: &str = "locking fixture: the archive's signature did not verify against ";

#[test]
fn an_unsigned_archive_is_refused() {
    let folder = copy_of_archive();
    let suite = folder.path().join("debian/dists/stable");
    let signed = fs::read_text(&suite.join("InRelease")).unwrap();
    let start = signed.find("Suite:").unwrap();
    let end = signed.find("-----BEGIN PGP SIGNATURE").unwrap();
    std::fs::remove_file(suite.join("InRelease")).unwrap();
    fs::write_atomic(&suite.join("Release"), &signed.as_bytes()[start..end]).unwrap();
    assert_has(&refused(&release(false), folder.path()), &[UNVERIFIED, "is not signed"]);
}

#[test]
fn an_archive_that_somebody_else_signed_is_refused() {
    let mut release = release(false);
    release.keyring = Some(fixture().join("stranger.gpg").display().to_string());
    assert_has(&refused(&release, &fixture()), &[UNVERIFIED, "stranger.gpg", "is not signed"]);
}

#[test]
fn a_release_file_that_was_changed_is_refused() {
    let folder = copy_of_archive();
    let path = folder.path().join("debian/dists/stable/InRelease");
    let changed = fs::read_text(&path).unwrap().replace("10:00:00", "10:00:01");
    fs::write_atomic(&path, changed.as_bytes()).unwrap();
    assert_has(&refused(&release(false), folder.path()), &[UNVERIFIED]);
}

#[test]
fn a_list_that_was_changed_is_refused() {
    let folder = copy_of_archive();
    let path = folder.path().join("debian/dists/stable/main/binary-amd64/Packages");
    let changed = fs::read_text(&path).unwrap().replace("5.2", "5.3");
    fs::write_atomic(&path, changed.as_bytes()).unwrap();
    assert_has(&refused(&release(false), folder.path()), &["apt could not get the archive's lists", "Hash Sum mismatch"]);
}

#[test]
fn a_suite_that_is_not_there_is_an_error() {
    let mut release = release(false);
    release.suites[0].name = "unstable".to_string();
    assert_has(&refused(&release, &fixture()), &["apt could not get the archive's lists", "unstable", "next: check the mirror"]);
}

#[test]
fn a_release_without_a_keyring_is_not_locked() {
    let mut release = release(false);
    release.keyring = None;
    assert_eq!(
        refused(&release, &fixture()).to_string(),
        "locking fixture: the release names no keyring, so that no archive could be verified\n  \
         next: write keyring = \"/usr/share/keyrings/….gpg\" in the release"
    );
}

#[test]
fn an_archive_without_a_mirror_is_an_error_before_anything_is_downloaded() {
    let (name, release) = (word("fixture"), release(true));
    let request = Request::new(&name, &release, sets(&[("base", &[])]));
    let explicit = BTreeMap::from([(word("debian"), "file:///no/such/archive".to_string())]);
    let mirrors = Mirrors::find(&explicit, Path::new("/no/such/folder")).unwrap();
    let error = resolve(&request, None, &Update::None, &mirrors).unwrap_err();
    assert_has(&error, &["locking fixture: no mirror of the archive `debian-security` is known"]);
}
