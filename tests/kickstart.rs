//! Bundles for Anaconda: kickstart files that its own parser takes, and scripts that are run here as Anaconda would run them.
//!
//! Anaconda itself, and the repositories of its distribution, cannot be had in a test.

mod harness;

use harness::Test;
use harness::network::within;
use harness::server::{SERVER, serve};
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The shipped project for the guide's own release, with a server, a mirror, and its bundle.
fn bundle(disk: &str) -> (Test, PathBuf) {
    let test = project(disk);
    test.run(["kickstart", "--all", "--release", "train-centos7"]).succeeds();
    let folder = test.project().join("out/kickstart");
    (test, folder)
}

/// The same with secrets.
fn bundle_with_secrets() -> (Test, PathBuf) {
    let test = project("{ serial = \"S1\" }").env("OSTACK_PASSPHRASE", "a passphrase of the test");
    test.run(["secrets", "init", "--release", "train-centos7"]).succeeds();
    test.run(["kickstart", "controller01", "--release", "train-centos7"]).succeeds();
    let folder = test.project().join("out/kickstart");
    (test, folder)
}

fn project(disk: &str) -> Test {
    let test = Test::shipped()
        .replace("site.toml", "[dns]\n", &format!("[provision]\nserver = \"{SERVER}\"\n\n[dns]\n"))
        .replace("site.toml", "# [mirror]\n", "[mirror]\ncentos = \"http://mirror.invalid/7.9.2009\"\n# [mirror]\n");
    let site = fs::read_to_string(test.project().join("site.toml")).unwrap();
    let begin = site.find("name = \"controller01\"").unwrap();
    let old = begin + site[begin..].find("disk = ").unwrap();
    let line = old + site[old..].find('\n').unwrap();
    test.write("site.toml", format!("{}disk = {disk}{}", &site[..old], &site[line..]))
}

/// A section of a node's file: `%pre` or `%post`.
fn script(bundle: &Path, node: &str, section: &str) -> String {
    let text = fs::read_to_string(bundle.join(node).join("ks.cfg")).unwrap();
    let begin = text.find(&format!("\n{section} ")).unwrap();
    let begin = begin + 1 + text[begin + 1..].find('\n').unwrap() + 1;
    text[begin..begin + text[begin..].find("\n%end").unwrap() + 1].to_string()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn every_file_is_one_for_the_installers_of_rhel_7_and_9_and_10() {
    let (_test, bundle) = bundle("{ serial = \"S1\" }");
    let nodes: Vec<PathBuf> =
        fs::read_dir(&bundle).unwrap().map(|entry| entry.unwrap().path().join("ks.cfg")).filter(|path| path.exists()).collect();
    assert_eq!(nodes.len(), 9);
    let verdict = harness::judge_kickstart(&nodes);
    assert_eq!((verdict.status.code(), text(&verdict.stdout), text(&verdict.stderr)), (Some(0), String::new(), String::new()));
}

#[test]
fn a_bundle_says_what_is_in_it() {
    let (test, bundle) = bundle("{ serial = \"S1\" }");
    let check = Command::new("sha256sum").args(["--check", "--quiet", "SHA256SUMS"]).current_dir(&bundle).output().unwrap();
    assert_eq!((check.status.code(), text(&check.stdout)), (Some(0), String::new()));
    let sums = fs::read_to_string(bundle.join("SHA256SUMS")).unwrap();
    // The same files from the same inputs, and named by what they are.
    test.run(["kickstart", "--all", "--release", "train-centos7"]).succeeds();
    assert_eq!(fs::read_to_string(bundle.join("SHA256SUMS")).unwrap(), sums);
    for line in sums.lines().filter(|line| line.contains("  overlays/")) {
        let (digest, path) = line.split_once("  ").unwrap();
        assert_eq!(path, format!("overlays/{digest}.tar.gz"));
    }
}

#[test]
fn without_a_lock_packages_are_named_and_the_summary_says_so() {
    let (test, _) = bundle("{ serial = \"S1\" }");
    let said = test.run(["kickstart", "compute01", "--release", "train-centos7"]);
    let said = said.succeeds().stdout();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], "out/kickstart/compute01/ks.cfg");
    assert!(lines[1].contains(" files, packages unlocked: the newest of their repositories  sha256:"), "{said}");
    assert_eq!(lines[2..], ["no secrets are at hand: files keep their placeholders"]);
}

#[test]
fn a_release_without_rpm_packages_is_none_for_anaconda() {
    Test::shipped().run(["kickstart", "compute01"]).fails(
        "warning: site.toml: stonith = false: a controller that hangs may keep the VIP, or write beside its successor, because \
         nothing switches it off\nerror: Anaconda installs rpm packages, and the release epoxy-debian13 has none\n  \
         next: use its images: ostack-image build, or ostack-image netboot\n",
    );
}

/// A disk: its name and serial number, and of each partition the name in the table and the label.
type Disk<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);

/// A machine's disks as sysfs and /dev show them: each with partitions, which have a name in the table or a label.
fn machine(folder: &Path, disks: &[Disk]) {
    for (disk, serial, partitions) in disks {
        let sys = folder.join("sys/block").join(disk);
        fs::create_dir_all(&sys).unwrap();
        for (name, value) in [("size", "41943040\n"), ("ro", "0\n"), ("serial", serial)] {
            fs::write(sys.join(name), value).unwrap();
        }
        fs::create_dir_all(folder.join("dev/disk/by-path")).unwrap();
        fs::write(folder.join("dev").join(disk), "").unwrap();
        symlink(folder.join("dev").join(disk), folder.join("dev/disk/by-path").join(format!("path-{disk}"))).unwrap();
        for (number, (name, label)) in (1..).zip(*partitions) {
            let partition = format!("{disk}{number}");
            fs::create_dir(sys.join(&partition)).unwrap();
            fs::write(sys.join(&partition).join("uevent"), format!("DEVNAME={partition}\nPARTNAME={name}\n")).unwrap();
            let device = folder.join("dev").join(&partition);
            fs::write(&device, "").unwrap();
            if !label.is_empty() {
                fs::File::options().write(true).open(&device).unwrap().set_len(8 << 20).unwrap();
                harness::rpm::tool(Command::new("mke2fs").args(["-q", "-t", "ext4", "-L", label]).arg(&device));
            }
        }
    }
}

/// What `%pre` of controller01 says, and what it writes for the installer.
fn pre(disk: &str, disks: &[Disk]) -> (Output, String) {
    let (_test, bundle) = bundle(disk);
    let folder = tempfile::tempdir().unwrap();
    machine(folder.path(), disks);
    let out = folder.path().join("disk.ks");
    let ran = Command::new("sh")
        .args(["-c", &script(&bundle, "controller01", "%pre")])
        .env("OSTACK_SYS", folder.path().join("sys"))
        .env("OSTACK_DEV", folder.path().join("dev"))
        .env("OSTACK_OUT", &out)
        .output()
        .unwrap();
    (ran, fs::read_to_string(&out).unwrap_or_default())
}

#[test]
fn a_blank_disk_is_laid_out_and_no_other_is_touched() {
    let (ran, written) = pre("{ serial = \"S2\" }", &[("sda", "S1", &[]), ("sdb", "S2", &[])]);
    assert_eq!(text(&ran.stderr), "");
    assert_eq!(text(&ran.stdout), "ostack: controller01 is installed on sdb, state new\n");
    assert_eq!(
        written,
        "ignoredisk --only-use=sdb\n\
         zerombr\n\
         clearpart --all --drives=sdb --initlabel\n\
         bootloader --location=mbr --boot-drive=sdb --append=\"console=tty0 console=ttyS0,115200n8\"\n\
         part biosboot --fstype=biosboot --size=1 --ondisk=sdb\n\
         part /boot --fstype=ext4 --size=1024 --ondisk=sdb\n\
         part / --fstype=xfs --size=20480 --ondisk=sdb\n\
         part /var/lib/ostack/state --fstype=ext4 --label=ostack-state --size=1024 --grow --ondisk=sdb\n"
    );
}

#[test]
fn a_state_that_is_there_is_kept_whether_its_name_or_its_label_says_what_it_is() {
    let kept = "ignoredisk --only-use=sda\n\
         clearpart --list=sda1,sda2\n\
         bootloader --location=mbr --boot-drive=sda --append=\"console=tty0 console=ttyS0,115200n8\"\n\
         part biosboot --fstype=biosboot --size=1 --ondisk=sda\n\
         part /boot --fstype=ext4 --size=1024 --ondisk=sda\n\
         part / --fstype=xfs --size=2048 --grow --ondisk=sda\n\
         part /var/lib/ostack/state --onpart=sda3 --noformat\n";
    for partition in [("ostack-state", ""), ("", "ostack-state")] {
        let (ran, written) = pre("{ size_min = \"10G\" }", &[("sda", "S1", &[("a", ""), ("b", "other"), partition])]);
        assert_eq!(text(&ran.stderr), "");
        assert_eq!(written, kept);
    }
}

#[test]
fn what_pre_writes_is_itself_valid() {
    let (_, written) = pre("{ by-path = \"path-sda\" }", &[("sda", "S1", &[("ostack-state", "")])]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("disk.ks");
    fs::write(&file, written).unwrap();
    let verdict = harness::judge_kickstart(&[file]);
    assert_eq!((text(&verdict.stdout), text(&verdict.stderr)), (String::new(), String::new()));
}

#[test]
fn the_first_of_several_disks_is_never_taken_for_the_systems() {
    let (ran, written) = pre("{ size_min = \"10G\" }", &[("sda", "S1", &[]), ("sdb", "S2", &[])]);
    assert_eq!(ran.status.code(), Some(1));
    assert_eq!(
        text(&ran.stderr),
        "ostack: several disks could be the system's: sda sdb. Name one in site.toml: disk = { serial = \"...\" }, or wwn, or by-path.\n"
    );
    assert_eq!(written, "");
    let (ran, _) = pre("{ serial = \"S3\" }", &[("sda", "S1", &[])]);
    assert_eq!(
        text(&ran.stderr),
        "ostack: no disk is the one that the site names for controller01; there are: sda. Correct disk in site.toml.\n"
    );
}

/// A root as packages leave it: one's script took a number of its own for an account, and left a folder of that number.
fn root(folder: &Path) -> PathBuf {
    let root = folder.join("root");
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/bash\nhaproxy:x:990:985::/var/lib/haproxy:/sbin/nologin\n")
        .unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nhaproxy:x:985:\n").unwrap();
    fs::write(root.join("etc/fstab"), "UUID=1 / xfs defaults 0 0\n").unwrap();
    fs::create_dir_all(root.join("var/lib/haproxy")).unwrap();
    std::os::unix::fs::chown(root.join("var/lib/haproxy"), Some(990), Some(985)).unwrap();
    root
}

/// Runs `%post` of controller01 in a root, with the bundle given out by `serve`, once `before` is done.
fn post(test: &Test, bundle: &Path, root: &Path, before: impl FnOnce() + Send) -> Output {
    let script = script(bundle, "controller01", "%post");
    within(&format!("{SERVER}/16"), || {
        let _server = serve(test, &["--release", "train-centos7"], 8080);
        before();
        Command::new("sh").args(["-c", &script]).env("OSTACK_ROOT", root).env("OSTACK_TMP", root.join("tmp")).output().unwrap()
    })
}

fn arm(test: &Test) {
    test.run(["arm", "controller01"]).succeeds();
}

#[test]
fn post_gives_the_root_what_render_shows_and_accounts_the_sites_numbers() {
    harness::must_be_root();
    let (test, bundle) = bundle_with_secrets();
    let folder = tempfile::tempdir().unwrap();
    let root = root(folder.path());
    // A reinstallation: the state is there, and has what somebody wrote.
    let log = root.join("var/lib/ostack/state/log/var/log");
    fs::create_dir_all(&log).unwrap();
    fs::write(log.join("marker"), "kept").unwrap();
    let ran = post(&test, &bundle, &root, || arm(&test));
    assert_eq!((text(&ran.stderr), text(&ran.stdout)), (String::new(), "ostack: controller01 has its files\n".to_string()));
    assert_eq!(fs::read_to_string(log.join("marker")).unwrap(), "kept");

    let rendered = folder.path().join("rendered");
    let rendered_path = rendered.display().to_string();
    let listing = test.run(["render", "controller01", "--secrets", "--release", "train-centos7", "--out", &rendered_path]);
    let mut compared = 0;
    for path in listing.succeeds().stdout().lines().map(|path| path.trim_start_matches('/')).filter(|path| *path != "etc/fstab") {
        let (there, shown) = (root.join(path), rendered.join(path));
        let meta = |path: &Path| path.symlink_metadata().map(|meta| (meta.mode(), meta.uid(), meta.gid())).unwrap();
        assert_eq!(meta(&there), meta(&shown), "{path}");
        if shown.is_symlink() {
            assert_eq!(fs::read_link(&there).unwrap(), fs::read_link(&shown).unwrap(), "{path}");
        } else if shown.is_file() {
            assert!(fs::read(&there).unwrap() == fs::read(&shown).unwrap(), "{path}");
        }
        compared += 1;
    }
    assert!(compared > 100, "{compared}");

    let passwd = fs::read_to_string(root.join("etc/passwd")).unwrap();
    assert!(passwd.contains("\nhaproxy:x:525:525::/var/lib/haproxy:/sbin/nologin\n"), "{passwd}");
    let owner = root.join("var/lib/haproxy").metadata().unwrap();
    assert_eq!((owner.uid(), owner.gid()), (525, 525));
    // The installer's own file is as it was, and what is kept is bound to its place.
    let fstab = fs::read_to_string(root.join("etc/fstab")).unwrap();
    assert!(fstab.starts_with("UUID=1 / xfs defaults 0 0\n/var/lib/ostack/state/"), "{fstab}");
    assert!(fstab.contains(
        "/var/lib/ostack/state/log/var/log /var/log none bind,x-systemd.requires-mounts-for=/var/lib/ostack/state 0 0\n"
    ));
    assert_eq!(root.join("usr/lib/ostack/ostack-node").metadata().unwrap().mode() & 0o7777, 0o755);
    // The server has heard that it is done, and nothing of the secrets is left beside the files that have them.
    let journal = fs::read_to_string(test.project().join("out/provision/journal.jsonl")).unwrap();
    let happened: Vec<&str> =
        journal.lines().map(|line| line.split("\"what\":\"").nth(1).unwrap().split('"').next().unwrap()).collect();
    assert_eq!(happened, ["armed", "seed", "disarmed"]);
    assert!(!root.join("tmp").exists());
}

#[test]
fn a_machine_that_nobody_expects_gets_no_secrets_and_no_files() {
    harness::must_be_root();
    let (test, bundle) = bundle_with_secrets();
    let folder = tempfile::tempdir().unwrap();
    let root = root(folder.path());
    let ran = post(&test, &bundle, &root, || ());
    assert_eq!(
        text(&ran.stderr),
        "ostack: https://172.16.181.2:8443 gives no secrets: controller01 is not expected. \
         Run on the server: ostack-image arm controller01\n"
    );
    assert_eq!(ran.status.code(), Some(1));
    assert!(!root.join("etc/hosts").exists());
}

#[test]
fn a_byte_that_is_another_one_ends_the_installation_before_anything_is_unpacked() {
    harness::must_be_root();
    let (test, bundle) = bundle("{ serial = \"S1\" }");
    let ks = fs::read_to_string(bundle.join("controller01/ks.cfg")).unwrap();
    let line = ks.lines().find(|line| line.starts_with("fetch 'haproxy'")).unwrap();
    let file = line.split('\'').nth(3).unwrap();
    let mut bytes = fs::read(bundle.join(file)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let found = ostack_image::base::digest::Digest::of(&bytes).hex();
    let folder = tempfile::tempdir().unwrap();
    let root = root(folder.path());
    let ran = post(&test, &bundle, &root, || fs::write(bundle.join(file), &bytes).unwrap());
    let wanted = file.trim_start_matches("overlays/").trim_end_matches(".tar.gz");
    assert_eq!(
        text(&ran.stderr),
        format!(
            "ostack: haproxy is damaged: the sha256 of {file} is {found}, not {wanted}. Nothing of it was unpacked. \
             Run sha256sum --check SHA256SUMS on the server, make the bundle again, and install anew.\n"
        )
    );
    assert_eq!(ran.status.code(), Some(1));
    assert!(!root.join("etc/hosts").exists() && !root.join("etc/haproxy").exists());
}
