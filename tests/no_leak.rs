//! Nothing that follows from a secret leaves the file of secrets but by seeds: not into a blob, an image, the lock, the
//! program's output or the arguments and environment of what it starts.
//!
//! The secrets are drawn and then known to the test, which opens their file. It searches for every value, its lines, its
//! bytes in hexadecimal and base64 and their digests, in everything as it is and unpacked. The same search finds them in the
//! node's seed, so it would find them elsewhere.

mod harness;

use aho_corasick::{AhoCorasick, MatchKind};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use harness::Test;
use harness::role::role;
use ostack_image::base::digest::Digest;
use ostack_image::secrets::file::{self, Key};
use serde_json::Value;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const PASSPHRASE: &str = "a passphrase of the test";
/// Shorter pieces would be found by chance.
const SHORTEST: usize = 12;

/// A secret of every kind, all of them in files of the role, one in a file of the node's own.
const SECRETS: &str = r#"
secret = [
    { name = "password" },
    { name = "hex", kind = "hex" },
    { name = "uuid", kind = "uuid" },
    { name = "fernet", kind = "fernet" },
    { name = "ceph", kind = "ceph" },
    { name = "ca", kind = "ca" },
    { name = "certificate", kind = "certificate", per = "node", ca = "ca", names = ["{{ node.name }}"] },
    { name = "ssh-ca", kind = "ssh-ca" },
    { name = "ssh-host", kind = "ssh-host", per = "node", ca = "ssh-ca", names = ["{{ node.name }}"] },
    { name = "own" },
]
"#;

const FILES: &str = r#"
[[file]]
path = "/etc/all"
content = """
@ostack-secret:password:value@ @ostack-secret:hex:value@ @ostack-secret:uuid:value@ @ostack-secret:fernet:value@
@ostack-secret:ceph:value@
@ostack-secret:ca:certificate@
@ostack-secret:certificate:bundle@
@ostack-secret:ssh-ca:public@
@ostack-secret:ssh-host:public@ @ostack-secret:ssh-host:certificate@
@ostack-secret:ssh-host:key@
"""
mode = "0600"

[[file]]
path = "/etc/own"
template = "own.tera"
mode = "0600"
scope = "node"
"#;

/// The values by name and field.
fn values(test: &Test) -> Vec<(String, String)> {
    let key = Key::Passphrase(PASSPHRASE.to_string().into());
    let held = serde_json::to_value(file::read(&test.project().join("secrets.age")).unwrap().open(&key).unwrap()).unwrap();
    let mut values = Vec::new();
    let nodes = held["nodes"].as_object().unwrap().values();
    for table in nodes.chain([&held["shared"]]) {
        for (name, drawn) in table.as_object().unwrap() {
            for (field, value) in drawn["fields"].as_object().unwrap() {
                values.push((format!("{name} {field}"), value.as_str().unwrap().to_string()));
            }
        }
    }
    values
}

/// Whatever a value could look like.
struct Search {
    names: Vec<String>,
    forms: AhoCorasick,
}

impl Search {
    fn new(values: &[(String, String)]) -> Self {
        let mut names = Vec::new();
        let mut forms: Vec<Vec<u8>> = Vec::new();
        let mut add = |name: &str, how: &str, form: Vec<u8>| {
            if form.len() >= SHORTEST {
                names.push(format!("{name} {how}"));
                forms.push(form);
            }
        };
        add("the passphrase", "as it is", PASSPHRASE.into());
        for (name, value) in values {
            // Lines that values have in common are of their format: PEM's first and last, the head of an OpenSSH key.
            let shared = |line: &str| values.iter().filter(|(_, value)| value.lines().any(|other| other == line)).count() > 1;
            for line in value.lines().filter(|line| !shared(line)) {
                add(name, "as it is", line.into());
                // A public key has its type and a comment beside it, which are no secret and may be anywhere.
                for word in line.split(' ').filter(|word| word.len() >= 40) {
                    add(name, "as a word", word.into());
                }
                for alphabet in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
                    if let Ok(bytes) = alphabet.decode(line.trim_end_matches('=')) {
                        add(name, "decoded", bytes);
                    }
                }
                if line.len() % 2 == 0 && line.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                    let byte = |at: usize| u8::from_str_radix(&line[at..at + 2], 16).unwrap();
                    add(name, "decoded", (0..line.len()).step_by(2).map(byte).collect());
                }
                add(name, "in hexadecimal", hex(line.as_bytes()).into());
                add(name, "in capital hexadecimal", hex(line.as_bytes()).to_uppercase().into());
                // In base64 a text looks like one of three, by where it begins; its ends depend on what is beside it.
                for shift in 0..3 {
                    let shifted = STANDARD.encode([&vec![0; shift][..], line.as_bytes()].concat());
                    let inner = &shifted[4.min(shifted.len())..shifted.len().saturating_sub(4)];
                    add(name, "in base64", inner.into());
                }
            }
            let digest = Digest::of(value).to_string();
            add(name, "as its digest", digest.trim_start_matches("sha256:").into());
        }
        let forms = AhoCorasick::builder().match_kind(MatchKind::Standard).build(&forms).unwrap();
        Self { names, forms }
    }

    /// What of the secrets is in these bytes.
    fn find(&self, bytes: &[u8]) -> Vec<&str> {
        let mut found: Vec<&str> =
            self.forms.find_overlapping_iter(bytes).map(|hit| self.names[hit.pattern()].as_str()).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Asserts that there is nothing in these bytes.
    #[track_caller]
    fn must_miss(&self, what: &str, bytes: &[u8]) {
        assert_eq!(self.find(bytes), Vec::<&str>::new(), "{what}");
    }

    /// Searches a file of the store or of the output as it is and, by its magic, unpacked. Gives how many forms it looked at.
    fn must_miss_file(&self, path: &Path, scratch: &Path) -> usize {
        let what = path.display().to_string();
        let bytes = data(path);
        self.must_miss(&what, &bytes);
        // Filesystems: erofs has its magic at 1024.
        if bytes.get(1024..1028) == Some(&[0xe2, 0xe1, 0xf5, 0xe0]) {
            let tree = scratch.join("tree");
            let _ = fs::remove_dir_all(&tree);
            fs::create_dir(&tree).unwrap();
            harness::store::unpack_erofs(path, &tree);
            let mut files = 1;
            for entry in walkdir::WalkDir::new(&tree) {
                let entry = entry.unwrap();
                self.must_miss(&what, entry.path().as_os_str().as_encoded_bytes());
                if entry.file_type().is_file() {
                    self.must_miss(&format!("{what} {}", entry.path().display()), &fs::read(entry.path()).unwrap());
                    files += 1;
                }
            }
            return files;
        }
        // The initrd is a zstd frame, behind an uncompressed part if there is microcode. Disks are put together from blobs.
        let zstd = bytes.windows(4).step_by(4).position(|magic| magic == [0x28, 0xb5, 0x2f, 0xfd]);
        let mut plain = Vec::new();
        let unpacked = zstd.is_some_and(|at| {
            let mut stream = zstd::stream::read::Decoder::new(&bytes[at * 4..]).unwrap().single_frame();
            stream.read_to_end(&mut plain).is_ok()
        });
        self.must_miss(&format!("{what}, unpacked"), &plain);
        1 + usize::from(unpacked)
    }
}

/// The content of a file without its holes: a raw disk is mostly one.
fn data(path: &Path) -> Vec<u8> {
    use rustix::fs::SeekFrom::{Data, Hole};
    let file = fs::File::open(path).unwrap();
    let mut bytes = Vec::new();
    let mut at = 0;
    while let Ok(begin) = rustix::fs::seek(&file, Data(at)) {
        at = rustix::fs::seek(&file, Hole(begin)).unwrap();
        let length = usize::try_from(at - begin).unwrap();
        let mut piece = vec![0; length];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut piece, begin).unwrap();
        bytes.append(&mut piece);
    }
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A run with every program that it starts, each with arguments and environment, as the kernel sees them.
fn traced(test: &Test, args: &[&str]) -> (Output, String) {
    let log = test.folder().join("execs");
    let plain = test.command(args);
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-v", "-s", "1000000", "-e", "trace=execve,execveat", "-e", "signal=none", "-o"]).arg(&log);
    strace.arg(plain.get_program()).args(plain.get_args()).current_dir(test.project());
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => strace.env(name, value),
            None => strace.env_remove(name),
        };
    }
    let output = strace.output().expect("run scripts/setup test");
    (output, fs::read_to_string(log).unwrap())
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = walkdir::WalkDir::new(folder).into_iter().map(|entry| entry.unwrap());
    entries.filter(|entry| entry.file_type().is_file()).map(|entry| entry.into_path()).collect()
}

#[test]
fn a_build_with_secrets_leaves_them_in_the_seed_and_nowhere_else() {
    let overlay = fs::read_to_string(role().duplicate().project().join("overlays/base/overlay.toml")).unwrap();
    // Top-level keys come before the first table.
    let (description, tables) = overlay.split_once('\n').unwrap();
    let overlay = format!("{description}\n{SECRETS}\n{tables}\n{FILES}");
    let template = "{{ secret(name=\"own\") }} of {{ node.name }}";
    let test =
        role().duplicate().write("overlays/base/overlay.toml", overlay).write("overlays/base/templates/own.tera", template);
    let test = test.env("OSTACK_PASSPHRASE", PASSPHRASE);
    // A boot loader that is made already starts nothing.
    for record in files(&test.store().join("ostack/steps")) {
        if fs::read_to_string(&record).unwrap().contains("\"step\": \"grub ") {
            fs::remove_file(record).unwrap();
        }
    }

    let mut said = Vec::new();
    let mut started = String::new();
    let mut run = |args: &[&str]| {
        let (output, log) = traced(&test, args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        said.push((args.join(" "), [output.stdout, output.stderr].concat()));
        // The first line is the program itself, which has the passphrase from the test.
        started.push_str(log.split_once('\n').map_or("", |(_, rest)| rest));
    };
    run(&["secrets", "init", "-v"]);
    run(&["secrets", "init", "--json"]);
    run(&["secrets", "rotate", "password", "ca", "--json"]);
    run(&["secrets", "list", "--json"]);
    run(&["build", "compute", "--node", "compute01", "--format", "qcow2,raw", "-v"]);
    run(&["build", "compute", "--node", "compute01", "--format", "qcow2,raw", "--json"]);
    run(&["plan", "compute", "-v"]);
    run(&["inspect", "compute", "--files", "base", "--json"]);
    run(&["seed", "compute01", "--json", "-v"]);
    run(&["render", "compute01", "--out", "plain", "--json"]);
    run(&["render", "compute01", "--secrets", "--out", "filled", "--json", "-v"]);

    let values = values(&test);
    assert_eq!(values.len(), 15, "{:?}", values.iter().map(|(name, _)| name).collect::<Vec<_>>());
    let search = Search::new(&values);

    // It finds what is there: every value that the node needs, in its seed and in its filled files.
    let seed = fs::read(test.project().join("out/compute01.seed.img")).unwrap();
    let filled = fs::read(test.project().join("filled/etc/all")).unwrap();
    let needed: Vec<String> = values
        .iter()
        .map(|(name, _)| name.clone())
        .filter(|name| !["ca key", "ssh-ca key"].contains(&name.as_str()))
        .map(|name| format!("{name} as it is"))
        .collect();
    let in_seed = search.find(&seed);
    for name in &needed {
        // JSON writes a PEM's newlines as \n, and its lines stay whole.
        assert!(in_seed.contains(&name.as_str()), "{name} was not found in the seed");
        assert!(name.starts_with("own ") || search.find(&filled).contains(&name.as_str()), "{name} was not found in the file");
    }
    assert!(!in_seed.iter().any(|name| name.starts_with("ca key") || name.starts_with("ssh-ca key")), "{in_seed:?}");
    let encoded =
        format!("x{}", STANDARD.encode(format!("user:{}", values.iter().find(|(name, _)| name == "own value").unwrap().1)));
    assert_eq!(search.find(encoded.as_bytes()), ["own value in base64"]);

    // And it finds nothing elsewhere.
    for (args, bytes) in &said {
        search.must_miss(args, bytes);
    }
    assert!(started.contains("grub-mkimage"), "the programs that a build starts were not seen:\n{started}");
    search.must_miss("arguments and environments", started.as_bytes());
    search.must_miss("the lock", &fs::read(test.project().join("ostack.lock")).unwrap());
    let scratch = test.folder().join("scratch");
    fs::create_dir(&scratch).unwrap();
    let packages: std::collections::BTreeSet<String> = lock_digests(&test);
    let (mut blobs, mut looked) = (0, 0);
    for path in files(test.store()) {
        // Packages are the archive's bytes, by the lock's digests, from before there was a secret.
        if packages.contains(path.file_name().unwrap().to_str().unwrap()) {
            continue;
        }
        blobs += 1;
        looked += search.must_miss_file(&path, &scratch);
    }
    assert!(blobs > 10 && looked > blobs + 1000, "{blobs} blobs, {looked} with what is in them");
    for path in files(&test.project().join("out")).iter().chain(&files(&test.project().join("plain"))) {
        if !path.ends_with("compute01.seed.img") {
            search.must_miss_file(path, &scratch);
        }
    }
}

fn lock_digests(test: &Test) -> std::collections::BTreeSet<String> {
    harness::role::lock(test).packages.values().map(|package| package.sha256.hex()).collect()
}

#[test]
fn placeholders_are_no_reason_to_build_again_when_a_secret_changes() {
    let test = role().duplicate().append(
        "overlays/base/overlay.toml",
        "\n[[secret]]\nname = \"own\"\n\n[[file]]\npath = \"/etc/own\"\ncontent = \"@ostack-secret:own:value@\"\nmode = \"0600\"\n",
    );
    let test = test.env("OSTACK_PASSPHRASE", PASSPHRASE);
    let digest = |json: &Value| json["image"]["digest"].as_str().unwrap().to_string();
    let before = digest(&test.run(["build", "compute", "--json"]).json());
    test.run(["secrets", "init"]).succeeds();
    let again = test.run(["build", "compute", "--json"]).json();
    assert_eq!((digest(&again), &again["cached"]), (before, &Value::Bool(true)));
}
