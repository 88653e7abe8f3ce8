//! Real packages of a real rpm repository on this machine, installed into layers. `rpm_lock.rs` is what comes before.

mod harness;

use harness::role::{default_store, lock_of, put_packages, remove_at_exit};
use harness::rpm::{Repository, Signed, tool};
use harness::{Test, leftovers, store};
use ostack_image::base::digest::Digest;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Everything locked and built once, from a server on this machine; none of the tests writes to it.
struct Image {
    test: Test,
    json: Value,
    left: Vec<String>,
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
    assert_eq!(files(&test, "system"), include_str!("fixtures/rpm/expected/system"));
    assert_eq!(files(&test, "packages"), include_str!("fixtures/rpm/expected/packages"));
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
    let root = test.folder().join("root");
    fs::create_dir(&root).unwrap();
    for layer in test.run(["inspect", "compute", "--json"]).json()["layers"].as_array().unwrap().iter().take(2) {
        let blob = store::blob(test.store(), &layer["blob"]["digest"].as_str().unwrap().parse().unwrap());
        store::unpack_erofs(&blob, &root);
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
    // Content, mode, owner, time, links, capabilities and dependencies: nothing is said of what is as it should be.
    let verified = rpm(&root, &["--verify", "--all"]).output().unwrap();
    assert_eq!(String::from_utf8(verified.stdout).unwrap(), "");
}

#[test]
fn the_locked_dnf_finds_what_this_machines_own_finds() {
    let lines = "solver = [\"apt\", \"dpkg\", \"python3-dnf\"]\n";
    let test = with_lock().remove("ostack.lock").replace("recipes/releases/fixture.toml", lines, "");
    let tools = "tools = [\"grub-common\", \"grub-efi-amd64-bin\", \"grub-pc-bin\", \"rpm\"]\n";
    let test = test.replace("recipes/releases/fixture.toml", tools, "");
    test.run(["lock"]).succeeds();
    let (mine, locked) = (lock_of(&test, "fixture"), lock_of(&with_lock(), "fixture"));
    assert_eq!((&mine.packages, &mine.suites, mine.tools), (&locked.packages, &locked.suites, None));
    let solver: Vec<_> = locked.set(&"solver".parse().unwrap());
    assert!(solver.iter().any(|one| one.name.as_str() == "python3-dnf"));
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
fn a_layer_that_holds_what_the_release_forbids_is_in_no_image_and_each_file_is_named_with_whose_it_is() {
    let rule = "\n[[forbid]]\npaths = [\"/var/lib/tick/*\", \"/etc/tick.conf\"]\nwhy = \"an example\"\n";
    duplicate().append("recipes/releases/fixture.toml", rule).run(["build", "compute"]).fails(
        "error: packages of compute leave 2 files that no layer may hold:\n  \
         /etc/tick.conf (tick; layer packages): an example\n  \
         /var/lib/tick/account (made by a script; layer packages): an example\n  \
         next: take each out by a line under [clean] of recipes/releases/fixture.toml; what a node must have and keep, an overlay \
         declares as [[state]] or [[secret]]\n",
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

/// The shared project with a server, and what the shipped one says of Anaconda.
fn with_server() -> Test {
    let mut test = duplicate().append("site.toml", "\n[provision]\nserver = \"172.16.0.2\"\n");
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("images");
    for name in ["kickstart.toml", "netboot.toml"] {
        test = test.write(&format!("images/{name}"), fs::read(shipped.join(name)).unwrap());
    }
    for folder in ["kickstart", "netboot"] {
        for file in fs::read_dir(shipped.join(folder)).unwrap().map(|entry| entry.unwrap().path()) {
            let name = format!("images/{folder}/{}", file.file_name().unwrap().to_str().unwrap());
            test = test.write(&name, fs::read(file).unwrap());
        }
    }
    test
}

#[test]
fn anaconda_may_unpack_a_roles_root_which_is_what_its_packages_and_overlays_are_together() {
    let test = with_server();
    let said = test.run(["kickstart", "compute01", "--liveimg"]);
    let said = said.succeeds().stdout().to_string();
    assert!(said.contains(" files, roots of images  sha256:"), "{said}");
    let bundle = test.project().join("out/kickstart");
    let ks = fs::read_to_string(bundle.join("compute01/ks.cfg")).unwrap();
    let line = ks.lines().find(|line| line.starts_with("liveimg ")).unwrap();
    let digest = line.split("--checksum=").nth(1).unwrap();
    assert_eq!(line, format!("liveimg --url=\"http://172.16.0.2:8080/kickstart/images/{digest}.tar.gz\" --checksum={digest}"));
    assert!(!ks.contains("%packages"));
    let verdict = harness::judge_kickstart(&[bundle.join("compute01/ks.cfg")]);
    assert_eq!((String::from_utf8_lossy(&verdict.stdout), String::from_utf8_lossy(&verdict.stderr)), ("".into(), "".into()));

    // As the installer does it.
    let archive = bundle.join(format!("images/{digest}.tar.gz"));
    assert_eq!(Digest::of_file(&archive).unwrap().0.hex(), digest);
    let root = test.folder().join("unpacked");
    fs::create_dir(&root).unwrap();
    tool(
        Command::new("tar")
            .args(["--numeric-owner", "--xattrs", "--xattrs-include=*", "-xaf"])
            .arg(&archive)
            .arg("-C")
            .arg(&root),
    );
    // Content, mode, owner, capabilities: all but the one file that is an overlay's.
    let verified = rpm(&root, &["--verify", "--all"]).output().unwrap();
    assert_eq!(String::from_utf8(verified.stdout).unwrap(), "..5....T.  c /etc/tick.conf\n");
    assert!(root.join("usr/lib/ostack/ostack-node").exists());
    let rendered = test.folder().join("rendered");
    let listing = test.run(["render", "compute01", "--out", rendered.to_str().unwrap()]);
    let own = fs::read_to_string(bundle.join("manifest.json")).unwrap();
    assert!(own.contains(&format!("images/{digest}.tar.gz")), "{own}");
    for path in listing.succeeds().stdout().lines().map(|path| path.trim_start_matches('/')) {
        let (there, shown) = (root.join(path), rendered.join(path));
        assert!(!shown.is_file() || fs::read(&there).unwrap() == fs::read(&shown).unwrap(), "{path}");
    }

    // Made again, from the same inputs, it is the same.
    fs::remove_dir_all(test.project().join("out")).unwrap();
    test.run(["kickstart", "compute01", "--liveimg"]).succeeds();
    assert_eq!(Digest::of_file(&archive).unwrap().0.hex(), digest);
}
