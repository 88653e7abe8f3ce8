//! A release of rpm packages: real packages in a real repository, locked, fetched, verified, installed into layers.

mod harness;

use harness::role::{default_store, lock_of, put_packages, remove_at_exit};
use harness::rpm::{Repository, Signed, tool};
use harness::{Test, leftovers, store};
use ostack_image::base::digest::Digest;
use ostack_image::layer::erofs::Tools;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Once, OnceLock};

/// Everything locked and built once, from a server on this machine; none of the tests writes to it.
struct Image {
    test: Test,
    json: Value,
    left: Vec<String>,
}

impl Image {
    /// The blob of a layer, from the bottom.
    fn blob(&self, layer: usize) -> Digest {
        let image = self.test.run(["inspect", "compute", "--json"]).json();
        image["layers"][layer]["blob"]["digest"].as_str().unwrap().parse().unwrap()
    }
}

fn image() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| {
        harness::must_be_root();
        let repository = Repository::new(Signed::Trusted, &[]).kept();
        let test = repository.whole_project(&repository.serve());
        remove_at_exit(test.folder());
        test.run(["lock"]).succeeds();
        // Tools are Debian's packages, which a store of this machine may have already.
        put_packages(&test, &default_store(), &lock_of(&test, "fixture"));
        let json = test.run(["build", "compute", "--json"]).json();
        let left = leftovers::of(test.folder());
        std::mem::forget(repository);
        Image { test, json, left }
    })
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

const LOCK: &str = r#"# Which package of which version the images are made of. Written by `ostack-image lock`.
version = 1

[release.fixture]
source_date_epoch = N
requested.base = [
  "layout",
  "reach",
  "shell",
]
requested.compute = [
  "tick",
]
requested.kernel-tiny = [
  "kernel",
]
suite = [
  { name = "os", archive = "fixture", date = "DATE", sha256 = "SHA256", signed = false },
]
package = [
  { name = "kernel", version = "1.0-1", arch = "x86_64", size = N, sha256 = "SHA256", path = "os/x86_64/p/kernel-1.0-1.x86_64.rpm", archive = "fixture", suite = "os", date = "DATE", sets = ["kernel-tiny"] },
  { name = "layout", version = "1-1", arch = "noarch", size = N, sha256 = "SHA256", path = "os/x86_64/p/layout-1-1.noarch.rpm", archive = "fixture", suite = "os", date = "DATE", sets = ["base", "compute", "kernel-tiny"] },
  { name = "libtick", version = "1:0.5-1", arch = "x86_64", size = N, sha256 = "SHA256", path = "os/x86_64/p/libtick-0.5-1.x86_64.rpm", archive = "fixture", suite = "os", date = "DATE", sets = ["compute"] },
  { name = "reach", version = "1-1", arch = "x86_64", size = N, sha256 = "SHA256", path = "os/x86_64/p/reach-1-1.x86_64.rpm", archive = "fixture", suite = "os", date = "DATE", sets = ["base", "compute", "kernel-tiny"] },
  { name = "shell", version = "1.35.0-2", arch = "x86_64", size = N, sha256 = "SHA256", path = "os/x86_64/p/shell-1.35.0-2.x86_64.rpm", archive = "fixture", suite = "os", date = "DATE", sets = ["base", "compute", "kernel-tiny"] },
  { name = "tick", version = "3.1-4.fx1", arch = "x86_64", size = N, sha256 = "SHA256", path = "os/x86_64/p/tick-3.1-4.fx1.x86_64.rpm", archive = "fixture", suite = "os", date = "DATE", sets = ["compute"] },
]
"#;

const SYSTEM: &str = "\
0755     0:0     directory /
0777     0:0     link      /bin usr/bin
0755     0:0     directory /boot
0644     0:0     file      /boot/vmlinuz-1.0-1 10
0755     0:0     directory /dev
0755     0:0     directory /etc
0644     0:0     file      /etc/group 35
0400     0:0     file      /etc/gshadow 27
0644     0:0     file      /etc/os-release 13
0644     0:0     file      /etc/passwd 110
0400     0:0     file      /etc/shadow 45
0755     0:0     directory /etc/systemd
0755     0:0     directory /etc/systemd/system-preset
0644     0:0     file      /etc/systemd/system-preset/98-ostack.preset 54
0777     0:0     link      /lib usr/lib
0777     0:0     link      /lib64 usr/lib64
0555     0:0     directory /proc
0550     0:0     directory /root
0755     0:0     directory /run
0777     0:0     link      /sbin usr/sbin
0555     0:0     directory /sys
1777     0:0     directory /tmp
0755     0:0     directory /usr
0755     0:0     directory /usr/bin
0755     0:0     file      /usr/bin/busybox SIZE
0777     0:0     link      /usr/bin/cat busybox
0777     0:0     link      /usr/bin/chmod busybox
0777     0:0     link      /usr/bin/find busybox
0777     0:0     link      /usr/bin/grep busybox
0777     0:0     link      /usr/bin/ln busybox
0777     0:0     link      /usr/bin/mkdir busybox
0755     0:0     file      /usr/bin/reach SIZE
0777     0:0     link      /usr/bin/rm busybox
0777     0:0     link      /usr/bin/sh busybox
0777     0:0     link      /usr/bin/sort busybox
0755     0:0     directory /usr/lib
0755     0:0     directory /usr/lib/modules
0755     0:0     directory /usr/lib/modules/1.0-1
0644     0:0     file      /usr/lib/modules/1.0-1/modules.alias 0
0644     0:0     file      /usr/lib/modules/1.0-1/modules.builtin 29
0644     0:0     file      /usr/lib/modules/1.0-1/modules.dep 0
0644     0:0     file      /usr/lib/modules/1.0-1/modules.devname 0
0644     0:0     file      /usr/lib/modules/1.0-1/modules.softdep 0
0644     0:0     file      /usr/lib/modules/1.0-1/modules.symbols 0
0755     0:0     directory /usr/lib64
0755     0:0     directory /usr/sbin
0755     0:0     directory /var
0755     0:0     directory /var/lib
0755     0:0     directory /var/lib/rpm
0644     0:0     file      /var/lib/rpm/rpmdb.sqlite SIZE
0755     0:0     directory /var/log
1777     0:0     directory /var/tmp
";

const PACKAGES: &str = "\
0755     0:0     directory /
0755     0:0     directory /etc
0755     0:0     directory /etc/systemd
0755     0:0     directory /etc/systemd/system
0640     0:550   file      /etc/tick.conf 13
0755     0:0     directory /usr
0755     0:0     directory /usr/lib
0755     0:0     directory /usr/lib/systemd
0755     0:0     directory /usr/lib/systemd/system
0644     0:0     file      /usr/lib/systemd/system/tick.service 73
0755     0:0     directory /usr/lib64
0644     0:0     file      /usr/lib64/libtick.so 4
0755     0:0     directory /usr/sbin
0755     0:0     file      /usr/sbin/tick 20
0755     0:0     directory /var
0755     0:0     directory /var/lib
0755     0:0     directory /var/lib/rpm
0644     0:0     file      /var/lib/rpm/rpmdb.sqlite SIZE
0750   550:550   directory /var/lib/tick
0644     0:0     file      /var/lib/tick/account 48
0755     0:0     directory /var/log
1777     0:0     directory /var/tmp
";

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
    test.run(["lock"]).fails(
        "  asking dnf for the packages of fixture …\nerror: locking fixture: there is no package `tick`, which compute asks for (in os)\n  \
         next: write the name of a package that these repositories have\n",
    );
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
    let asking = "  asking dnf for the packages of fixture …\nerror: locking fixture: ";
    asked("\"tock\", \"tuck\"]").fails(&format!(
        "{asking}there is no package `tock`, which compute asks for; there is no package `tuck`, which compute asks for (in os)\n  \
         next: write the name of a package that these repositories have\n"
    ));
    asked("\"broken\"]").fails(&format!(
        "{asking}solving the set compute: dnf finds no solution:\nProblem: conflicting requests\n  \
         - nothing provides nowhere >= 7 needed by broken-1-1.noarch\n  \
         next: take one of the packages out of the recipes, or add the repository that has what is missing\n"
    ));
}

#[test]
fn an_archive_without_a_url_or_a_key_is_an_error_that_says_what_to_write() {
    let repository = Repository::new(Signed::Trusted, &[]);
    let asking = "  asking dnf for the packages of fixture …\nerror: locking fixture: ";
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
    test.run(["lock"]).fails(
        "  asking dnf for the packages of fixture …\n\
         error: locking fixture: dnf could not read or verify a repository:\n\
         Failed to download metadata for repo 'os': repomd.xml GPG signature verification error: Bad GPG signature\n  \
         next: check its URL below [mirror] and its keys below [trust] in site.toml\n",
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
    let key = said.split("key ID ").nth(1).unwrap().split(':').next().unwrap();
    assert_eq!(
        said,
        format!(
            "getting sound 1-1 from URL/os/x86_64/p/sound-1-1.noarch.rpm: it is signed with a key that is not trusted: \
             Header V4 RSA/SHA512 Signature, key ID {key}: NOKEY\n  \
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
    assert_eq!(first, "getting sound 1-1 from URL/os/x86_64/p/sound-1-1.noarch.rpm: its signature does not hold:");
    let bad: Vec<&str> = rest
        .lines()
        .filter(|line| line.contains("Payload SHA256 digest"))
        .map(|line| line.split(" (").next().unwrap().trim())
        .collect();
    assert_eq!(bad, ["Payload SHA256 digest: BAD"]);
    assert_eq!(rest.lines().last().unwrap(), "  next: name another mirror of fixture below [mirror] in site.toml");
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

/// What `inspect --files` says of a layer, without the sizes of what is not the fixture's own.
fn files(test: &Test, layer: &str) -> String {
    let ran = test.run(["inspect", "compute", "--files", layer]);
    ran.succeeds();
    let mut said = String::new();
    for line in ran.stdout().lines() {
        let (path, _) = line.rsplit_once(' ').unwrap();
        let foreign = path.ends_with("/usr/bin/busybox") || path.ends_with("/usr/bin/reach");
        let database = path.ends_with("/rpmdb.sqlite");
        said += &if foreign || database { format!("{path} SIZE") } else { line.to_string() };
        said.push('\n');
    }
    said
}

#[test]
fn layers_have_the_packages_files_with_modes_and_fixed_owners_and_nothing_that_installing_leaves() {
    let test = duplicate();
    assert_eq!(files(&test, "system"), SYSTEM);
    assert_eq!(files(&test, "packages"), PACKAGES);
}

/// The shared project with a store of its own that has the image.
fn duplicate() -> Test {
    let test = with_lock();
    store::duplicate(image().test.store(), test.store());
    test
}

/// The shared project with its lock, and an empty store.
fn with_lock() -> Test {
    let project = image().test.project();
    let read = |file: &str| fs::read(project.join(file)).unwrap();
    let test = Test::rpm().write("keys/trusted.asc", read("keys/trusted.asc"));
    test.write("site.toml", read("site.toml")).write("ostack.lock", read("ostack.lock"))
}

/// System and packages of a project's image, one over the other.
fn root(test: &Test) -> PathBuf {
    static PROGRAM: Once = Once::new();
    // SAFETY: only here, and the sandbox is entered only after it.
    PROGRAM.call_once(|| unsafe { std::env::set_var("OSTACK_IMAGE_PROGRAM", harness::PROGRAM) });
    let root = test.folder().join("root");
    fs::create_dir(&root).unwrap();
    let tools = fs::read_dir(test.store().join("ostack/tools")).unwrap().next().unwrap().unwrap().path();
    for layer in test.run(["inspect", "compute", "--json"]).json()["layers"].as_array().unwrap().iter().take(2) {
        let blob = store::blob(test.store(), &layer["blob"]["digest"].as_str().unwrap().parse().unwrap());
        Tools { root: &tools }.extract_erofs(&blob, &root).unwrap();
    }
    root
}

/// The build machine's rpm, with the database of a root.
fn rpm(root: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("rpm");
    command.arg("--root").arg(root).args(["--dbpath", "/var/lib/rpm"]).args(args);
    command
}

#[test]
fn rpm_knows_the_locked_packages_and_finds_every_file_as_it_was_packaged() {
    let test = duplicate();
    let root = root(&test);
    let known =
        tool(&mut rpm(&root, &["--query", "--all", "--queryformat", "%{NAME} %|EPOCH?{%{EPOCH}:}|%{VERSION}-%{RELEASE}\n"]));
    let mut known: Vec<&str> = known.lines().collect();
    known.sort_unstable();
    let lock = lock_of(&test, "fixture");
    let locked: Vec<String> = lock.packages.values().map(|one| format!("{} {}", one.name, one.version)).collect();
    assert_eq!(known, locked);
    // Content, mode, owner, time, links and dependencies: nothing is said of what is as it should be. The capability is in the
    // layer; unpacking it by fsck.erofs, as was done here, loses it.
    let verified = rpm(&root, &["--verify", "--all"]).output().unwrap();
    assert_eq!(String::from_utf8(verified.stdout).unwrap(), "........P    /usr/bin/reach\n");
    let attributes = |path: &str| {
        let digest = image().blob(0);
        let said = tool(Command::new("dump.erofs").arg(format!("--path={path}")).arg(store::blob(test.store(), &digest)));
        said.lines().find_map(|line| line.split("Xattr size: ").nth(1).map(str::to_string)).unwrap()
    };
    // One attribute, security.capability, of 20 bytes, with its headers.
    assert_eq!((attributes("/usr/bin/reach"), attributes("/usr/bin/busybox")), ("48".to_string(), "0".to_string()));
}

#[test]
fn an_images_own_rpm_is_told_of_all_packages_in_its_own_database() {
    let repository = Repository::new(Signed::Trusted, &[]);
    let release = "recipes/releases/fixture.toml";
    let test = repository.project().replace(release, "base = [", "base = [\"rpm\", ");
    let test = with_tools(test.replace(release, "[kernel]\n", "own_database = true\n\n[kernel]\n"));
    test.run(["build", "compute"]).succeeds();
    let root = root(&test);
    let known = |database: &str| {
        let mut rpm = Command::new("rpm");
        rpm.arg("--root").arg(&root).args(["--dbpath", database, "--query", "--all", "--queryformat", "%{NAME}\n"]);
        let mut known: Vec<String> = tool(&mut rpm).lines().map(str::to_string).collect();
        known.sort_unstable();
        known
    };
    let all = ["kernel", "layout", "libtick", "reach", "rpm", "shell", "tick"];
    assert_eq!(known("/var/lib/own"), all);
    assert_eq!(known("/var/lib/rpm"), all);
}

#[test]
fn scripts_see_accounts_with_the_releases_numbers() {
    let test = duplicate();
    let root = root(&test);
    let account = "tick:x:550:550::/var/lib/tick:/usr/sbin/nologin\n";
    assert_eq!(fs::read_to_string(root.join("var/lib/tick/account")).unwrap(), account);
    assert_eq!(fs::read_to_string(root.join("etc/group")).unwrap(), "root:x:0:\nnobody:x:99:\ntick:x:550:\n");
}

#[test]
fn another_store_folder_and_home_give_the_same_bytes() {
    let test = with_lock();
    put_packages(&test, image().test.store(), &lock_of(&test, "fixture"));
    let test = test.env("TZ", "Pacific/Kiritimati").env("HOME", "/nonexistent");
    let json = test.run(["build", "compute", "--json"]).json();
    assert_eq!((&json["layers"], &json["image"]), (&image().json["layers"], &image().json["image"]));
    assert_eq!(json["artifacts"][0]["digest"], image().json["artifacts"][0]["digest"]);
}

#[test]
fn a_second_build_changes_nothing() {
    let test = duplicate();
    test.run(["build", "compute"]).succeeds();
    assert_eq!(test.run(["build", "compute", "--offline", "--json"]).json()["cached"], true);
    assert_eq!(image().left, Vec::<String>::new());
}

/// Locks a project that has no tools yet, and gives it those of the shared lock: to ask Debian's archive once is enough.
fn with_tools(test: Test) -> Test {
    let shared = image();
    test.run(["lock"]).succeeds();
    let lock = fs::read_to_string(shared.test.project().join("ostack.lock")).unwrap();
    let tools = &lock[lock.find("\n[release.fixture.tools]").unwrap()..];
    let names = lock_of(&shared.test, "fixture").tools.unwrap().requested[&"tools".parse().unwrap()].clone();
    let names: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    let test = test.append("ostack.lock", tools).replace(
        "recipes/releases/fixture.toml",
        "tools_from",
        &format!("tools = [{}]\ntools_from", names.join(", ")),
    );
    put_packages(&test, shared.test.store(), &lock_of(&test, "fixture"));
    test
}

/// `build` with another package in the role: the error that it ends with.
fn built_with(package: &str) -> String {
    let repository = Repository::new(Signed::Trusted, &[]);
    let test = repository.project().replace("overlays/tick/overlay.toml", "\"tick\"]", &format!("\"{package}\"]"));
    let ran = with_tools(test).run(["build", "compute"]);
    assert_eq!(ran.output.status.code(), Some(1));
    ran.stderr().split("error: ").nth(1).unwrap_or_default().to_string()
}

#[test]
fn a_script_that_fails_ends_the_build() {
    assert_eq!(
        built_with("fails"),
        "building the step `packages`: installing packages: a package's script failed:\nno room for it\n\
         warning: %post(fails-1-1.noarch) scriptlet failed, exit status 3\n  \
         next: name the version that works: write it in the recipe, or take the package out\n"
    );
}

#[test]
fn an_account_that_a_script_numbers_itself_ends_the_build() {
    assert_eq!(
        built_with("guest"),
        "building the step `packages`: packages made 1 accounts without a fixed number\n  \
         next: add them to the release's file, with numbers that are free:\n\
         [[user]]\nname = \"guest\"\nuid = 901\ngid = 901\nhome = \"/\"\nshell = \"/usr/sbin/nologin\"\n"
    );
}
