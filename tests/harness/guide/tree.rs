//! What every node of the guide's site gets in the release `train-centos7`.

use ostack_image::base::name::{Role, Word};
use ostack_image::base::path::RelPath;
use ostack_image::model::load::{LoadedOverlay, Project};
use ostack_image::model::options;
use ostack_image::model::placeholder;
use ostack_image::model::recipe::Recipe;
use ostack_image::model::release::Release;
use ostack_image::model::{Source, site};
use ostack_image::plan::files::{File, FileKind, FileSet};
use ostack_image::plan::{self, Inputs, Locked, Planner, secrets};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The guide's release.
pub const RELEASE: &str = "train-centos7";

/// The nine nodes' files, and the packages that their recipes ask for.
pub struct Trees {
    /// Node -> its tree.
    pub nodes: BTreeMap<String, Tree>,
    /// Role -> packages.
    pub packages: BTreeMap<String, BTreeSet<String>>,
    /// Secret -> the value that the guide has for it.
    guide_secrets: BTreeMap<String, String>,
    users: BTreeMap<u32, String>,
}

/// One node's files.
pub struct Tree {
    /// Its role.
    pub role: String,
    /// Its files by path, with the leading slash.
    pub files: BTreeMap<String, File>,
}

impl Tree {
    /// The texts of the files whose path a shell pattern matches.
    pub fn texts(&self, pattern: &str) -> Vec<String> {
        let pattern = glob::Pattern::new(pattern).unwrap();
        let text = |(path, file): (&String, &File)| match &file.kind {
            FileKind::Regular(bytes) if pattern.matches(path) => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        };
        self.files.iter().filter_map(text).collect()
    }

    /// The target of a link.
    pub fn link(&self, path: &str) -> Option<&str> {
        match &self.files.get(path)?.kind {
            FileKind::Link(target) => Some(target),
            _ => None,
        }
    }

    /// Whether systemd starts a unit at boot.
    pub fn enables(&self, unit: &str) -> bool {
        let pattern = glob::Pattern::new(&format!("/etc/systemd/system/*.wants/{unit}")).unwrap();
        self.files.keys().any(|path| pattern.matches(path))
    }
}

impl Trees {
    /// Renders the shipped site as the guide has it: without TLS, which the guide does not know, and with its time server.
    pub fn render() -> Self {
        let project = Project { root: super::project() };
        let site_file = project.root.join("site.toml");
        let text = std::fs::read_to_string(&site_file).unwrap();
        let text = text.replacen("[options]\n", "[options]\ntls = false\ninternal_tls = false\n", 1);
        let text = text.replacen("[ntp]\nservers = []", "[ntp]\nservers = [\"172.16.254.1\"]", 1);
        assert!(text.contains("tls = false") && text.contains("172.16.254.1"), "site.toml has lost [options] or [ntp]");
        let site = site::parse(&Source { file: &site_file, text: &text }).unwrap();
        let release_name: Word = RELEASE.parse().unwrap();
        let release = project.release(&release_name).unwrap();
        let roles: Vec<(Role, Recipe, PathBuf, Vec<LoadedOverlay>)> = project
            .roles()
            .into_iter()
            .map(|role| {
                let (recipe, path) = (project.recipe(role).unwrap(), project.recipe_path(role));
                let overlays = project.overlays(&recipe, &path).unwrap();
                (role, recipe, path, overlays)
            })
            .collect();
        let secrets = secrets::declared(roles.iter().flat_map(|(_, _, _, overlays)| overlays)).unwrap();
        let (options, _) = options::of_site(&project.options().unwrap(), &site, &site_file).unwrap();

        let mut nodes = BTreeMap::new();
        for (role, recipe, recipe_file, overlays) in &roles {
            let inputs = Inputs {
                site: &site,
                site_file: &site_file,
                role: *role,
                recipe,
                recipe_file,
                overlays,
                release_name: &release_name,
                release: &release,
                options: &options,
                secrets: &secrets,
            };
            let mut planner = Planner::new(inputs).unwrap_or_else(|error| panic!("{error}"));
            let of_role = planner.role(Locked::default()).unwrap_or_else(|error| panic!("{error}"));
            for node in site.of_role(*role) {
                let own = planner.nodes().plan(node).unwrap_or_else(|error| panic!("{error}"));
                let mut files = FileSet::new();
                of_role.overlays.iter().for_each(|step| files.extend(step.files.clone()));
                files.extend(own);
                let files = files.into_iter().map(|(path, file)| (absolute(&path), file)).collect();
                nodes.insert(node.name.to_string(), Tree { role: role.to_string(), files });
            }
        }
        let guide = |(name, one): (&Word, &secrets::Declared)| Some((name.to_string(), one.entry.guide.clone()?));
        Self {
            nodes,
            packages: packages(&release, &release_name, &roles),
            guide_secrets: secrets.iter().filter_map(guide).collect(),
            users: release.users.iter().map(|user| (user.uid, user.name.clone())).collect(),
        }
    }

    /// A text with the guide's values in place of secrets.
    pub fn with_guide_secrets(&self, text: &str) -> String {
        self.guide_secrets
            .iter()
            .fold(text.to_string(), |text, (name, value)| text.replace(&placeholder::placeholder(name, "value"), value))
    }

    /// `user:group` of a file, both by the user's name, as the guide's services have it.
    pub fn owner(&self, file: &File) -> String {
        let name = |id: u32| self.users.get(&id).cloned().unwrap_or_else(|| if id == 0 { "root".into() } else { id.to_string() });
        format!("{}:{}", name(file.uid), name(file.gid))
    }
}

fn packages(
    release: &Release,
    name: &Word,
    roles: &[(Role, Recipe, PathBuf, Vec<LoadedOverlay>)],
) -> BTreeMap<String, BTreeSet<String>> {
    let asked: Vec<(Role, &Recipe, &Path, &[LoadedOverlay])> =
        roles.iter().map(|(role, recipe, path, overlays)| (*role, recipe, path.as_path(), overlays.as_slice())).collect();
    let sets = plan::requested(release, &asked, name).unwrap();
    let of = |set: &str| sets[&set.parse::<Word>().unwrap()].iter().map(ToString::to_string).collect::<BTreeSet<String>>();
    let role = |(role, ..): &(Role, Recipe, PathBuf, Vec<LoadedOverlay>)| (role.to_string(), &of("base") | &of(role.as_str()));
    roles.iter().map(role).collect()
}

fn absolute(path: &RelPath) -> String {
    path.to_string()
}
