//! The bundle for Anaconda: a kickstart file per node, and what it fetches.
//!
//! ```text
//! NODE/ks.cfg                 from images/kickstart/, with every digest that it relies on
//! overlays/SHA256.tar.gz      an overlay of a role, or a node's own files; the digest is the file's
//! images/SHA256.tar.gz        a role's whole root, where that is what is installed
//! programs/SHA256             ostack-node
//! manifest.json               which node has what
//! SHA256SUMS                  every other file
//! ```
//!
//! No file has a secret: where one belongs is a placeholder.

use crate::base::digest::Digest;
use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use crate::base::path::RelPath;
use crate::image::artifact::Artifact;
use crate::layer::gzip::Gzip;
use crate::layer::tar;
use crate::layer::tree::Tree;
use crate::model::disk::bytes;
use crate::model::kickstart::KickstartSpec;
use crate::model::load::KICKSTART_TEMPLATES;
use crate::model::site::Node;
use crate::plan::PlannedState;
use crate::plan::context::Values;
use crate::plan::files::FileSet;
use crate::plan::render::Templates;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A kickstart file's name in its node's folder.
const FILE: &str = "ks.cfg";
/// The list of all others.
const SUMS: &str = "SHA256SUMS";
/// Where the program lies on a node.
pub const PROGRAM: &str = "/usr/lib/ostack/ostack-node";

/// What is the same for every node of a role.
pub struct RoleParts {
    /// The overlays' files, in the recipe's order, by name.
    pub overlays: Vec<(String, FileSet)>,
    /// What outlives a reinstallation.
    pub state: Vec<PlannedState>,
    /// Packages as `%packages` has them.
    pub packages: Vec<String>,
    /// Whether they are exact versions.
    pub locked: bool,
    /// Accounts with their numbers, for the template.
    pub users: Vec<Value>,
    /// Groups with theirs.
    pub groups: Vec<Value>,
    /// The role's root, if that is what is installed, and no packages.
    pub image: Option<Archive>,
}

/// A bundle in the making: files by their paths.
pub struct Bundle<'a> {
    /// Settings and templates.
    pub spec: &'a KickstartSpec,
    /// What every template sees: `site`, `server`, `network`, `repositories`, `option`.
    pub values: Values,
    /// Times in archives, in seconds since 1970.
    pub epoch: i64,
    files: BTreeMap<String, Vec<u8>>,
    /// Files that lie somewhere already.
    large: BTreeMap<String, (PathBuf, Digest)>,
    nodes: BTreeMap<String, Value>,
}

/// A file that a node fetches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Archive {
    /// For people.
    name: String,
    /// Its path in the bundle.
    file: String,
    sha256: String,
    /// Where it is put, if it is a program and no archive.
    program: Option<String>,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Written {
    /// The bundle's folder.
    pub path: PathBuf,
    /// sha256 of its list of files.
    pub digest: Digest,
    /// The nodes.
    pub nodes: Vec<String>,
    /// Files, all together.
    pub files: usize,
    /// Whether packages have exact versions.
    pub locked: bool,
    /// Whether nodes get their role's root instead of packages.
    pub images: bool,
}

impl<'a> Bundle<'a> {
    /// An empty one.
    pub fn new(spec: &'a KickstartSpec, values: Values, epoch: i64) -> Self {
        Self { spec, values, epoch, files: BTreeMap::new(), large: BTreeMap::new(), nodes: BTreeMap::new() }
    }

    /// Adds the program.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn program(&mut self, program: &Path) -> Result<Archive> {
        let bytes = fs::read(program)?;
        let sha256 = Digest::of(&bytes).hex();
        let file = format!("programs/{sha256}");
        self.files.insert(file.clone(), bytes);
        Ok(Archive { name: "ostack-node".into(), file, sha256, program: Some(PROGRAM.into()) })
    }

    /// Adds a role's root.
    pub fn root(&mut self, artifact: &Artifact) -> Archive {
        let sha256 = artifact.digest.hex();
        let file = format!("images/{sha256}.tar.gz");
        self.large.insert(file.clone(), (artifact.path.clone(), artifact.digest));
        Archive { name: "the image".into(), file, sha256, program: None }
    }

    /// Adds an archive of files; one that is there already is the same.
    ///
    /// # Errors
    /// Writing fails.
    pub fn archive(&mut self, name: &str, files: &FileSet) -> Result<Archive> {
        let leave = |path: &RelPath| self.spec.leave.contains(path);
        let files: FileSet =
            files.iter().filter(|(path, _)| !leave(path)).map(|(path, file)| (path.clone(), file.clone())).collect();
        let mut packed = Gzip::new(Vec::new());
        // Folders that nobody declares belong to packages.
        tar::write(&Tree::of_files(&files, self.epoch).only(&files), &mut packed)?;
        let bytes = packed.finish().doing(|| format!("packing {name}"))?;
        let sha256 = Digest::of(&bytes).hex();
        let file = format!("overlays/{sha256}.tar.gz");
        self.files.insert(file.clone(), bytes);
        Ok(Archive { name: name.to_string(), file, sha256, program: None })
    }

    /// Adds a node's file. `shared` come in the order in which they are unpacked, then the node's own.
    ///
    /// # Errors
    /// A template, with file and line.
    pub fn node(&mut self, node: &Node, role: &RoleParts, shared: &[Archive], own: &Archive) -> Result<()> {
        let archives: Vec<&Archive> = shared.iter().chain([own]).collect();
        let folder = Path::new(KICKSTART_TEMPLATES);
        let templates = Templates::parse(&self.spec.texts, folder)?;
        let hint = node.disk.as_ref();
        let least = hint.and_then(|hint| hint.size_min.as_deref()).map_or(Ok(0), bytes)?;
        let state: Vec<Value> = role
            .state
            .iter()
            .map(|one| json!({ "class": one.class, "path": one.path.as_str(), "uid": one.uid, "gid": one.gid, "mode": format!("{:04o}", one.mode) }))
            .collect();
        for (name, value) in [
            ("node", json!({ "name": node.name, "role": node.role, "management": node.management, "mac": node.mac })),
            (
                "disk",
                json!({
                    "wwn": hint.and_then(|hint| hint.wwn.as_ref()).map_or("", String::as_str),
                    "serial": hint.and_then(|hint| hint.serial.as_ref()).map_or("", String::as_str),
                    "by_path": hint.and_then(|hint| hint.by_path.as_ref()).map_or("", String::as_str),
                    "bytes": least,
                }),
            ),
            ("archives", json!(archives)),
            ("own", json!(own)),
            ("packages", json!(role.packages)),
            ("locked", json!(role.locked)),
            ("users", json!(role.users)),
            ("groups", json!(role.groups)),
            ("state", json!(state)),
            ("image", json!(role.image)),
            ("kickstart", json!(self.spec)),
        ] {
            self.values.set(name, &value);
        }
        let text = templates.render("ks.cfg.tera", &self.values)?;
        self.files.insert(format!("{}/{FILE}", node.name), text.into_bytes());
        let list: Vec<&str> = role.image.iter().chain(archives).map(|archive| archive.file.as_str()).collect();
        self.nodes.insert(
            node.name.to_string(),
            json!({ "role": node.role, "file": format!("{}/{FILE}", node.name), "fetches": list }),
        );
        Ok(())
    }

    /// Writes the bundle: a new folder that takes the place of an older one.
    ///
    /// # Errors
    /// The folder cannot be written; an older bundle is then untouched.
    pub fn write(mut self, folder: &Path, locked: bool) -> Result<Written> {
        let manifest = json!({ "format": 1, "locked": locked, "nodes": self.nodes });
        let manifest = serde_json::to_vec_pretty(&manifest).doing(|| "writing the manifest")?;
        self.files.insert("manifest.json".into(), manifest);
        let small = self.files.iter().map(|(path, bytes)| (path, Digest::of(bytes)));
        let all: BTreeMap<&String, Digest> = small.chain(self.large.iter().map(|(path, (_, digest))| (path, *digest))).collect();
        let sums: String = all.iter().map(|(path, digest)| format!("{}  {path}\n", digest.hex())).collect();
        let digest = Digest::of(&sums);
        let files = all.len();
        self.files.insert(SUMS.into(), sums.into_bytes());

        let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(parent)?;
        let new =
            tempfile::Builder::new().prefix(".new-").tempdir_in(parent).doing(|| format!("writing to {}", parent.display()))?;
        for (path, bytes) in &self.files {
            fs::write_atomic(&new.path().join(path), bytes)?;
        }
        let what = || format!("writing {}", folder.display());
        for (path, (from, _)) in &self.large {
            let to = new.path().join(path);
            fs::create_dir_all(to.parent().unwrap_or(new.path()))?;
            // Artifacts are replaced and never changed, so one file may have both names.
            std::fs::hard_link(from, &to).or_else(|_| std::fs::copy(from, &to).map(|_| ())).doing(what)?;
        }
        std::fs::set_permissions(new.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).doing(what)?;
        // In one step: who fetches gets all of the old bundle or all of the new one.
        if folder.exists() {
            use rustix::fs::{CWD, RenameFlags, renameat_with};
            renameat_with(CWD, new.path(), CWD, folder, RenameFlags::EXCHANGE).doing(what)?;
        } else {
            std::fs::rename(new.keep(), folder).doing(what)?;
        }
        Ok(Written {
            path: folder.to_path_buf(),
            digest,
            nodes: self.nodes.into_keys().collect(),
            files,
            locked,
            images: !self.large.is_empty(),
        })
    }
}

/// The error where a release's packages are none that Anaconda installs.
pub fn not_for(release: &str) -> Error {
    Error::new(format!("Anaconda installs rpm packages, and the release {release} has none"))
        .next("use its images: ostack-image build, or ostack-image netboot")
}
