//! `secrets`: drawn once, kept encrypted, and each node gets its own needs.

mod harness;

use harness::{Ran, Test};
use ostack_image::secrets::file::{self, Key};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

const PASSPHRASE: &str = "a passphrase of the test";

/// What the overlay `base` of these tests asks for, beside what the small project has.
const SECRETS: &str = r#"
[[secret]]
name = "db"
guide = "123456"

[[secret]]
name = "fence"

[[secret]]
name = "site-ca"
kind = "ca"

[[secret]]
name = "node"
kind = "certificate"
per = "node"
ca = "site-ca"
names = ["{{ node.name }}", "{{ node.management }}", "{% if option.tls %}{% endif %}"]

[[file]]
path = "/etc/db.conf"
content = "password = @ostack-secret:db:value@\n"
mode = "0640"

[[file]]
path = "/etc/node.pem"
content = "@ostack-secret:node:bundle@\n@ostack-secret:site-ca:certificate@\n"
mode = "0600"

[[file]]
path = "/etc/fence"
template = "fence.tera"
mode = "0600"
scope = "node"
when = "node.name == 'compute01'"
"#;

/// The small project with secrets.
fn test() -> Test {
    let template = "{{ secret(name=\"fence\") }} of {{ node.name }}";
    let test = Test::new().append("overlays/base/overlay.toml", SECRETS).write("overlays/base/templates/fence.tera", template);
    test.env("OSTACK_PASSPHRASE", PASSPHRASE)
}

/// The same with a second recipe, whose nodes have another overlay's secret too.
fn two_roles() -> Test {
    let overlay = "description = \"x\"\n[[secret]]\nname = \"disk\"\nkind = \"hex\"\n[[file]]\npath = \"/etc/disk\"\n\
                   content = \"@ostack-secret:disk:value@\"\nmode = \"0600\"\n";
    let recipe = "description = \"x\"\nkernel = \"cloud\"\noverlays = [\"base\", \"disk\"]\n";
    test().write("overlays/disk/overlay.toml", overlay).write("recipes/storage.toml", recipe).replace(
        "ostack.lock",
        "requested.compute = [\n]\n",
        "requested.compute = []\nrequested.storage = []\n",
    )
}

/// What the file has, by the passphrase.
fn held(test: &Test) -> Value {
    let key = Key::Passphrase(PASSPHRASE.to_string().into());
    let held = file::read(&test.project().join("secrets.age")).unwrap().open(&key).unwrap();
    serde_json::to_value(held).unwrap()
}

/// A field of a shared secret.
fn value(held: &Value, name: &str) -> String {
    held["shared"][name]["fields"]["value"].as_str().unwrap_or_else(|| panic!("{name}")).to_string()
}

/// The program with something on its standard input.
fn with_input(test: &Test, args: &[&str], input: &str) -> std::process::Output {
    let mut child = test.command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// What a seed has beside the node's files: secret and field.
fn in_seed(test: &Test, seed: &str) -> BTreeMap<String, Vec<String>> {
    let tree = test.folder().join("tree");
    let _ = fs::remove_dir_all(&tree);
    let tool = Command::new("fsck.erofs")
        .arg(format!("--extract={}", tree.display()))
        .arg(test.project().join(seed))
        .output()
        .expect("run scripts/setup test");
    assert!(tool.status.success(), "{}", String::from_utf8_lossy(&tool.stderr));
    let file = tree.join("secrets.json");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let values: BTreeMap<String, BTreeMap<String, String>> = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    values.into_iter().map(|(name, fields)| (name, fields.into_keys().collect())).collect()
}

fn fields(expected: &[(&str, &[&str])]) -> BTreeMap<String, Vec<String>> {
    expected
        .iter()
        .map(|(name, fields)| ((*name).to_string(), fields.iter().map(|field| (*field).to_string()).collect()))
        .collect()
}

#[test]
fn init_draws_what_overlays_ask_for_and_tells_numbers_only() {
    let test = test();
    test.run(["secrets", "init"])
        .prints("     1  ca\n     1  certificate\n     2  password\nsecrets.age: 4 secrets drawn, 0 were there\n");
    let path = test.project().join("secrets.age");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let bytes = fs::read(&path).unwrap();
    assert!(bytes.starts_with(b"age-encryption.org/v1\n-> scrypt "), "{}", String::from_utf8_lossy(&bytes[..60]));
    assert_eq!(held(&test)["nodes"]["compute01"]["node"]["names"], serde_json::json!(["compute01", "172.16.0.34"]));
}

#[test]
fn init_again_adds_what_is_new_and_keeps_the_rest() {
    let test = test();
    test.run(["secrets", "init"]).succeeds();
    let (before, bytes) = (held(&test), fs::read(test.project().join("secrets.age")).unwrap());
    test.run(["secrets", "init"]).prints("secrets.age: 0 secrets drawn, 4 were there\n");
    assert!(fs::read(test.project().join("secrets.age")).unwrap() == bytes, "nothing new, and the file was written again");

    let node = "\n[[node]]\nname = \"compute02\"\nrole = \"compute\"\nmanagement = \"172.16.0.35\"\n";
    let test =
        test.append("site.toml", node).append("overlays/base/overlay.toml", "[[secret]]\nname = \"late\"\nkind = \"uuid\"\n");
    let json = test.run(["secrets", "init", "--json"]).json();
    assert_eq!((&json["drawn"], &json["secrets"]), (&serde_json::json!({ "uuid": 1, "certificate": 1 }), &Value::from(6)));
    let mut after = held(&test);
    assert!(after["shared"].as_object_mut().unwrap().remove("late").is_some());
    assert!(after["nodes"].as_object_mut().unwrap().remove("compute02").is_some());
    assert!(after == before, "what was there has changed");
}

#[test]
fn a_wrong_passphrase_and_none_are_errors_that_say_what_to_give() {
    let test = test();
    test.run(["secrets", "init"]).succeeds();
    let test = test.env("OSTACK_PASSPHRASE", "another passphrase");
    let wrong = "error: secrets.age: the passphrase does not open it\n  next: give the one that it was made with\n";
    test.run(["secrets", "init"]).fails(wrong);
    test.run(["seed", "compute01"]).fails(wrong);
    let test = test.env("OSTACK_PASSPHRASE", "");
    test.run(["seed", "compute01"]).fails(
        "error: secrets.age: it takes a passphrase to open it\n  next: give --passphrase-file FILE or OSTACK_PASSPHRASE\n",
    );
    // A file that has it is as good; only its first line counts.
    let test = test.write("passphrase", format!("{PASSPHRASE}\n"));
    test.run(["seed", "compute01", "--passphrase-file", "passphrase"]).prints("out/compute01.seed.img  1.0 MB\n");
}

#[test]
fn a_new_file_takes_no_short_passphrase_and_asks_nobody_who_is_not_there() {
    let test = test().env("OSTACK_PASSPHRASE", "short");
    test.run(["secrets", "init"]).fails("error: the passphrase is too short\n  next: take one of 12 characters or more\n");
    let test = test.env("OSTACK_PASSPHRASE", "");
    test.run(["secrets", "init"]).fails(
        "error: nothing says what the file of secrets is to be encrypted to\n  \
         next: give --passphrase-file FILE, OSTACK_PASSPHRASE or --recipient age1…\n",
    );
    assert!(!test.project().join("secrets.age").exists());
}

#[test]
fn recipients_open_the_file_with_their_identities_and_stay_when_it_is_written_again() {
    use age::secrecy::ExposeSecret;
    let identities = [age::x25519::Identity::generate(), age::x25519::Identity::generate()];
    let recipients = identities.each_ref().map(|identity| identity.to_public().to_string());
    let mut test = test().env("OSTACK_PASSPHRASE", "");
    for (index, identity) in identities.iter().enumerate() {
        test = test.write(&format!("identity{index}"), identity.to_string().expose_secret());
    }
    test.run(["secrets", "init", "--recipient", &recipients[0], "--recipient", &recipients[1]]).succeeds();
    test.run(["seed", "compute01"]).fails("error: secrets.age: it takes an identity to open it\n  next: give --identity FILE\n");
    let test = test.append("overlays/base/overlay.toml", "[[secret]]\nname = \"late\"\n");
    test.run(["secrets", "init", "--identity", "identity0"]).succeeds();
    test.run(["seed", "compute01", "--identity", "identity1"]).succeeds();
    let test = test.write("stranger", age::x25519::Identity::generate().to_string().expose_secret());
    test.run(["seed", "compute01", "--identity", "stranger"]).fails(
        "error: secrets.age: no identity opens it\n  next: name the identity of one of its recipients with --identity FILE\n",
    );
    test.run(["seed", "compute01", "--identity", "site.toml"]).fails(
        "error: site.toml: this is no file of age identities\n  next: name one that age-keygen wrote; it has a line AGE-SECRET-KEY-1…\n",
    );
}

#[test]
fn what_is_no_file_of_this_sites_secrets_is_refused() {
    let test = test();
    test.run(["secrets", "init", "--secrets", "mine.age"]).succeeds();
    test.run(["seed", "compute01", "--secrets", "absent.age"])
        .fails("error: there are no secrets yet: absent.age does not exist\n  next: run: ostack-image secrets init\n");
    test.run(["seed", "compute01", "--secrets", "site.toml"]).fails(
        "error: site.toml: this is no file of secrets: it is not encrypted by age\n  next: name another one with --secrets FILE\n",
    );
    let mut bytes = fs::read(test.project().join("mine.age")).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    let test = test.write("spoilt.age", bytes);
    test.run(["seed", "compute01", "--secrets", "spoilt.age"]).fails(
        "error: spoilt.age: it was changed after it was encrypted\n  \
         next: take a copy that is whole, from your version control or backup\n",
    );
    let test = test.replace("site.toml", "name = \"small\"", "name = \"other\"").env("OSTACK_SECRETS", "mine.age");
    test.run(["seed", "compute01"]).fails(
        "error: mine.age: these are the secrets of the site small, and this is other\n  \
         next: name this site's with --secrets FILE, or give the site its old name\n",
    );
}

#[test]
fn a_seed_without_secrets_is_refused_and_says_how_to_draw_them() {
    let test = test();
    test.run(["seed", "compute01"]).fails(
        "error: making the seed of compute01: there are no secrets yet: secrets.age does not exist\n  \
         next: run: ostack-image secrets init\n",
    );
    assert!(!test.project().join("out").exists());
}

#[test]
fn a_seed_has_what_its_nodes_files_ask_for_and_nothing_else() {
    let test = two_roles();
    test.run(["secrets", "init"]).succeeds();
    test.run(["seed", "compute01", "storage01"]).succeeds();
    // Nobody gets the authority's key; `fence` is in a file of compute01 alone, `disk` in one of storage nodes.
    let all: [(&str, &[&str]); 3] = [("db", &["value"]), ("node", &["bundle"]), ("site-ca", &["certificate"])];
    let [db, node, ca] = all;
    assert_eq!(in_seed(&test, "out/compute01.seed.img"), fields(&[db, ("fence", &["value"]), node, ca]));
    assert_eq!(in_seed(&test, "out/storage01.seed.img"), fields(&[db, ("disk", &["value"]), node, ca]));
}

#[test]
fn seeds_follow_from_the_file_of_secrets_alone() {
    let test = test();
    test.run(["secrets", "init"]).succeeds();
    test.run(["seed", "compute01", "--file", "one.img"]).succeeds();
    test.run(["seed", "compute01", "--file", "two.img"]).succeeds();
    let read = |name: &str| fs::read(test.project().join(name)).unwrap();
    assert!(read("one.img") == read("two.img"));
}

#[test]
fn rendered_with_secrets_a_node_has_them_in_a_folder_of_the_owners_alone() {
    let test = test();
    test.run(["secrets", "init"]).succeeds();
    let listing = test.run(["render", "compute01", "--json", "--out", "without"]).json();
    let mut with = test.run(["render", "compute01", "--json", "--secrets", "--out", "with"]).json();
    let folder = test.project().join("with");
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    assert_eq!(read("etc/db.conf"), format!("password = {}\n", value(&held(&test), "db")));
    assert_eq!(read("etc/node.pem").matches("-----BEGIN").count(), 3);
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    // Nothing that is printed follows from a value.
    with["folder"] = listing["folder"].clone();
    assert_eq!(with, listing);
    assert_eq!(fs::read_to_string(test.project().join("without/etc/db.conf")).unwrap(), "password = @ostack-secret:db:value@\n");
    test.run(["render", "compute01", "--secrets=absent.age", "--out", "no"])
        .fails("error: there are no secrets yet: absent.age does not exist\n  next: run: ostack-image secrets init\n");
    assert!(!test.project().join("no").exists());
}

#[test]
fn a_rotated_authority_takes_with_it_what_it_signed_and_nothing_else() {
    let test = two_roles();
    test.run(["secrets", "init"]).succeeds();
    let before = held(&test);
    test.run(["secrets", "rotate", "site-ca"])
        .prints("     1  ca\n     2  certificate\nsecrets.age: seed again the nodes of: compute, storage\n");
    let after = held(&test);
    let changed =
        |held: &Value| [&held["shared"]["site-ca"], &held["nodes"]["compute01"], &held["nodes"]["storage01"]].map(Value::clone);
    for (old, new) in changed(&before).into_iter().zip(changed(&after)) {
        assert!(old != new);
    }
    for name in ["db", "fence", "disk"] {
        assert!(value(&before, name) == value(&after, name), "{name}");
    }
}

#[test]
fn rotating_says_which_roles_have_what_changed() {
    let test = two_roles();
    test.run(["secrets", "init"]).succeeds();
    test.run(["secrets", "rotate", "disk"]).prints("     1  hex\nsecrets.age: seed again the nodes of: storage\n");
    test.run(["secrets", "rotate", "fence"]).prints("     1  password\nsecrets.age: seed again the nodes of: compute\n");
    test.run(["secrets", "rotate", "nothing"])
        .fails("error: no overlay declares the secret nothing\n  next: see their names with: ostack-image secrets list\n");
}

#[test]
fn a_value_that_is_not_drawn_comes_from_standard_input() {
    let test = test();
    test.run(["secrets", "init"]).succeeds();
    let ran = with_input(&test, &["secrets", "set", "fence"], "calvin\nignored\n");
    assert_eq!(
        (String::from_utf8_lossy(&ran.stdout).as_ref(), String::from_utf8_lossy(&ran.stderr).as_ref()),
        ("secrets.age: seed again the nodes of: compute\n", "")
    );
    assert_eq!(value(&held(&test), "fence"), "calvin");
    test.run(["secrets", "init"]).succeeds();
    assert_eq!(value(&held(&test), "fence"), "calvin");
    test.run(["secrets", "set", "node"]).fails(
        "error: node is no single value, but drawn with all that belongs to it\n  next: run: ostack-image secrets rotate node\n",
    );
    test.run(["secrets", "set", "fence"])
        .fails("error: standard input has no value\n  next: write it as the first line, for example from a file: … < FILE\n");
}

#[test]
fn the_list_has_names_kinds_and_whose_they_are() {
    let test = two_roles();
    let list = |drawn: [&str; 2]| {
        let row = |name: &str, kind: &str, whom: &str, drawn: &str, roles: &str| {
            format!("{name:<24} {kind:<12} {whom:<10} {drawn:<16} {roles}\n")
        };
        [
            row("db", "password", "the site", drawn[0], "compute, storage"),
            row("disk", "hex", "the site", drawn[0], "storage"),
            row("fence", "password", "the site", drawn[0], "compute, storage"),
            row("node", "certificate", "each node", drawn[1], "compute, storage"),
            row("site-ca", "ca", "the site", drawn[0], "compute, storage"),
        ]
        .concat()
    };
    test.run(["secrets", "list"]).prints(&list(["not drawn", "not drawn"]));
    test.run(["secrets", "init"]).succeeds();
    test.run(["secrets", "list"]).prints(&list(["drawn", "2 of 2 drawn"]));
}

#[test]
fn a_site_that_wants_the_guides_passwords_gets_them_and_is_warned() {
    let option = "\n[guide_passwords]\ndefault = false\ndescription = \"x\"\nwarning = \"everybody knows them\"\n";
    let test = test().append("recipes/options.toml", option).append("site.toml", "\n[options]\nguide_passwords = true\n");
    let ran = test.run(["secrets", "init"]);
    ran.succeeds();
    assert_eq!(ran.stderr(), "warning: site.toml: guide_passwords = true: everybody knows them\n");
    let held = held(&test);
    assert_eq!(value(&held, "db"), "123456");
    assert_eq!(value(&held, "fence").len(), 32);
}

#[test]
fn a_certificate_whose_names_have_changed_is_pointed_out() {
    let test = test();
    test.run(["secrets", "init"]).succeeds();
    let test = test.replace("site.toml", "management = \"172.16.0.34\"", "management = \"172.16.0.36\"");
    let ran: Ran = test.run(["secrets", "init"]);
    ran.prints("secrets.age: 0 secrets drawn, 4 were there\n");
    assert_eq!(ran.stderr(), "warning: node is for other names than the site has now; run: ostack-image secrets rotate node\n");
    test.run(["secrets", "rotate", "node"]).succeeds();
    let ran = test.run(["secrets", "init"]);
    assert_eq!(
        (ran.stderr().as_str(), held(&test)["nodes"]["compute01"]["node"]["names"][1].as_str()),
        ("", Some("172.16.0.36"))
    );
}

/// The secrets of every shipped role by the seeds of its first node: the whole list, so that nothing slips in.
#[test]
fn the_shipped_roles_get_these_secrets_and_no_others() {
    let test = Test::shipped().env("OSTACK_PASSPHRASE", PASSPHRASE);
    test.run(["secrets", "init"]).succeeds();
    test.run(["seed", "controller01", "compute01", "storage01"]).succeeds();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/seed_secrets.txt");
    let mut text = String::new();
    let mut authorities = BTreeSet::new();
    for node in ["controller01", "compute01", "storage01"] {
        for (name, fields) in in_seed(&test, &format!("out/{node}.seed.img")) {
            text.push_str(&format!("{node}  {name}  {}\n", fields.join(" ")));
            authorities.extend((name.ends_with("-ca") && fields.iter().any(|field| field == "key")).then_some(name));
        }
    }
    assert_eq!(authorities, BTreeSet::new(), "an authority's key is in a seed");
    assert_eq!(text, fs::read_to_string(&golden).unwrap(), "what roles need has changed: correct {}", golden.display());
}
