//! apt itself against the tiny signed archives of `tests/fixtures/archive` (made by `archive.gen.sh`). They have no apt that
//! could be unpacked: it is the machine's here. With the locked one, `tests/bare.rs` locks.

use super::super::request::resolve;
use super::super::solver::Root;
use super::super::tests::{name, word};
use super::*;
use crate::base::fs;
use crate::base::tool::Tool;
use std::cell::RefCell;
use std::path::{Path, PathBuf};

/// The machine itself; remembers what it should have unpacked.
#[derive(Default)]
struct Machine(RefCell<Vec<String>>);

impl Roots for Machine {
    fn root(&self, packages: &[LockedPackage]) -> Result<Box<dyn Root>> {
        self.0.borrow_mut().extend(packages.iter().map(|one| format!("{} {}", one.name, one.version)));
        Ok(Box::new(Self::default()))
    }
}

impl Root for Machine {
    fn sees(&self, folder: &Path) -> PathBuf {
        folder.to_path_buf()
    }

    fn run(&self, folder: &Path, command: &[&str], env: &[(&str, &str)]) -> Result<(bool, String)> {
        let mut tool = Tool::new(command[0]).package("apt").args(&command[1..]).clear_env().env("LC_ALL", "C.UTF-8");
        tool = env.iter().fold(tool, |tool, (name, value)| tool.env(name, value));
        let log = folder.join("said");
        let handle = tool.env("PATH", std::env::var_os("PATH").unwrap()).start(&log)?;
        let output = handle.wait().doing(|| "waiting for apt-get")?;
        Ok((output.status.success(), String::from_utf8_lossy(&fs::read(&log)?).into_owned()))
    }
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/archive")
}

/// The release of the fixture: `stable`, and with it `stable-security` when asked for.
fn release(security: bool) -> Release {
    let suite =
        |name: &str, archive: &str| format!("[[suite]]\nname = \"{name}\"\narchive = \"{archive}\"\ncomponents = [\"main\"]\n");
    let mut text = format!(
        "title = \"Fixture\"\nbackend = \"deb\"\narchitecture = \"amd64\"\nkeyring = \"{}\"\npackages = {{ base = [], solver = [\"mkfs\"] }}\n",
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
    resolve(&request, old, update, &mirrors(&fixture()), &Machine::default())
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
    resolve(&request, None, &Update::None, &mirrors(folder), &Machine::default()).unwrap_err()
}

const MIRROR: &str = "\n  next: check the mirror: [mirror] in site.toml, --mirror, or this machine's apt sources";

/// What is said of the copy of the archive in `folder`, without where things are.
fn said_of(release: &Release, folder: &Path) -> String {
    let said = refused(release, folder).to_string();
    said.replace(&fixture().display().to_string(), "KEYS").replace(&folder.display().to_string(), "FOLDER")
}

fn unverified(keyring: &str, why: &str) -> String {
    format!(
        "locking fixture: the archive's signature did not verify against KEYS/{keyring}: file://FOLDER/debian/dists/stable/InRelease: \
         {why}\n  next: check that the mirror is the distribution's own and that the release's keyring has its current keys"
    )
}

#[test]
fn an_unsigned_archive_is_refused() {
    let folder = copy_of_archive();
    let path = folder.path().join("debian/dists/stable/InRelease");
    let signed = fs::read_text(&path).unwrap();
    let start = signed.find("Suite:").unwrap();
    let end = signed.find("-----BEGIN PGP SIGNATURE").unwrap();
    fs::write_atomic(&path, &signed.as_bytes()[start..end]).unwrap();
    assert_eq!(said_of(&release(false), folder.path()), unverified("archive.gpg", "it is not signed"));
    std::fs::remove_file(&path).unwrap();
    let expected = "locking fixture: the suite stable is not at this mirror, or nobody signed it: there is no \
                    file://FOLDER/debian/dists/stable/InRelease";
    assert_eq!(said_of(&release(false), folder.path()), format!("{expected}{MIRROR}"));
}

#[test]
fn an_archive_that_somebody_else_signed_is_refused() {
    let folder = copy_of_archive();
    let mut release = release(false);
    release.keyring = Some(fixture().join("stranger.gpg").display().to_string());
    let why = "it is signed by the key 36A80EE219147E53, which is not in it";
    assert_eq!(said_of(&release, folder.path()), unverified("stranger.gpg", why));
}

#[test]
fn a_release_file_that_was_changed_is_refused() {
    let folder = copy_of_archive();
    let path = folder.path().join("debian/dists/stable/InRelease");
    let changed = fs::read_text(&path).unwrap().replace("10:00:00", "10:00:01");
    fs::write_atomic(&path, changed.as_bytes()).unwrap();
    let why = "the signature of the key 36A80EE219147E53 does not fit: it was changed after it was signed";
    assert_eq!(said_of(&release(false), folder.path()), unverified("archive.gpg", why));
}

#[test]
fn a_list_that_was_changed_is_refused() {
    let folder = copy_of_archive();
    let path = folder.path().join("debian/dists/stable/main/binary-amd64/Packages");
    let digest = |path: &Path| Digest::of_file(path).unwrap();
    let (right, size) = digest(&path);
    let changed = fs::read_text(&path).unwrap().replace("5.2", "5.3");
    fs::write_atomic(&path, changed.as_bytes()).unwrap();
    let (wrong, _) = digest(&path);
    assert_eq!(
        said_of(&release(false), folder.path()),
        format!(
            "locking fixture: file://FOLDER/debian/dists/stable/main/binary-amd64/Packages has {size} bytes with {wrong}, its signed \
             InRelease says {size} bytes with {right}\n  next: if the mirror is just being updated, try again in some minutes; \
             otherwise name another one below [mirror] in site.toml"
        )
    );
    std::fs::remove_file(&path).unwrap();
    let expected = "locking fixture: file://FOLDER/debian/dists/stable/main/binary-amd64/Packages is not there, though its InRelease names it";
    assert_eq!(said_of(&release(false), folder.path()), format!("{expected}{MIRROR}"));
}

#[test]
fn an_archive_that_is_out_of_date_or_of_the_future_is_refused() {
    let read = |now: &str| Archive::read(&release(false), &mirrors(&fixture()), now.parse().unwrap()).map(|_| ());
    read("2024-06-01T09:59:50Z").unwrap();
    assert_eq!(
        read("2024-06-01T09:59:49Z").unwrap_err().to_string().replace(&fixture().display().to_string(), "FOLDER"),
        "the archive is out of date: file://FOLDER/debian/dists/stable/InRelease is dated 2024-06-01T10:00:00Z, and this machine's \
         clock says 2024-06-01T09:59:49Z\n  next: use a mirror that is up to date, and check this machine's clock"
    );
}

#[test]
fn another_suite_that_the_same_key_signed_is_refused() {
    let folder = copy_of_archive();
    let other = fixture().join("debian-security/dists/stable-security/InRelease");
    fs::write_atomic(&folder.path().join("debian/dists/stable/InRelease"), &fs::read(&other).unwrap()).unwrap();
    let expected = "locking fixture: file://FOLDER/debian/dists/stable/InRelease is of the suite stable-security (stable-security), not of stable";
    assert_eq!(said_of(&release(false), folder.path()), format!("{expected}{MIRROR}"));
}

#[test]
fn a_component_or_an_architecture_that_a_suite_lacks_is_an_error_that_lists_what_it_has() {
    let folder = copy_of_archive();
    let mut release = release(false);
    release.suites[0].components = vec!["contrib".to_string()];
    assert_eq!(
        said_of(&release, folder.path()),
        "locking fixture: the suite stable has no packages of contrib for amd64: file://FOLDER/debian/dists/stable/InRelease names the \
         components main and the architectures amd64\n  next: write components and an architecture that the suite has in the release"
    );
}

#[test]
fn a_release_without_a_keyring_or_a_solver_is_not_locked() {
    let folder = copy_of_archive();
    let mut one = release(false);
    one.packages.solver.clear();
    assert_eq!(
        said_of(&one, folder.path()),
        "locking fixture: the release does not say what solves its dependencies\n  \
         next: write solver = [\"apt\", \"dpkg\"] below [packages] in the release"
    );
    one.keyring = None;
    assert_eq!(
        said_of(&one, folder.path()),
        "locking fixture: the release names no keyring, so that no archive could be verified\n  \
         next: write keyring = \"keyrings/….asc\" in the release: a file below recipes/ with the archive's public keys"
    );
}

#[test]
fn the_solver_is_the_locked_one_as_long_as_the_archive_has_it() {
    let (name, old) = (word("fixture"), new(false, &[("base", &[]), ("solver", &["mkfs"])]));
    assert_eq!(said(&old, "solver"), ["libc 2.0 stable", "mkfs 1.0 stable"]);
    let solver = |old: Option<&ReleaseLock>, names: &[&str]| {
        let machine = Machine::default();
        let release = release(true);
        let request = Request::new(&name, &release, sets(&[("base", &[]), ("solver", names)]));
        resolve(&request, old, &Update::All, &mirrors(&fixture()), &machine).unwrap();
        machine.0.into_inner()
    };
    assert_eq!(solver(None, &["mkfs"]), ["libc 2.1", "mkfs 1.0"]);
    assert_eq!(solver(Some(&old), &["mkfs"]), ["libc 2.0", "mkfs 1.0"]);
    let mut gone = old.clone();
    gone.packages.get_mut(&"mkfs".parse().unwrap()).unwrap().version = "0.9".to_string();
    assert_eq!(solver(Some(&gone), &["mkfs"]), ["libc 2.1", "mkfs 1.0"]);
}

#[test]
fn a_newer_solver_changes_no_images_time() {
    let old = new(false, &[("base", &[])]);
    let wanted: &[(&str, &[&str])] = &[("base", &[]), ("solver", &["libproxy"])];
    let lock = run(&release(false), wanted, Some(&ReleaseLock { source_date_epoch: 7, ..old.clone() }), &Update::None).unwrap();
    assert_eq!((lock.source_date_epoch, said(&lock, "solver")), (7, vec!["libproxy 3.0 stable".to_string()]));
}

#[test]
fn an_archive_without_a_mirror_is_an_error_before_anything_is_downloaded() {
    let (name, release) = (word("fixture"), release(true));
    let request = Request::new(&name, &release, sets(&[("base", &[])]));
    let explicit = BTreeMap::from([(word("debian"), "file:///no/such/archive".to_string())]);
    let mirrors = Mirrors::find(&explicit, Path::new("/no/such/folder")).unwrap();
    let error = resolve(&request, None, &Update::None, &mirrors, &Machine::default()).unwrap_err();
    assert_has(&error, &["locking fixture: no mirror of the archive `debian-security` is known"]);
}
