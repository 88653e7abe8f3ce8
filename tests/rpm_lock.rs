//! Packages of rpm repositories before they are installed: found by dnf, locked, fetched, and refused where no trusted key
//! vouches for them.

mod harness;

use harness::role::lock_of;
use harness::rpm::{Repository, Signed};
use harness::{Test, store};
use ostack_image::base::digest::Digest;
use std::fs;

const LOCK: &str = include_str!("fixtures/rpm/expected/lock.toml");

/// What `lock` says first: of a machine's own solver also which.
fn asking() -> String {
    format!("  asking dnf {} of this machine for the packages of fixture …\n", ostack_image::lock::rpm::machine().unwrap())
}

/// The lock's text up to the tools; what differs whenever the packages are built again reads `N`, `DATE` and `SHA256`.
fn locked(test: &Test) -> String {
    let text = fs::read_to_string(test.project().join("ostack.lock")).unwrap();
    let mut text = text.split("\n[release.fixture.tools]").next().unwrap().to_string();
    let lock = lock_of(test, "fixture");
    text = text.replace(&format!("source_date_epoch = {}\n", lock.source_date_epoch), "source_date_epoch = N\n");
    for suite in &lock.suites {
        text = text.replace(&suite.sha256.hex(), "SHA256").replace(&suite.date.to_string(), "DATE");
    }
    for package in lock.packages.values() {
        text = text.replace(&package.sha256.hex(), "SHA256").replace(&format!("size = {},", package.size), "size = N,");
    }
    text
}

#[test]
fn a_lock_has_the_newest_versions_by_epoch_and_nothing_that_is_only_recommended() {
    let repository = Repository::new(Signed::Trusted, &[]);
    let test = repository.project();
    test.run(["lock"]).prints("ostack.lock: 6 packages\n");
    assert_eq!(locked(&test), LOCK);
}

#[test]
fn locking_again_changes_nothing_and_keeps_versions_that_are_no_longer_the_newest() {
    let repository = Repository::new(Signed::Trusted, &["libtick"]);
    repository.add("libtick-2.0", Signed::Trusted).describe();
    let test = repository.project();
    test.run(["lock"]).succeeds();
    let first = fs::read(test.project().join("ostack.lock")).unwrap();
    repository.add("libtick-0.5", Signed::Trusted).describe();
    test.run(["lock"]).prints("ostack.lock: 6 packages, 0 changed\n");
    assert_eq!(fs::read(test.project().join("ostack.lock")).unwrap(), first);
    test.run(["lock", "--update", "tick"]).prints("ostack.lock: 6 packages, 0 changed\n");
    test.run(["lock", "--update", "libtick"]).prints("libtick 2.0-1 -> 1:0.5-1\nostack.lock: 6 packages, 1 changed\n");
}

#[test]
fn a_kept_version_that_stands_in_the_way_of_a_new_package_gives_way() {
    let repository = Repository::new(Signed::Trusted, &["libtick", "tick"]);
    repository.add("libtick-1.0", Signed::Trusted).describe();
    let test = repository.project().replace("overlays/tick/overlay.toml", "\"tick\"]", "\"libtick\"]");
    test.run(["lock"]).succeeds();
    repository.add("libtick-2.0", Signed::Trusted).add("tick-3.1", Signed::Trusted).describe();
    let test = test.replace("overlays/tick/overlay.toml", "\"libtick\"]", "\"libtick\", \"tick\"]");
    test.run(["lock"]).prints("libtick 1.0-1 -> 2.0-1\ntick 3.1-4.fx1 added\nostack.lock: 6 packages, 2 changed\n");
}

#[test]
fn what_a_repository_excludes_is_not_taken_from_it() {
    let repository = Repository::new(Signed::Trusted, &[]);
    let test = repository.project();
    let path = "path = \"/os/x86_64\"\n";
    let test = test.replace("recipes/releases/fixture.toml", path, &format!("{path}exclude = [\"tick\", \"sound*\"]\n"));
    test.run(["lock"]).fails(&format!(
        "{}error: locking fixture: there is no package `tick`, which compute asks for (in os)\n  \
         next: write the name of a package that these repositories have\n",
        asking()
    ));
}

#[test]
fn of_two_repositories_the_one_with_the_smaller_priority_is_taken_whatever_the_versions() {
    let old = Repository::new(Signed::Trusted, &["libtick"]);
    old.add("libtick-2.0", Signed::Trusted).describe();
    let new = Repository::new(Signed::Trusted, &[]);
    let more = "[[suite]]\nname = \"more\"\narchive = \"more\"\npath = \"/os/x86_64\"\npriority = 10\n\n[packages]\n";
    let test = new.project().replace("recipes/releases/fixture.toml", "[packages]\n", more);
    let test = test.replace("site.toml", "[mirror]\n", &format!("[mirror]\nmore = \"{}\"\n", old.url()));
    let test = test.append("site.toml", "more = [\"keys/trusted.asc\"]\n");
    test.run(["lock"]).succeeds();
    let lock = lock_of(&test, "fixture");
    let said: Vec<String> = lock.packages.values().map(|one| format!("{} {} {}", one.name, one.version, one.suite)).collect();
    assert_eq!(
        said,
        [
            "kernel 1.0-1 more",
            "layout 1-1 more",
            "libtick 2.0-1 more",
            "reach 1-1 more",
            "shell 1.35.0-2 more",
            "tick 3.1-4.fx1 more"
        ]
    );
}

#[test]
fn packages_that_do_not_exist_or_cannot_be_installed_are_named_with_their_set_and_nothing_is_written() {
    let repository = Repository::new(Signed::Trusted, &[]);
    let asked = |names: &str| {
        let test = repository.project().replace("overlays/tick/overlay.toml", "\"tick\"]", names);
        let ran = test.run(["lock"]);
        assert!(!test.project().join("ostack.lock").exists());
        ran
    };
    let asking = asking() + "error: locking fixture: ";
    asked("\"tock\", \"tuck\"]").fails(&format!(
        "{asking}there is no package `tock`, which compute asks for; there is no package `tuck`, which compute asks for (in os)\n  \
         next: write the name of a package that these repositories have\n"
    ));
    // Newer versions of dnf also say which repository a package is from.
    let ran = asked("\"broken\"]");
    assert_eq!(
        (ran.output.status.code(), ran.stderr().replace(" from os\n", "\n")),
        (
            Some(1),
            format!(
                "{asking}solving the set compute: dnf finds no solution:\nProblem: conflicting requests\n  \
                 - nothing provides nowhere >= 7 needed by broken-1-1.noarch\n  \
                 next: take one of the packages out of the recipes, or add the repository that has what is missing\n"
            )
        )
    );
}

#[test]
fn an_archive_without_a_url_or_a_key_is_an_error_that_says_what_to_write() {
    let repository = Repository::new(Signed::Trusted, &[]);
    let asking = asking() + "error: locking fixture: ";
    let test = repository.project().replace("site.toml", &format!("fixture = \"{}\"\n", repository.url()), "");
    test.run(["lock"]).fails(&format!(
        "{asking}no mirror of the archive `fixture` is known\n  next: write fixture = \"URL\" below [mirror] in site.toml\n"
    ));
    let test = repository.project().replace("site.toml", "fixture = [\"keys/trusted.asc\"]\n", "");
    test.run(["lock"]).fails(&format!(
        "{asking}no key of the archive `fixture` is known, so that nothing of it could be verified\n  \
         next: write fixture = [\"FILE\"] below [trust] in site.toml: the archive's public key, after comparing its \
         fingerprint with the published one\n"
    ));
    let test = repository.project().remove("keys");
    test.run(["lock"]).fails(&format!(
        "{asking}a key of the archive `fixture` keys/trusted.asc does not exist\n  next: name its file below [trust] in site.toml\n"
    ));
}

#[test]
fn signed_metadata_vouches_for_unsigned_packages() {
    let repository = Repository::new(Signed::Not, &[]);
    repository.sign(Signed::Trusted);
    let test = repository.project();
    test.run(["lock"]).succeeds();
    assert_eq!(locked(&test), LOCK.replace(", signed = false", ""));
    // All are fetched; without tools nothing is installed.
    let ran = test.run(["build", "compute"]);
    assert!(ran.stderr().contains("\nerror: the tools' rpm "), "{}", ran.stderr());
    assert_eq!(fs::read_dir(test.store().join("blobs/sha256")).unwrap().count(), 6);
}

#[test]
fn metadata_signed_with_a_key_that_is_not_trusted_is_refused() {
    let repository = Repository::new(Signed::Trusted, &[]);
    repository.sign(Signed::Strange);
    let test = repository.project();
    let ran = test.run(["lock"]);
    let said = ran.stderr().replace(&repository.url(), "URL");
    let key = said.split("by the key ").nth(1).unwrap_or_default().split(',').next().unwrap();
    assert_eq!(
        said,
        format!(
            "{}error: locking fixture: reading the repository os: URL/os/x86_64/repodata/repomd.xml did not verify against the \
             archive's keys: it is signed by the key {key}, which is not in it\n  \
             next: check its URL below [mirror] and its keys below [trust] in site.toml\n",
            asking()
        )
    );
    assert!(!test.project().join("ostack.lock").exists());
}

/// `build` of a project that is locked: what it says of the package `sound`, which it must not take.
fn refused(repository: &Repository) -> String {
    let test = repository.project().replace("overlays/tick/overlay.toml", "\"tick\"]", "\"sound\"]");
    test.run(["lock"]).succeeds();
    let digest = lock_of(&test, "fixture").packages[&"sound".parse().unwrap()].sha256;
    let ran = test.run(["build", "compute"]);
    assert_eq!(ran.output.status.code(), Some(1));
    assert!(!store::blob(test.store(), &digest).exists());
    assert_eq!(fs::read_dir(test.store().join("ostack/partial")).unwrap().count(), 0);
    let said = ran.stderr();
    let said = said.split("\nerror: ").nth(1).unwrap_or_default().replace(&repository.url(), "URL");
    said.trim_end().to_string()
}

#[test]
fn a_package_that_nobody_signed_reaches_no_store() {
    let repository = Repository::new(Signed::Trusted, &["sound"]);
    repository.add("sound", Signed::Not).describe();
    assert_eq!(
        refused(&repository),
        "getting sound 1-1 from URL/os/x86_64/p/sound-1-1.noarch.rpm: no one has signed it, nor its repository's metadata\n  \
         next: name a mirror of fixture below [mirror] in site.toml that has signed packages, or sign the repository \
         (repodata/repomd.xml.asc) and lock again"
    );
}

#[test]
fn a_package_signed_with_a_strange_key_reaches_no_store() {
    let repository = Repository::new(Signed::Trusted, &["sound"]);
    repository.add("sound", Signed::Strange).describe();
    let said = refused(&repository);
    let key = said.split("trusted: ").nth(1).unwrap().split('\n').next().unwrap();
    assert_eq!(
        said,
        format!(
            "getting sound 1-1 from URL/os/x86_64/p/sound-1-1.noarch.rpm: it is signed with a key that is not trusted: {key}\n  \
             next: if that is a key that the distribution publishes, add its file to fixture below [trust] in site.toml; \
             otherwise name another mirror"
        )
    );
}

#[test]
fn a_package_that_was_changed_after_signing_reaches_no_store() {
    let repository = Repository::new(Signed::Trusted, &[]);
    // The last byte of the payload: the header, which is signed, has the payload's digest.
    store::spoil(&repository.file("sound"), |bytes| *bytes.last_mut().unwrap() ^= 1);
    repository.describe();
    let said = refused(&repository);
    let (first, rest) = said.split_once('\n').unwrap();
    let digest = first.rsplit(':').next().unwrap();
    let found = first.split("sha256:").nth(1).unwrap().split(',').next().unwrap();
    assert_eq!(
        first,
        format!(
            "getting sound 1-1 from URL/os/x86_64/p/sound-1-1.noarch.rpm: its signature does not hold: its payload has \
             sha256:{found}, its signed header says sha256:{digest}"
        )
    );
    assert_eq!(rest, "  next: name another mirror of fixture below [mirror] in site.toml");
}

#[test]
fn a_package_that_was_changed_after_locking_reaches_no_store() {
    let repository = Repository::new(Signed::Trusted, &[]);
    let test = repository.project();
    test.run(["lock"]).succeeds();
    store::flip_a_byte(&repository.file("tick"));
    let lock = lock_of(&test, "fixture");
    let there = Digest::of_file(&repository.file("tick")).unwrap().0;
    let ran = test.run(["build", "compute"]);
    let said = ran.stderr().replace(&repository.url(), "URL");
    assert_eq!(
        said.split("\nerror: ").nth(1).unwrap(),
        format!(
            "getting tick 3.1-4.fx1 from URL/os/x86_64/p/tick-3.1-4.fx1.x86_64.rpm: the file has {there}, the lock says {}\n  \
             next: name another mirror below [mirror] in site.toml, or lock what this one has with `ostack-image lock --update tick`\n",
            lock.packages[&"tick".parse().unwrap()].sha256
        )
    );
}
