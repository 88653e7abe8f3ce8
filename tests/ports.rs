//! What listens is declared: the packet filter closes everything else.

mod harness;

use harness::Test;
use ostack_image::base::name::Role;
use ostack_image::model::load::Project;
use ostack_image::plan::context::Values;
use ostack_image::plan::render::Templates;
use serde_json::json;
use std::collections::BTreeSet;
use std::path::Path;

/// The ports that the overlays of a role declare for a release, with every option at its default.
fn declared(project: &Project, role: Role, release: &str) -> BTreeSet<u16> {
    let options = project.options().unwrap();
    let option: serde_json::Map<_, _> = options.iter().map(|(name, one)| (name.to_string(), json!(one.default))).collect();
    let recipe = project.recipe(role).unwrap();
    let mut ports = BTreeSet::new();
    for overlay in project.overlays(&recipe, &project.recipe_path(role)).unwrap() {
        let context = json!({ "option": option, "param": overlay.overlay.parameters, "release": release });
        let context = Values::new(context.as_object().unwrap().clone());
        for entry in
            overlay.overlay.ports.iter().filter(|entry| entry.release.as_ref().is_none_or(|only| only.as_str() == release))
        {
            let list = Templates::render_text(&entry.ports, &context).unwrap();
            for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
                let (first, last) = part.split_once('-').unwrap_or((part, part));
                ports.extend(first.parse::<u16>().unwrap()..=last.parse().unwrap());
            }
        }
    }
    ports
}

/// The ports that a text names behind an address.
fn named(text: &str, address: &str) -> BTreeSet<u16> {
    let before = format!("{address}:");
    text.split(&before).skip(1).filter_map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()).collect()
}

fn files(folder: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else if let Ok(text) = std::fs::read_to_string(entry.path()) {
            found.push((entry.path().display().to_string(), text));
        }
    }
    found
}

#[test]
fn every_port_that_a_controllers_files_name_at_its_address_or_the_vip_is_declared() {
    for release in ["epoxy-debian13", "train-centos7"] {
        let test = Test::shipped();
        let out = test.folder().join("out");
        let out_text = out.to_str().unwrap();
        test.run(["--release", release, "render", "controller01", "--out", out_text]).succeeds();
        let declared = declared(&Project { root: test.project() }, Role::Controller, release);
        let mut seen = BTreeSet::new();
        for (file, text) in files(&out) {
            for port in ["172.16.181.30", "172.16.181.31"].iter().flat_map(|address| named(&text, address)) {
                assert!(declared.contains(&port), "{release}: no overlay declares {port} of {file}");
                seen.insert(port);
            }
        }
        assert!(seen.is_superset(&BTreeSet::from([443, 2379, 3306, 4567, 5671, 9200])), "{release}: {seen:?}");
    }
}
