//! Bit identity: what must not matter to what a build gives. The same small role, with all that can be made of it, is built again and
//! again from an empty store, each time with everything else changed that a build could notice; each time every byte must be the same.
//!
//! [`VARIATIONS`] is the list. Another clock and another order of folders are made by [`harness::world`].

mod harness;

use harness::machine::{ostack, shipped};
use harness::role::{default_store, lock, put_packages, remove_at_exit, with_script};
use harness::variation::{Packages, Reference, Variation};
use harness::world::{World, YEAR};
use harness::{Test, mirror, store};
use ostack_image::lock::{Lock, ReleaseLock};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Mutex, OnceLock};

/// All that is made of the role: the layers, kernel, initrd and command line that an image is, and whatever can be written of it.
const COMMANDS: &str = "build compute --format qcow2,raw\nnetboot compute\nkickstart compute --release train-centos7";

const VARIATIONS: [Variation; 10] = [
    Variation {
        name: "the same machine a year later",
        world: World { clock: YEAR, order: None, core: None },
        rootless: false,
        host: "localhost",
        home: "root",
        umask: "022",
        zone: "UTC",
        locale: "C.UTF-8",
        at: ["project", "project", "store"],
        memory: true,
        packages: Packages::InOrder,
    },
    Variation {
        name: "an ordinary user on one core, a year ago",
        world: World { clock: -YEAR, order: Some(1), core: Some(0) },
        rootless: true,
        host: "x",
        home: "home/somebody",
        umask: "077",
        zone: "Pacific/Kiritimati",
        locale: "tr_TR.UTF-8",
        at: ["elsewhere", "a project with a long name/and one in it", "s"],
        memory: false,
        packages: Packages::Reversed,
    },
    Variation {
        name: "on one core, from a mirror that serves the last first",
        world: World { clock: YEAR, order: Some(2), core: Some(1) },
        rootless: false,
        host: "build-machine.example.org",
        home: "h",
        umask: "002",
        zone: "America/St_Johns",
        locale: "de_DE@euro",
        at: [
            "p/q/r/s/t",
            "p",
            "a store/whose path is much longer than that of the other ones/so that whatever has it in it grows",
        ],
        memory: false,
        packages: Packages::Fetched,
    },
    Variation {
        name: "an ordinary user in memory, folders in another order",
        world: World { clock: 0, order: Some(3), core: None },
        rootless: true,
        host: "compute01",
        home: "nonexistent",
        umask: "027",
        zone: "Asia/Kathmandu",
        locale: "zh_CN.GB18030",
        at: [".", "1", "2"],
        memory: true,
        packages: Packages::Reversed,
    },
    Variation {
        name: "a year ago, on the disk, on every core",
        world: World { clock: -YEAR, order: Some(4), core: None },
        rootless: false,
        host: "controller01",
        home: "root",
        umask: "000",
        zone: "Europe/Berlin",
        locale: "C",
        at: ["work", "work/project", "work/project.store"],
        memory: false,
        packages: Packages::InOrder,
    },
    Variation {
        name: "in memory on one core, packages fetched",
        world: World { clock: -YEAR, order: Some(5), core: Some(1) },
        rootless: false,
        host: "localhost",
        home: "h",
        umask: "077",
        zone: "UTC-14",
        locale: "POSIX",
        at: ["x", "y", "z"],
        memory: true,
        packages: Packages::Fetched,
    },
    Variation {
        name: "on the disk with a clock of next year",
        world: World { clock: YEAR, order: Some(6), core: None },
        rootless: true,
        host: "n",
        home: "home",
        umask: "007",
        zone: "Africa/Monrovia",
        locale: "ja_JP.EUC-JP",
        at: ["deep/deeper/deepest", "deep/project", "deep/deeper/store"],
        memory: false,
        packages: Packages::Reversed,
    },
    Variation {
        name: "folders in a sixth order, packages fetched by an ordinary user",
        world: World { clock: 0, order: Some(7), core: Some(0) },
        rootless: true,
        host: "fetcher",
        home: "home/a b",
        umask: "022",
        zone: "Antarctica/Troll",
        locale: "en_US.ISO-8859-1",
        at: ["project", "project", "store"],
        memory: false,
        packages: Packages::Fetched,
    },
    Variation {
        name: "a year ago in memory",
        world: World { clock: -YEAR, order: None, core: Some(0) },
        rootless: true,
        host: "memory",
        home: "m",
        umask: "077",
        zone: ":Asia/Tokyo",
        locale: "C.UTF-8",
        at: ["a", "b/b", "c/c/c"],
        memory: true,
        packages: Packages::InOrder,
    },
    Variation {
        name: "two years after the one before",
        world: World { clock: YEAR, order: Some(8), core: Some(1) },
        rootless: false,
        host: "the-last-one",
        home: "root",
        umask: "022",
        zone: "Australia/Lord_Howe",
        locale: "az_AZ.UTF-8",
        at: ["b/b", "b/b", "a-store"],
        memory: true,
        packages: Packages::Reversed,
    },
];

/// The small project with what is needed to write everything that the program can write, and its lock.
fn project() -> Test {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR"));
    let release = "recipes/releases/small.toml";
    let mut test = Test::new()
        .remove("ostack.lock")
        .replace(release, "\n[kernel]\n", "loaders = [\"ipxe\", \"pxelinux\", \"syslinux-common\", \"xorriso\"]\n\n[kernel]\n")
        .append(release, "\n[initrd.network]\ncloud = [\"virtio_net\", \"af_packet\"]\n")
        .replace("images/disk.toml", "size = \"4 GiB\"\nsystem = \"2 GiB\"", "size = \"2 GiB\"\nsystem = \"512 MiB\"")
        .append("site.toml", "\n[provision]\nserver = \"172.16.0.2\"\n\n[mirror]\ncentos = \"http://mirror.invalid/7.9.2009\"\n");
    for part in ["images/kickstart", "images/netboot"] {
        harness::copy(&shipped.join(part), &test.project().join(part));
    }
    for file in ["images/kickstart.toml", "images/netboot.toml"] {
        test = test.write(file, fs::read(shipped.join(file)).unwrap());
    }
    // What Anaconda installs is of another release, whose kernels have other names.
    let rpm = fs::read_to_string(shipped.join("recipes/releases/train-centos7.toml")).unwrap();
    test.write("recipes/releases/train-centos7.toml", rpm.replace("\ngeneric = [\n    \"dracut", "\ncloud = [\n    \"dracut"))
}

/// The build that all others are compared with, and its lock; made at the first call, and nobody writes to it.
fn reference() -> &'static (Test, ReleaseLock) {
    static REFERENCE: OnceLock<(Test, ReleaseLock)> = OnceLock::new();
    REFERENCE.get_or_init(|| {
        harness::must_be_root();
        let test = project();
        remove_at_exit(test.folder());
        test.run(["lock"]).succeeds();
        let lock = lock(&test);
        put_packages(&test, &default_store(), &lock);
        for line in COMMANDS.lines() {
            test.run(line.split(' ')).succeeds();
        }
        (test, lock)
    })
}

#[test]
fn whoever_builds_wherever_and_whenever_the_bytes_are_the_same() {
    let (test, lock) = reference();
    let mirror = mirror::serve(lock, test.store());
    let (project, store) = (test.project(), test.store());
    let reference = Reference { project: &project, store, lock, role: "compute", commands: COMMANDS, mirror: &mirror };
    let todo = Mutex::new(VARIATIONS.iter());
    let wrong = Mutex::new(Vec::new());
    let work = || {
        while let Some(variation) = { todo.lock().unwrap().next() } {
            wrong.lock().unwrap().extend(variation.wrong(&reference));
        }
    };
    // Two at a time: half of them have but one core.
    std::thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    let wrong: Vec<String> = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} of {} variations:\n{}", wrong.len(), VARIATIONS.len(), wrong.join("\n"));
}

#[test]
fn the_storage_image_is_the_same_from_an_empty_store_in_another_world() {
    let project = shipped("variations");
    // In the store that tests of real images share: most often it is there.
    let commands = "build storage --format qcow2,raw";
    ostack(&project).args(commands.split(' ')).arg("--relock").run().unwrap();
    let lock = Lock::load(&project.join("ostack.lock")).unwrap();
    let lock = lock.release(&"epoxy-debian13".parse().unwrap()).unwrap();
    let (role, store) = ("storage", default_store());
    let reference = Reference { project: &project, store: &store, lock, role, commands, mirror: "" };
    let variation =
        Variation { name: "storage", world: World { clock: -YEAR, order: Some(10), core: None }, ..Variation::ELSEWHERE };
    assert_eq!(variation.wrong(&reference), None);
}

/// A script that writes down what it sees. Of that, clock, folders, cores and a file's time are of the machine; the rest is the sandbox's.
const NOSY: &str = "#!/bin/sh
set -e
mkdir -p /opt/nosy
date > /opt/nosy/clock
ls -U /usr/share/doc > /opt/nosy/folders
nproc > /opt/nosy/cores
umask > /opt/nosy/umask
uname -n > /opt/nosy/host
id > /opt/nosy/user
env | grep -v ^DPKG | sort > /opt/nosy/environment
stat -c %Y /opt/nosy/clock > /opt/nosy/time
";

/// The project with a package that writes down where it is.
fn nosy() -> Test {
    let (shared, lock) = reference();
    let test = project();
    store::duplicate(shared.store(), test.store());
    with_script(test, lock, "nosy", NOSY)
}

#[test]
fn what_a_script_writes_of_clock_folders_and_cores_is_found_with_its_package_and_the_rest_is_hidden() {
    let [here, there] = [nosy(), nosy()];
    let image = |output: &Output| {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        json["image"]["digest"].as_str().unwrap().to_string()
    };
    let build = ["build", "compute", "--json"];
    let one = image(&here.run(build).output);
    let world = World { clock: -YEAR, order: Some(9), core: Some(0) };
    let mut command = there.command(build);
    let other = image(&world.run(command.env("TZ", "Asia/Tokyo").env("LC_ALL", "C").env("HOME", "/nonexistent")));
    store::add(there.store(), here.store());
    let said = here.run(["diff", &one, &other]);
    let said = said.succeeds().stdout();
    let files: Vec<&str> = said.lines().filter(|line| line.starts_with("  /")).collect();
    assert_eq!(
        files,
        ["clock", "cores", "folders", "time"].map(|file| format!("  /opt/nosy/{file} (made by a script; that of nosy names it)")),
        "{said}"
    );
}

/// What a shell's line prints in a world.
#[track_caller]
fn said(world: World, line: &str) -> String {
    let output = world.run(Command::new("sh").args(["-ec", line]));
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn another_worlds_clock_and_its_new_files_are_a_year_away_and_its_old_files_are_not() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("old"), "").unwrap();
    let old = std::fs::metadata(folder.path().join("old")).unwrap().modified().unwrap();
    let old = old.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
    std::thread::sleep(std::time::Duration::from_millis(20));
    let line = format!(
        "cd {}; date +%s; touch new; stat -c %Y new old; python3 -c 'import os, threading, time\nprint(int(os.stat(\"new\").st_mtime))\n\
         one = threading.Thread(target=lambda: print(int(time.time())))\none.start(); one.join()'; perl -e 'print time, \"\\n\"'",
        folder.path().display()
    );
    for years in [-YEAR, 0, YEAR] {
        let said = said(World { clock: years, ..World::default() }, &line);
        let said: Vec<i64> = said.lines().map(|line| line.parse().unwrap()).collect();
        let [clock, new, kept, again, thread, perl] = said[..] else { panic!("{said:?}") };
        assert_eq!(kept, old, "{said:?}");
        for one in [clock, new, again, thread, perl] {
            assert!((one - old - years).abs() < 60, "{said:?} and {old}, {years}");
        }
        std::fs::remove_file(folder.path().join("new")).unwrap();
    }
}

#[test]
fn another_world_lists_a_folder_in_another_order_which_stays_and_has_all_of_it() {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..2000 {
        std::fs::write(folder.path().join(format!("a-file-with-number-{number}")), "").unwrap();
    }
    let line = format!("ls -U {0}; find {0} -type f -delete; ls -U {0}", folder.path().display());
    let line = |tail: &str| line.split_inclusive(';').take(1).collect::<String>() + tail;
    let world = |order| World { order, ..World::default() };
    let [real, one, again, other] = [None, Some(1), Some(1), Some(2)].map(|order| said(world(order), &line("")));
    let set = |text: &str| text.lines().map(str::to_string).collect::<BTreeSet<String>>();
    assert_eq!(set(&real).len(), 2000);
    assert_eq!([set(&one), set(&other)], [set(&real), set(&real)]);
    assert!(one != real && other != real && one != other);
    assert_eq!(one, again);
    // Who removes what it reads gets at all of it.
    assert_eq!(said(world(Some(3)), &format!("rm -r {0}; ls {0}/.. | grep -c nothing || true", folder.path().display())), "0\n");
    assert!(!folder.path().exists());
}

#[test]
fn another_world_has_as_many_cores_as_it_is_given_and_ends_with_its_command() {
    let one = World { core: Some(1), clock: YEAR, ..World::default() };
    assert_eq!(said(one, "nproc; sleep 1000 & echo $!").lines().next(), Some("1"));
    let output =
        one.run(Command::new("sh").args(["-c", "sleep 1000 & kill -STOP $! && kill -CONT $! && echo $! && kill -TERM $$"]));
    let sleeper: u32 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output.status), Some(15));
    let end = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while std::fs::read_to_string(format!("/proc/{sleeper}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(std::time::Instant::now() < end, "it has outlived its world");
    }
}
