//! The data that ships with the program: site, recipes, releases, overlays.

use ostack_image::model::load::{LoadedOverlay, Project};
use ostack_image::model::recipe::Recipe;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn project() -> Project {
    Project { root: PathBuf::from(env!("CARGO_MANIFEST_DIR")) }
}

/// Every role's recipe with its overlays; fails on the first error in any file.
fn recipes() -> Vec<(String, Recipe, Vec<LoadedOverlay>)> {
    let project = project();
    project
        .roles()
        .into_iter()
        .map(|role| {
            let recipe = project.recipe(role).unwrap();
            let overlays = project.overlays(&recipe, &project.recipe_path(role)).unwrap();
            (role.to_string(), recipe, overlays)
        })
        .collect()
}

fn names_in(folder: &Path) -> BTreeSet<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return BTreeSet::new() };
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn the_shipped_site_recipes_releases_and_overlays_are_without_error() {
    let site = Project::site(&project().root.join("site.toml")).unwrap();
    assert_eq!(site.nodes.len(), 9);
    project().release(&site.release).unwrap();
    for file in names_in(&project().root.join("recipes/releases")) {
        project().release(&file.strip_suffix(".toml").unwrap().parse().unwrap()).unwrap();
    }
    assert_eq!(recipes().len(), 3);
}

#[test]
fn every_overlay_is_in_a_recipe() {
    let used: BTreeSet<String> =
        recipes().iter().flat_map(|(_, recipe, _)| recipe.overlays.iter().map(|(name, _)| name.to_string())).collect();
    assert_eq!(used, names_in(&project().root.join("overlays")));
}

#[test]
fn an_overlay_has_every_template_and_file_that_it_names_and_no_other() {
    for overlay in recipes().into_iter().flat_map(|(_, _, overlays)| overlays) {
        let named = |pick: fn(&ostack_image::model::overlay::FileEntry) -> &Option<String>| -> BTreeSet<String> {
            overlay.overlay.files.iter().filter_map(|file| pick(file).clone()).collect()
        };
        assert_eq!(names_in(&overlay.template_folder), named(|file| &file.template), "{}", overlay.name);
        assert_eq!(names_in(&overlay.file.with_file_name("files")), named(|file| &file.source), "{}", overlay.name);
    }
}

#[test]
fn only_releases_that_exist_are_named() {
    let known: BTreeSet<String> = names_in(&project().root.join("recipes/releases"));
    for overlay in recipes().into_iter().flat_map(|(_, _, overlays)| overlays) {
        let it = &overlay.overlay;
        let named = it
            .packages
            .keys()
            .chain(it.debconf.keys())
            .chain(it.files.iter().filter_map(|entry| entry.release.as_ref()))
            .chain(it.links.iter().filter_map(|entry| entry.release.as_ref()))
            .chain(it.directories.iter().filter_map(|entry| entry.release.as_ref()))
            .chain(it.state.iter().filter_map(|entry| entry.release.as_ref()));
        for release in named {
            assert!(known.contains(&format!("{release}.toml")), "{} names {release}", overlay.name);
        }
    }
}

#[test]
fn a_recipe_sets_only_parameters_that_the_overlay_declares() {
    for (role, recipe, overlays) in recipes() {
        for (name, values) in &recipe.parameters {
            let overlay = overlays.iter().find(|overlay| overlay.name == *name).unwrap();
            for key in values.keys() {
                assert!(overlay.overlay.parameters.contains_key(key), "{role}: {name} has no parameter {key}");
            }
        }
    }
}

#[test]
fn an_account_number_belongs_to_one_account_and_lies_where_distributions_do_not_count() {
    let release = project().release(&"epoxy-debian13".parse().unwrap()).unwrap();
    let free = |id: u32| (500..600).contains(&id) || (64000..65000).contains(&id);
    let mut users = BTreeMap::new();
    for user in &release.users {
        assert!(free(user.uid), "{}", user.name);
        assert_eq!(users.insert(user.uid, &user.name), None, "{}", user.name);
    }
    let mut groups = BTreeMap::new();
    for group in &release.groups {
        assert!(free(group.gid), "{}", group.name);
        assert_eq!(groups.insert(group.gid, &group.name), None, "{}", group.name);
    }
    for user in &release.users {
        let nogroup = 65534;
        assert!(user.gid == user.uid || user.gid == nogroup || groups.contains_key(&user.gid), "{}", user.name);
    }
}

#[test]
fn the_bytes_of_a_helper_are_part_of_what_a_root_is_made_from() {
    let configure = project().release(&"epoxy-debian13".parse().unwrap()).unwrap().configure;
    let mut other = configure.clone();
    other.helpers.values_mut().next().unwrap().push(b'\n');
    let identity = |configure| serde_json::to_string(configure).unwrap();
    assert_ne!(identity(&configure), identity(&other));
}
