//! Reads the user's folders into model values: the only part of `model` that touches files.

use super::disk::{self, DiskSpec};
use super::iso::{self, IsoSpec};
use super::kickstart::{self, KickstartSpec};
use super::netboot::{self, NetbootSpec};
use super::options::{self, SiteOptions};
use super::overlay::{self, Overlay};
use super::recipe::{self, Recipe};
use super::release::{self, Release};
use super::site::{self, Site};
use super::{Lines, Source};
use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use crate::base::name::{Role, Word};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where the templates of the network boot tree are.
pub const NETBOOT_TEMPLATES: &str = "images/netboot";

/// Where those of media are.
pub const ISO_TEMPLATES: &str = "images/iso";

/// Where those of kickstart files are.
pub const KICKSTART_TEMPLATES: &str = "images/kickstart";

/// The folder that holds `recipes/`, `overlays/` and `images/`.
#[derive(Debug, Clone)]
pub struct Project {
    /// The folder itself.
    pub root: PathBuf,
}

/// An overlay and the folder it came from.
#[derive(Debug, Clone)]
pub struct LoadedOverlay {
    /// The folder's name.
    pub name: Word,
    /// The path of `overlay.toml`.
    pub file: PathBuf,
    /// Its text, for lines in messages.
    pub text: String,
    /// `overlay.toml`, checked.
    pub overlay: Overlay,
    /// Where the templates came from.
    pub template_folder: PathBuf,
    /// `templates/`: file name -> text.
    pub templates: BTreeMap<String, String>,
    /// `files/`: path below it -> bytes.
    pub verbatim: BTreeMap<String, Vec<u8>>,
}

impl LoadedOverlay {
    /// Where the keys of `overlay.toml` stand.
    pub fn lines(&self) -> Lines {
        Source { file: &self.file, text: &self.text }.lines()
    }

    /// The line of `overlay.toml` in which a value begins.
    pub fn line(&self, span: std::ops::Range<usize>) -> usize {
        Source { file: &self.file, text: &self.text }.line(&span)
    }
}

impl Project {
    /// A site file.
    ///
    /// # Errors
    /// With file, line and what to write.
    pub fn site(path: &Path) -> Result<Site> {
        fs::must_exist(path, "the site file", "name one with --site FILE, or write site.toml here")?;
        let text = fs::read_text(path)?;
        site::parse(&Source { file: path, text: &text })
    }

    /// `recipes/<role>.toml`.
    ///
    /// # Errors
    /// With file, line and what to write.
    pub fn recipe(&self, role: Role) -> Result<Recipe> {
        let path = self.root.join("recipes").join(format!("{role}.toml"));
        fs::must_exist(&path, "the recipe", "write it, or run where recipes/ is")?;
        let text = fs::read_text(&path)?;
        recipe::parse(&Source { file: &path, text: &text })
    }

    /// Where a role's recipe is.
    pub fn recipe_path(&self, role: Role) -> PathBuf {
        self.root.join("recipes").join(format!("{role}.toml"))
    }

    /// The roles that have a recipe.
    pub fn roles(&self) -> Vec<Role> {
        Role::ALL.into_iter().filter(|role| self.recipe_path(*role).exists()).collect()
    }

    /// `recipes/releases/<name>.toml`.
    ///
    /// # Errors
    /// With file, line and what to write; lists the known releases when there is no such one.
    pub fn release(&self, name: &Word) -> Result<Release> {
        let folder = self.root.join("recipes/releases");
        let path = folder.join(format!("{name}.toml"));
        if !path.exists() {
            let known: Vec<String> = fs::sorted_dir(&folder)?
                .iter()
                .filter_map(|file| Some(file.file_name()?.to_str()?.strip_suffix(".toml")?.to_string()))
                .collect();
            return Err(Error::new(format!("there is no release `{name}` ({} does not exist)", path.display()))
                .next(format!("use one of: {}", known.join(", "))));
        }
        let text = fs::read_text(&path)?;
        let mut release = release::parse(&Source { file: &path, text: &text })?;
        release.keyring = release.keyring.map(|file| self.root.join("recipes").join(file).display().to_string());
        let configure = &mut release.configure;
        for name in configure.replace.values().chain(&configure.beside) {
            let helper = self.root.join("recipes/helpers").join(name.as_str());
            fs::must_exist(&helper, "the helper", &format!("write it, or take it out of [configure] in {}", path.display()))?;
            configure.helpers.insert(name.clone(), fs::read(&helper)?);
        }
        Ok(release)
    }

    /// `images/disk.toml`.
    ///
    /// # Errors
    /// With file, line and what to write.
    pub fn disk(&self) -> Result<DiskSpec> {
        self.described("images/disk.toml", "the disk's description", disk::parse)
    }

    /// `images/netboot.toml` and its templates.
    ///
    /// # Errors
    /// With file, line and what to write.
    pub fn netboot(&self) -> Result<NetbootSpec> {
        let spec = self.described("images/netboot.toml", "the description of the network boot tree", netboot::parse)?;
        Ok(NetbootSpec { texts: self.texts(NETBOOT_TEMPLATES)?, ..spec })
    }

    /// `images/kickstart.toml` and its templates.
    ///
    /// # Errors
    /// With file, line and what to write.
    pub fn kickstart(&self) -> Result<KickstartSpec> {
        let spec = self.described("images/kickstart.toml", "the description of kickstart files", kickstart::parse)?;
        Ok(KickstartSpec { texts: self.texts(KICKSTART_TEMPLATES)?, ..spec })
    }

    /// `images/iso.toml` and its templates.
    ///
    /// # Errors
    /// With file, line and what to write.
    pub fn iso(&self) -> Result<IsoSpec> {
        let spec = self.described("images/iso.toml", "the description of media", iso::parse)?;
        Ok(IsoSpec { texts: self.texts(ISO_TEMPLATES)?, ..spec })
    }

    /// One of the files in `images/`.
    fn described<T>(&self, file: &str, what: &str, parse: impl FnOnce(&Source<'_>) -> Result<T>) -> Result<T> {
        let path = self.root.join(file);
        fs::must_exist(&path, what, "write it, or run where images/ is")?;
        let text = fs::read_text(&path)?;
        parse(&Source { file: &path, text: &text })
    }

    /// The texts in a folder by their names.
    fn texts(&self, folder: &str) -> Result<BTreeMap<String, String>> {
        let read =
            |path: PathBuf| Ok((path.file_name().unwrap_or_default().to_string_lossy().into_owned(), fs::read_text(&path)?));
        fs::sorted_dir(&self.root.join(folder))?.into_iter().map(read).collect()
    }

    /// `recipes/options.toml`; a project without it has no options.
    ///
    /// # Errors
    /// With file, line and what to write.
    pub fn options(&self) -> Result<SiteOptions> {
        let path = self.root.join("recipes/options.toml");
        if !path.exists() {
            return Ok(SiteOptions::new());
        }
        let text = fs::read_text(&path)?;
        options::parse(&Source { file: &path, text: &text })
    }

    /// The overlays of a recipe, in its order. Each also has the templates that all share, `recipes/templates/`, as `shared/…`.
    ///
    /// # Errors
    /// With file, line and what to write; a name without a folder is the recipe's error.
    pub fn overlays(&self, recipe: &Recipe, recipe_path: &Path) -> Result<Vec<LoadedOverlay>> {
        self.overlays_with(recipe, recipe_path, &[])
    }

    /// The same. What is in `known` has been loaded for another recipe and is copied.
    ///
    /// # Errors
    /// As [`Self::overlays`].
    pub fn overlays_with(&self, recipe: &Recipe, recipe_path: &Path, known: &[&LoadedOverlay]) -> Result<Vec<LoadedOverlay>> {
        let mut overlays = Vec::with_capacity(recipe.overlays.len());
        let shared = templates(&self.root.join("recipes/templates"))?;
        for (name, line) in &recipe.overlays {
            if let Some(overlay) = known.iter().find(|known| known.name == *name) {
                overlays.push((*overlay).clone());
                continue;
            }
            let folder = self.root.join("overlays").join(name.as_str());
            let path = folder.join("overlay.toml");
            if !path.exists() {
                let known: Vec<String> = fs::sorted_dir(&self.root.join("overlays"))?
                    .iter()
                    .filter_map(|path| Some(path.file_name()?.to_str()?.to_string()))
                    .collect();
                return Err(Error::new(format!("there is no overlay `{name}` ({} does not exist)", path.display()))
                    .at(recipe_path, *line)
                    .next(format!("use one of: {}", known.join(", "))));
            }
            let text = fs::read_text(&path)?;
            let overlay = overlay::parse(&Source { file: &path, text: &text })?;
            let template_folder = folder.join("templates");
            let mut templates = templates(&template_folder)?;
            templates.extend(shared.iter().map(|(name, text)| (format!("shared/{name}"), text.clone())));
            let verbatim = folder_files(&folder.join("files"))?;
            overlays.push(LoadedOverlay { name: name.clone(), file: path, text, overlay, template_folder, templates, verbatim });
        }
        Ok(overlays)
    }
}

fn templates(folder: &Path) -> Result<BTreeMap<String, String>> {
    let mut templates = BTreeMap::new();
    for (name, bytes) in folder_files(folder)? {
        let text = String::from_utf8(bytes).map_err(|error| {
            let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = 1 + good.iter().filter(|&&c| c == b'\n').count();
            Error::new("a template must be UTF-8")
                .at(folder.join(&name), line)
                .next("convert it, or put it below files/ and name it with source = \"…\"")
        })?;
        templates.insert(name, text);
    }
    Ok(templates)
}

fn folder_files(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    if !folder.exists() {
        return Ok(files);
    }
    for found in walkdir::WalkDir::new(folder).sort_by_file_name() {
        let found = found.doing(|| format!("reading {}", folder.display()))?;
        if found.file_type().is_file() {
            let name = found.path().strip_prefix(folder).unwrap_or(found.path()).to_string_lossy().into_owned();
            files.insert(name, fs::read(found.path())?);
        }
    }
    Ok(files)
}
