//! `seed`: one node's, several, a whole site's.

mod harness;

use harness::Test;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

/// The small project with a recipe for every role.
fn test() -> Test {
    let recipe = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/small/recipes/compute.toml")).unwrap();
    Test::new().write("recipes/controller.toml", &recipe).write("recipes/storage.toml", &recipe).replace(
        "ostack.lock",
        "requested.compute = [\n]\n",
        "requested.compute = []\nrequested.controller = []\nrequested.storage = []\n",
    )
}

/// The same with so many more compute nodes.
fn large(more: usize) -> Test {
    let mut nodes = String::new();
    for index in 0..more {
        let (high, low) = (1 + index / 250, 1 + index % 250);
        let name = format!("compute{:04}", index + 2);
        write!(nodes, "\n[[node]]\nname = \"{name}\"\nrole = \"compute\"\nmanagement = \"172.16.{high}.{low}\"\n").unwrap();
    }
    test().append("site.toml", &nodes)
}

/// The bytes of the files in a folder of the project, by name; all of them are their owner's alone.
fn files(test: &Test, folder: &str) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(test.project().join(folder)).unwrap().map(|entry| entry.unwrap());
    let read = |entry: fs::DirEntry| {
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.file_name());
        (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
    };
    entries.map(read).collect()
}

#[test]
fn all_seeds_written_at_once_are_those_of_each_node() {
    let test = test();
    test.run(["seed", "--all", "--out", "all"])
        .prints("all/controller01.seed.img  1.0 MB\nall/compute01.seed.img  1.0 MB\nall/storage01.seed.img  1.0 MB\n");
    for node in ["controller01", "compute01", "storage01"] {
        test.run(["seed", node, "--out", "each"]).prints(&format!("each/{node}.seed.img  1.0 MB\n"));
    }
    assert_eq!(files(&test, "all").len(), 3);
    assert!(files(&test, "all") == files(&test, "each"));
}

#[test]
fn a_seed_has_the_nodes_own_files_and_says_whose_it_is() {
    let test = test();
    test.run(["seed", "compute01", "--file", "seed.img"]).prints("seed.img  1.0 MB\n");
    let tool = Command::new("fsck.erofs").args(["--extract=tree", "seed.img"]).current_dir(test.project()).output().unwrap();
    assert!(tool.status.success(), "{}", String::from_utf8_lossy(&tool.stderr));
    let tree = test.project().join("tree");
    let mut found = BTreeMap::new();
    for entry in walkdir::WalkDir::new(&tree).into_iter().map(|entry| entry.unwrap()).filter(|entry| entry.file_type().is_file())
    {
        let path = entry.path().strip_prefix(&tree).unwrap().display().to_string();
        found.insert(path, fs::read_to_string(entry.path()).unwrap());
    }
    let seed = "{\"format\":1,\"node\":\"compute01\",\"role\":\"compute\",\"site\":\"small\"}\n";
    let expected = [("layer/etc/hostname", "compute01\n"), ("seed.json", seed)];
    assert_eq!(found, expected.map(|(path, text)| (path.to_string(), text.to_string())).into());
}

#[test]
fn hundreds_of_nodes_have_each_a_seed_of_their_own_that_is_mostly_a_hole() {
    let test = large(400);
    assert_eq!(test.run(["seed", "--all", "--json"]).json().as_array().unwrap().len(), 403);
    let seeds = files(&test, "out");
    assert_eq!(seeds.len(), 403);
    for (name, bytes) in &seeds {
        let node = name.strip_suffix(".seed.img").unwrap();
        let own = format!("{{\"format\":1,\"node\":\"{node}\",");
        assert!(bytes.windows(own.len()).any(|window| window == own.as_bytes()), "{name}");
        let blocks = fs::metadata(test.project().join("out").join(name)).unwrap().blocks();
        assert!(bytes.len() == 1 << 20 && blocks * 512 <= 64 << 10, "{name}: {} bytes, {blocks} blocks", bytes.len());
    }
    test.run(["seed", "compute0333", "--out", "one"]).succeeds();
    assert!(files(&test, "one")["compute0333.seed.img"] == seeds["compute0333.seed.img"]);
}

#[test]
fn a_mistake_in_one_nodes_files_names_it_and_leaves_no_seed() {
    // Of the two nodes it is always the first that is named.
    let slip = "{% if node.name is matching(\"0(1|2)00\") %}{{ node.nme }}{% endif %}\n";
    let test = large(400).write("overlays/base/templates/hostname.tera", slip);
    test.run(["seed", "--all"]).fails(
        "error: writing the seed of compute0100: overlays/base/templates/hostname.tera:1: there is no `node.nme`\n  \
         next: use one of: node.cores, node.external, node.external_mac, node.fence, node.index, node.mac, \
         node.management, node.memory_mib, node.name, node.provider_interface, node.role, node.serial\n",
    );
    assert_eq!(files(&test, "out"), BTreeMap::new());
}

#[test]
fn one_file_takes_one_seed() {
    let test = test();
    test.run(["seed", "compute01", "storage01", "--file", "seed.img"]).fails(
        "error: seed.img is one file, and these are 2 nodes\n  next: leave --file out, and name the folder with --out DIR\n",
    );
    test.run(["seed", "compute01", "compute01", "--file", "seed.img"]).prints("seed.img  1.0 MB\n");
}
