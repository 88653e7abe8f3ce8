//! A small role of real Debian packages: locked, built, built again, changed, looked at.

mod harness;

use harness::role::{host_files, lock, role};
use harness::{Test, store};
use ostack_image::base::name::Word;
use ostack_image::lock::Lock;
use serde_json::Value;
use std::fs;
use std::process::Command;

const STEPS: [&str; 8] = ["tools", "base", "boot", "packages", "overlay base", "overlay hosts", "agent", "lint"];

/// `plan compute` with these steps to build, each with its reasons.
fn plan(to_build: &[(&str, &str)]) -> String {
    STEPS
        .iter()
        .map(|step| match to_build.iter().find(|(name, _)| name == step) {
            Some((_, why)) => {
                let what = if *step == "lint" { "to run" } else { "to build" };
                format!("{step:13}  {what}\n{:13}    {why}\n", "")
            }
            None => format!("{step:13}  cached\n"),
        })
        .collect()
}

/// Layer name -> what `build --json` says of it.
fn layers(json: &Value, key: &str) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_string);
    json["layers"].as_array().unwrap().iter().map(|layer| (text(&layer["name"]), text(&layer[key]))).collect()
}

#[test]
fn an_image_is_the_base_the_packages_each_overlay_and_the_nodes_program() {
    let kinds = layers(&role().json, "kind");
    let kinds: Vec<(&str, &str)> = kinds.iter().map(|(name, kind)| (name.as_str(), kind.as_str())).collect();
    assert_eq!(
        kinds,
        [("system", "base"), ("packages", "packages"), ("base", "overlay"), ("hosts", "overlay"), ("ostack-node", "agent")]
    );
}

#[test]
fn skopeo_reads_the_store() {
    let source = format!("oci:{}:compute", role().store().display());
    let output = Command::new("skopeo").args(["inspect", &source]).output().expect("run scripts/setup test");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        [&said["Architecture"], &said["Os"], &said["Digest"]],
        [&Value::from("amd64"), &Value::from("linux"), &role().json["image"]["digest"]]
    );
}

#[test]
fn a_second_build_changes_nothing_and_says_so() {
    let test = role().duplicate();
    test.run(["build", "compute"]).succeeds();
    let (before, artifacts) = (store::snapshot(test.store()), store::snapshot(&test.project()));
    let ran = test.run(["build", "compute"]);
    ran.succeeds();
    assert!(ran.stdout().lines().last().unwrap().starts_with("nothing changed in "), "{}", ran.stdout());
    assert_eq!(ran.stderr(), "");
    assert_eq!(test.run(["build", "compute", "--json"]).json()["cached"], true);
    assert_eq!(store::changes(&before, &store::snapshot(test.store())), Vec::<String>::new());
    assert_eq!(store::changes(&artifacts, &store::snapshot(&test.project())), Vec::<String>::new());
}

#[test]
fn a_changed_line_rebuilds_its_layer_and_the_disk_and_nothing_else() {
    let test = role().duplicate();
    test.run(["plan", "compute"]).prints(&plan(&[]));
    let test = test.replace("overlays/base/templates/motd.tera", "This is a", "Here is a");
    test.run(["plan", "compute"]).prints(&plan(&[("overlay base", "/etc/motd changed")]));

    let json = test.run(["build", "compute", "--json"]).json();
    let ran: Vec<&String> = json["seconds"].as_object().unwrap().keys().collect();
    assert_eq!(ran, ["overlay base", "qcow2", "total"]);
    let (old, new) = (layers(&role().json, "digest"), layers(&json, "digest"));
    let changed: Vec<usize> = (0..old.len()).filter(|index| old[*index] != new[*index]).collect();
    assert_eq!(changed, [2], "of system, packages, base, hosts, agent");
    test.run(["plan", "compute"]).prints(&plan(&[]));

    let digest = |json: &Value| json["image"]["digest"].as_str().unwrap().to_string();
    let size = |json: &Value| layers(json, "size")[2].1.clone();
    test.run(["diff", "compute"]).prints(&format!(
        "a {}\nb {}\npackages: 0 changed\nsettings: 1 changed\n  /etc/motd (base)\n    - This is a compute of small.\n    \
         + Here is a compute of small.\nlayers: 1 changed\n  base {} -> {} bytes\n",
        digest(&role().json),
        digest(&json),
        size(&role().json),
        size(&json)
    ));
}

#[test]
fn the_plan_names_every_input_that_changed() {
    let test = role().duplicate();
    let test = test.replace("recipes/releases/small.toml", "\"isofs\"]", "\"isofs\", \"vfat\"]");
    test.run(["plan", "compute"]).prints(&plan(&[("boot", "modules changed")]));
    let test = test.replace("site.toml", "name = \"compute01\"", "name = \"compute07\"");
    test.run(["plan", "compute"]).prints(&plan(&[("boot", "modules changed"), ("overlay hosts", "/etc/hosts changed")]));
}

#[test]
fn a_layer_that_holds_what_the_release_forbids_is_in_no_image_and_each_file_is_named_with_whose_it_is() {
    let (test, release) = (role().duplicate(), "recipes/releases/small.toml");
    let built = fs::read(test.project().join(release)).unwrap();
    let rule = "\n[[forbid]]\npaths = [\"/etc/shells\", \"/etc/debian_v*\"]\nwhy = \"an example\"\n\n\
                [[forbid]]\npaths = [\"/etc/pam.d/*\"]\ncontent = '(?m)^auth.*pam_rootok'\nwhy = \"another one\"\n";
    let test = test.append(release, rule);
    // A stricter rule asks for no layer again.
    test.run(["plan", "compute"]).prints(&plan(&[("lint", "forbidden changed")]));
    for command in ["build", "check"] {
        test.run([command, "compute"]).fails(
            "error: packages of compute leave 4 files that no layer may hold:\n  \
             /etc/debian_version (base-files; layer system): an example\n  \
             /etc/pam.d/runuser (util-linux; layer system): another one\n  \
             /etc/pam.d/su (util-linux; layer system): another one\n  \
             /etc/shells (made by a script; that of debianutils names it; layer system): an example\n  \
             next: take each out by a line under [clean] of recipes/releases/small.toml; what a node must have and keep, an overlay \
             declares as [[state]] or [[secret]]\n",
        );
    }
    test.write(release, built).run(["plan", "compute"]).prints(&plan(&[]));
}

#[test]
fn inspect_shows_layers_packages_and_files() {
    let image = role().run(["inspect", "compute", "--json"]).json();
    let packages: String = image["packages"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, version)| format!("{name} {}\n", version.as_str().unwrap()))
        .collect();
    assert!(packages.contains("\nsystemd 2"), "{packages}");
    role().run(["inspect", "compute", "--packages"]).prints(&packages);

    let megabytes = |value: &Value| value.as_u64().unwrap() as f64 / 1e6;
    let mut expected = format!(
        "image     {}\nrole      compute\nrelease   small\nmade of   {} packages as of {}\nkernel    {:.1} MB, initrd {:.1} MB\n\
         arguments console=ttyS0,115200n8 panic=30\nlayers    {:.1} MB\n",
        image["manifest"]["digest"].as_str().unwrap(),
        packages.lines().count(),
        ostack_image::image::manifest::humane(image["epoch"].as_i64().unwrap()),
        megabytes(&image["kernel"]["size"]),
        megabytes(&image["initrd"]["size"]),
        megabytes(&image["size"]),
    );
    for layer in image["layers"].as_array().unwrap() {
        let text = |key: &str| layer[key].as_str().unwrap();
        let size = megabytes(&layer["blob"]["size"]);
        expected += &format!("  {:12} {:8} {size:10.3} MB  {}\n", text("name"), text("kind"), text("diff_id"));
    }
    role().run(["inspect", "compute"]).prints(&(expected + "state\n  log        /var/log\n"));

    let test = role().duplicate();
    test.run(["inspect", "compute", "--files", "base"]).prints(
        "0755     0:0     directory /\n0755     0:0     directory /etc\n0640     0:4     file      /etc/issue 14\n\
         0777     0:0     link      /etc/localtime /usr/share/zoneinfo/UTC\n0644     0:0     file      /etc/motd 34\n\
         0755     0:0     directory /etc/sysctl.d\n0644     0:0     file      /etc/sysctl.d/60-base.conf 24\n",
    );
    test.run(["inspect", "compute", "--files", "host"])
        .fails("error: the image has no layer `host`\n  next: use one of: system, packages, base, hosts, ostack-node\n");
}

#[test]
fn of_a_folder_that_the_release_prunes_only_the_files_to_keep_stay() {
    let files = role().run(["inspect", "compute", "--files", "system"]);
    let below = |folder: &str| -> Vec<String> {
        let text = files.stdout();
        let files = text.lines().filter(|line| line.contains(" file ") && line.contains(folder));
        files.map(|line| line.rsplit('/').next().unwrap().split(' ').next().unwrap().to_string()).collect()
    };
    let mut kept = below(" /usr/share/doc/");
    kept.dedup();
    assert_eq!((kept, below(" /usr/share/man/")), (vec!["copyright".to_string()], Vec::new()));
}

#[test]
fn the_store_lists_checks_and_cleans_itself() {
    let test = role().duplicate();
    let digest = role().json["image"]["digest"].as_str().unwrap();
    let image = test.run(["inspect", "compute", "--json"]).json();
    let size = image["size"].as_u64().unwrap() as f64 / 1e6;
    test.run(["store", "ls"]).prints(&format!("compute              {digest}  {size:.1} MB  small\n"));
    let blobs = fs::read_dir(test.store().join("blobs/sha256")).unwrap().count();
    test.run(["store", "verify"]).prints(&format!("{blobs} blobs, 0 damaged\n"));

    // Needed: manifest, config, kernel, initrd and the layers. All else are packages.
    let needed = 4 + image["layers"].as_array().unwrap().len();
    let said = test.run(["store", "gc", "--json"]).json();
    assert_eq!(said["removed"], blobs - needed);
    test.run(["store", "verify"]).prints(&format!("{needed} blobs, 0 damaged\n"));
    test.run(["build", "compute", "--offline"]).succeeds();
    assert_eq!(test.run(["build", "compute", "--offline", "--json"]).json()["cached"], true);
}

#[test]
fn a_damaged_layer_reaches_no_disk() {
    let test = role().duplicate();
    let image = test.run(["inspect", "compute", "--json"]).json();
    let digest = image["layers"][1]["blob"]["digest"].as_str().unwrap();
    let path = format!("TEST/store/blobs/sha256/{}", digest.strip_prefix("sha256:").unwrap());
    store::flip_a_byte(&store::blob(test.store(), &digest.parse().unwrap()));
    let before = store::snapshot(test.store());
    test.run(["build", "compute"]).fails(&format!(
        "error: the stored blob {digest} is damaged: its bytes have another digest\n  next: remove {path} and build again\n"
    ));
    assert_eq!(store::changes(&before, &store::snapshot(test.store())), Vec::<String>::new());
    assert_eq!(fs::read_dir(test.project().join("out")).unwrap().count(), 0);
    let ran = test.run(["store", "verify"]);
    assert_eq!(ran.stderr(), format!("error: damaged blobs:\n{path}\n  next: remove these files and build again\n"));
}

#[test]
fn an_overlay_may_replace_anothers_file_when_it_says_so() {
    let test = Test::new()
        .append("overlays/hosts/overlay.toml", "\n[[file]]\npath = \"/etc/motd\"\ncontent = \"Mine\\n\"\noverride = true\n");
    test.run(["render", "compute01", "--out", "tree"])
        .prints("/etc/hostname\n/etc/hosts\n/etc/issue\n/etc/localtime\n/etc/motd\n/etc/sysctl.d/60-base.conf\n");
    assert_eq!(fs::read_to_string(test.project().join("tree/etc/motd")).unwrap(), "Mine\n");
}

#[test]
fn building_leaves_nothing_of_the_machine_changed_and_nothing_behind() {
    assert_eq!(role().host, host_files());
    assert_eq!(role().left, Vec::<String>::new());
}

#[test]
fn raw_and_qcow2_are_the_same_disk_and_each_stands_alone() {
    let test = role().duplicate();
    let json = test.run(["build", "compute", "--format", "raw,qcow2", "--json"]).json();
    let formats: Vec<&str> = json["artifacts"].as_array().unwrap().iter().map(|one| one["format"].as_str().unwrap()).collect();
    assert_eq!(formats, ["raw", "qcow2"]);
    let out = test.project().join("out");
    let tool = |line: &str| {
        let output = Command::new("sh").args(["-ec", line]).current_dir(&out).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(tool("sha256sum -c compute.raw.sha256"), "compute.raw: OK\n");
    assert_eq!(tool("qemu-img compare compute.raw compute.qcow2"), "Images are identical.\n");
    assert!(tool("qemu-img check compute.qcow2").starts_with("No errors were found on the image.\n"));
    let info: Value = serde_json::from_str(&tool("qemu-img info --output=json compute.qcow2")).unwrap();
    let data = &info["format-specific"]["data"];
    assert_eq!((&info["backing-filename"], &data["data-file"], &data["compat"]), (&Value::Null, &Value::Null, &"1.1".into()));
}

#[test]
fn the_inspection_that_clouds_and_their_bare_metal_service_do_takes_both_formats() {
    let test = role().duplicate();
    test.run(["build", "compute", "--format", "raw,qcow2"]).succeeds();
    let out = test.project().join("out");
    let inspect = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/inspect_image.py");
    let inspect = |files: &[&str]| {
        let output = harness::python().arg(&inspect).args(files).current_dir(&out).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(inspect(&["compute.qcow2", "compute.raw"]), "compute.qcow2: qcow2, safe\ncompute.raw: gpt, safe\n");
    // It does look: an image that stands on another one is none for a cloud.
    let over = ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "compute.qcow2", "over.qcow2"];
    assert!(Command::new("qemu-img").args(over).current_dir(&out).status().unwrap().success());
    assert_eq!(inspect(&["over.qcow2"]), "over.qcow2: qcow2, Safety checks failed: backing_file\n");
}

/// The small project with a second role, of the first one's packages and overlays, and nothing built.
fn two_roles() -> Test {
    let test = role().unbuilt();
    let recipe = fs::read(test.project().join("recipes/compute.toml")).unwrap();
    let (first, second): (Word, Word) = ("compute".parse().unwrap(), "storage".parse().unwrap());
    let mut lock = lock(&test);
    if let Some(requested) = lock.requested.get(&first).cloned() {
        lock.requested.insert(second.clone(), requested);
    }
    for package in lock.packages.values_mut().filter(|package| package.sets.contains(&first)) {
        package.sets.insert(second.clone());
    }
    Lock { releases: [("small".parse().unwrap(), lock)].into() }.write(&test.project().join("ostack.lock")).unwrap();
    test.write("recipes/storage.toml", recipe)
}

#[test]
fn roles_that_are_built_side_by_side_share_their_base_and_have_the_bytes_of_those_built_alone() {
    let (together, alone) = (two_roles(), two_roles());
    let json = together.run(["build", "--all", "--json"]).json();
    let both = json.as_array().unwrap();
    for (index, role) in ["compute", "storage"].into_iter().enumerate() {
        let built = alone.run(["build", role, "--json"]).json();
        assert_eq!(
            (&both[index]["role"], &both[index]["artifacts"][0]["digest"]),
            (&built["role"], &built["artifacts"][0]["digest"])
        );
    }
    for step in ["tools", "base", "boot", "agent", "overlay hosts"] {
        let builders = both.iter().filter(|role| role["seconds"].as_object().unwrap().contains_key(step)).count();
        assert_eq!(builders, 1, "roles that built the step {step}");
    }
}
