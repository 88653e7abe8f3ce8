//! What most verbs begin with: the user's files, read and checked, and the plan made from them.

use super::Global;
use crate::base::error::{Context, Error, Result};
use crate::base::name::{PackageName, Role, Word};
use crate::cli::terminal::note;
use crate::image::build::NodeProgram;
use crate::layer::scratch;
use crate::lock::mirror::Mirrors;
use crate::lock::{Lock, ReleaseLock};
use crate::model::load::{LoadedOverlay, Project};
use crate::model::options;
use crate::model::overlay::Parameters;
use crate::model::recipe::Recipe;
use crate::model::release::Release;
use crate::model::site::Site;
use crate::plan::secrets::Secrets;
use crate::plan::{self, Inputs, Locked, Package, Planner, RolePlan};
use crate::store::{Store, WriteLock};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

/// A site and the release it is used with.
pub(super) struct Session {
    pub project: Project,
    pub site: Site,
    pub site_file: PathBuf,
    pub release_name: Word,
    pub release: Release,
    pub roles: Vec<RoleFiles>,
    /// The values of the site's options.
    pub options: Parameters,
    /// Every secret that an overlay declares.
    pub secrets: Secrets,
    warnings: Vec<String>,
    pub lock_file: PathBuf,
    pub out: PathBuf,
    store: Option<PathBuf>,
    mirrors: BTreeMap<Word, String>,
    /// What has been planned, with the lock that it was planned for.
    plans: Mutex<BTreeMap<Role, (ReleaseLock, Arc<RolePlan>)>>,
    program: OnceLock<NodeProgram>,
}

/// A role's recipe and overlays.
pub(super) struct RoleFiles {
    pub role: Role,
    pub recipe: Recipe,
    pub recipe_file: PathBuf,
    pub overlays: Vec<LoadedOverlay>,
}

impl Session {
    pub fn open(global: &Global) -> Result<Self> {
        // Messages name files as the user would: site.toml, not ./site.toml.
        let root = if global.project == Path::new(".") { PathBuf::new() } else { global.project.clone() };
        let project = Project { root };
        let site_file = global.site.clone().unwrap_or_else(|| project.root.join("site.toml"));
        let site = Project::site(&site_file)?;
        let release_name = global.release.clone().unwrap_or_else(|| site.release.clone());
        let release = project.release(&release_name).map_err(|error| match &global.release {
            Some(_) => error,
            None => error.at(&site_file, site.lines.of(&["site", "release"])),
        })?;
        let mut roles = Vec::new();
        for role in project.roles() {
            let recipe = project.recipe(role)?;
            let recipe_file = project.recipe_path(role);
            let known: Vec<&LoadedOverlay> = roles.iter().flat_map(|files: &RoleFiles| &files.overlays).collect();
            let overlays = project.overlays_with(&recipe, &recipe_file, &known)?;
            roles.push(RoleFiles { role, recipe, recipe_file, overlays });
        }
        let secrets = plan::secrets::declared(roles.iter().flat_map(|files: &RoleFiles| &files.overlays))?;
        let (options, warnings) = options::of_site(&project.options()?, &site, &site_file)?;
        for overlay in site.parameters.keys() {
            if !project.root.join("overlays").join(overlay.as_str()).exists() {
                return Err(Error::new(format!("parameters for `{overlay}`, which is no overlay"))
                    .at(&site_file, site.lines.of(&["parameters", overlay.as_str()]))
                    .next("name a folder below overlays/"));
            }
        }
        let mut mirrors = site.mirror.clone();
        if let Some(url) = &global.mirror {
            // Beside it lies the security archive, unless the site says where that is.
            mirrors.insert("debian".parse()?, url.clone());
        }
        Ok(Self {
            lock_file: project.root.join("ostack.lock"),
            out: global.out.clone().unwrap_or_else(|| project.root.join("out")),
            store: global.store.clone(),
            project,
            site,
            site_file,
            release_name,
            release,
            roles,
            options,
            secrets,
            warnings,
            mirrors,
            plans: Mutex::default(),
            program: OnceLock::new(),
        })
    }

    /// Says on stderr what the site's options give up.
    pub fn warn(&self) {
        for warning in &self.warnings {
            note!("warning: {}: {warning}", self.site_file.display());
        }
    }

    /// Whether secrets get the guide's values where it has any.
    pub fn guide_passwords(&self) -> bool {
        self.options.get("guide_passwords").and_then(toml::Value::as_bool).unwrap_or_default()
    }

    pub fn role(&self, role: Role) -> Result<&RoleFiles> {
        self.roles.iter().find(|files| files.role == role).ok_or_else(|| {
            Error::new(format!("there is no recipe for {role}"))
                .next(format!("write {}", self.project.recipe_path(role).display()))
        })
    }

    pub fn store(&self) -> Result<Store> {
        Store::open(&store_folder(self.store.as_deref())?)
    }

    pub fn mirrors(&self) -> Result<Mirrors> {
        Mirrors::find(&self.mirrors, Path::new("/etc/apt"))
    }

    /// What every recipe asks for, by set.
    pub fn requested(&self) -> Result<BTreeMap<Word, BTreeSet<PackageName>>> {
        let roles: Vec<(Role, &Recipe, &Path, &[LoadedOverlay])> = self
            .roles
            .iter()
            .map(|files| (files.role, &files.recipe, files.recipe_file.as_path(), files.overlays.as_slice()))
            .collect();
        plan::requested(&self.release, &roles, &self.release_name)
    }

    pub fn lock(&self) -> Result<Lock> {
        if !self.lock_file.exists() {
            return Err(Error::new(format!("there is no {}", self.lock_file.display())).next("run: ostack-image lock"));
        }
        Lock::load(&self.lock_file)
    }

    /// The release's lock, which must fit the recipes.
    pub fn release_lock(&self) -> Result<ReleaseLock> {
        self.release_of(&self.lock()?)
    }

    fn release_of(&self, lock: &Lock) -> Result<ReleaseLock> {
        let lock = lock.release(&self.release_name).map_err(|error| error.at(&self.lock_file, None))?.clone();
        lock.check(&self.requested()?).map_err(|error| error.at(&self.lock_file, None))?;
        Ok(lock)
    }

    /// The release's lock, where the site has one of it.
    pub fn release_lock_if_any(&self) -> Result<Option<ReleaseLock>> {
        if !self.lock_file.exists() {
            return Ok(None);
        }
        let lock = self.lock()?;
        lock.releases.contains_key(&self.release_name).then(|| self.release_of(&lock)).transpose()
    }

    /// A role made ready to plan.
    pub fn planner<'a>(&'a self, files: &'a RoleFiles) -> Result<Planner<'a>> {
        Planner::new(Inputs {
            site: &self.site,
            site_file: &self.site_file,
            role: files.role,
            recipe: &files.recipe,
            recipe_file: &files.recipe_file,
            overlays: &files.overlays,
            release_name: &self.release_name,
            release: &self.release,
            options: &self.options,
            secrets: &self.secrets,
        })
    }

    /// The program for `/init`: built with this one, and beside it.
    pub fn node_program(&self) -> Result<&NodeProgram> {
        if let Some(program) = self.program.get() {
            return Ok(program);
        }
        let own = std::env::current_exe().doing(|| "finding this program's own file")?;
        let beside = own.with_file_name("ostack-node");
        if !beside.exists() {
            return Err(Error::new(format!("{} is missing", beside.display()))
                .next("install ostack-image and ostack-node into the same folder"));
        }
        let program = NodeProgram::of(beside)?;
        Ok(self.program.get_or_init(|| program))
    }

    /// A role's plan; made once for the same lock, because rendering takes longer than a build that finds everything.
    pub fn plan(&self, files: &RoleFiles, lock: &ReleaseLock) -> Result<Arc<RolePlan>> {
        let mut plans = self.plans.lock().map_err(|_| Error::new("planning panicked"))?;
        if let Some((_, plan)) = plans.get(&files.role).filter(|(of, _)| of == lock) {
            return Ok(plan.clone());
        }
        let plan = Arc::new(self.planner(files)?.role(locked(lock, files)?)?);
        plans.insert(files.role, (lock.clone(), plan.clone()));
        Ok(plan)
    }
}

/// The sets of a role's layers: the base with its kernel, what the role has on top, the tools.
pub(super) fn locked(lock: &ReleaseLock, files: &RoleFiles) -> Result<Locked> {
    let kernel: Word = format!("kernel-{}", files.recipe.kernel).parse()?;
    let base_names: BTreeSet<&PackageName> = lock.set(&kernel).into_iter().map(|package| &package.name).collect();
    let set = |name: &Word| -> Vec<Package> { lock.set(name).into_iter().map(Package::from).collect() };
    Ok(Locked {
        epoch: i64::try_from(lock.source_date_epoch).map_err(|_| Error::new("the lock's source_date_epoch is out of range"))?,
        base: set(&kernel),
        role: set(&files.role.as_str().parse()?).into_iter().filter(|package| !base_names.contains(&package.name)).collect(),
        tools: set(&"tools".parse()?),
        loaders: set(&"loaders".parse()?),
    })
}

/// The store's folder: what the user names, or one in the cache folder of the XDG base directory specification.
pub(super) fn store_folder(named: Option<&Path>) -> Result<PathBuf> {
    if let Some(folder) = named {
        return Ok(folder.to_path_buf());
    }
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    let cache = cache
        .ok_or_else(|| Error::new("neither XDG_CACHE_HOME nor HOME says where the store is").next("name it with --store DIR"))?;
    Ok(cache.join("ostack-image/store"))
}

/// Leaves the host's mounts, and says so where an ordinary user's build is not as fast as it could be.
pub(super) fn leave_host_mounts() -> Result<()> {
    if let Some(why) = scratch::leave_host_mounts()? {
        note!("note: owners are written down and not given, which takes longer: {why}");
    }
    Ok(())
}

/// The right to write to the store, with nothing in its scratch folder. Mounts are this process's own from now on.
pub fn write_lock(store: &Store) -> Result<WriteLock> {
    leave_host_mounts()?;
    let lock = store.lock()?;
    store.empty_scratch(&lock)?;
    Ok(lock)
}
