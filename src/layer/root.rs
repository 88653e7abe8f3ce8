//! Lays packages down in a root and configures them: `unpack` and dpkg do the one, dpkg the other, inside the root, in a sandbox.
//! Packages of the backend rpm are `super::rpm`'s; what ends the work is the same for both.
//!
//! ```text
//! base      empty directory: essential packages extracted, then installed by their own dpkg; accounts; the rest
//! packages  an overlay over the base: what the role needs on top; only the upper directory becomes the layer
//! both      end with `finish`: services off, identities, logs and caches gone
//! ```
//!
//! Services never start: `policy-rc.d` forbids it, systemd is not running, and there is no network.

use super::accounts;
use super::configure::Helpers;
use super::deb::{self, Control};
use super::order::{self, Action};
use super::sandbox::Sandbox;
use super::unpack::archive::Archive;
use super::unpack::{self, Ground};
use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use crate::model::release::{Release, User};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A package that has been fetched.
#[derive(Debug, Clone)]
pub struct PackageFile {
    /// Its name, for messages.
    pub name: String,
    /// Where it lies; all are in one folder. A Debian package's members are not compressed.
    pub path: PathBuf,
}

impl PackageFile {
    /// Where programs in the root see it.
    pub(super) fn inside(&self) -> String {
        format!("{POOL}/{}", self.path.file_name().unwrap_or_default().to_string_lossy())
    }
}

/// Where the sandbox shows the packages' folder.
pub(super) const POOL: &str = "/run/ostack/pool";

/// What a root is built from.
pub struct Job<'a> {
    /// Packages to install.
    pub packages: &'a [PackageFile],
    /// The folder that holds them.
    pub pool: PathBuf,
    /// The folder of what helpers keep from one build to the next; see `super::kept`.
    pub kept: PathBuf,
    /// A folder for what the build alone needs; no part of a root.
    pub scratch: &'a Path,
    /// The unpacked tools.
    pub tools: &'a Path,
    /// Accounts and what to clean.
    pub release: &'a Release,
    /// Answers to installation questions, in `debconf-set-selections` form.
    pub debconf: &'a [String],
    /// Accounts to add before anything of the layer is configured.
    pub users: &'a [User],
    /// The build's time, seconds since 1970.
    pub epoch: i64,
    /// Hears what took how many seconds.
    pub span: &'a (dyn Fn(&str, f64) + Sync),
}

const DPKG: &[&str] = &["dpkg", "--force-unsafe-io", "--force-confdef", "--force-confold", "--no-pager"];
const POLICY: &str = "#!/bin/sh\n# The image is being built: nothing starts.\nexit 101\n";
pub(super) const PRESET: &str = "# A unit that no overlay enables stays off.\ndisable *\n";

impl Job<'_> {
    /// Fills an empty directory with the base system.
    ///
    /// # Errors
    /// A package is broken or a maintainer script fails; with its last words.
    pub fn build_base(&self, root: &Path) -> Result<()> {
        if let Some(spec) = &self.release.rpm {
            return self.rpm_base(spec, root);
        }
        let controls = self.controls()?;
        let essential = order::essential(&controls);
        if essential.is_empty() {
            return Err(Error::new("the base set has no essential package").next("run: ostack-image lock"));
        }
        for position in &essential {
            deb::extract(&self.packages[*position].path, root)?;
        }
        self.prepare(root)?;
        let preset = root.join("etc/systemd/system-preset/98-ostack.preset");
        fs::create_dir_all(preset.parent().unwrap_or(root))?;
        std::fs::write(&preset, PRESET).doing(|| "writing the unit policy")?;
        let helpers = Helpers::new(&self.release.configure, self.scratch, &self.kept)?;
        let sandbox = self.sandbox(helpers.show(Sandbox::new(root)));
        // The dependency order of the essential packages is circular, so dpkg must be told not to insist.
        self.spanned("essential packages", || sandbox.run(self.dpkg(&["--force-depends", "--install"], &essential), b""))
            .doing(|| "installing the essential packages")?;
        accounts::add(&sandbox, self.users, &self.release.groups)?;
        let rest: Vec<usize> = (0..controls.len()).filter(|one| !essential.contains(one)).collect();
        let rest_controls: Vec<Control> = rest.iter().map(|one| controls[*one].clone()).collect();
        self.install(&sandbox, &helpers, &mut Ground::new(root), &rest, &rest_controls)?;
        self.finish(&sandbox, root)
    }

    /// Installs the packages over `base`; `upper` (empty before) is the layer, `mount` where both are seen together.
    ///
    /// # Errors
    /// As [`Self::build_base`].
    pub fn build_packages(&self, base: &Path, upper: &Path, work: &Path, mount: &Path) -> Result<()> {
        if let Some(spec) = &self.release.rpm {
            return self.rpm_packages(spec, base, upper, work, mount);
        }
        let controls = self.controls()?;
        let all: Vec<usize> = (0..controls.len()).collect();
        let helpers = Helpers::new(&self.release.configure, self.scratch, &self.kept)?;
        let sandbox = self.sandbox(helpers.show(Sandbox::new(mount).overlay(base, upper, work)));
        let write_policy = "printf '%s' \"$1\" > /usr/sbin/policy-rc.d && chmod 755 /usr/sbin/policy-rc.d";
        sandbox.run(["sh", "-c", write_policy, "sh", POLICY], b"")?;
        if !self.users.is_empty() {
            accounts::add(&sandbox, self.users, &[])?;
        }
        self.install(&sandbox, &helpers, &mut Ground::over(base, upper), &all, &controls)?;
        self.finish(&sandbox, upper)
    }

    fn controls(&self) -> Result<Vec<Control>> {
        let control =
            |package: &PackageFile| deb::control(&package.path).doing(|| format!("reading the package {}", package.name));
        self.packages.iter().map(control).collect()
    }

    fn prepare(&self, root: &Path) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        for folder in ["dev", "proc", "sys", "run", "tmp", "var/lib/dpkg/info", "var/lib/dpkg/updates", "usr/sbin"] {
            fs::create_dir_all(&root.join(folder))?;
        }
        for file in ["var/lib/dpkg/status", "var/lib/dpkg/available"] {
            std::fs::write(root.join(file), "").doing(|| format!("writing {file}"))?;
        }
        let policy = root.join("usr/sbin/policy-rc.d");
        std::fs::write(&policy, POLICY).doing(|| "writing policy-rc.d")?;
        std::fs::set_permissions(&policy, std::fs::Permissions::from_mode(0o755)).doing(|| "writing policy-rc.d")
    }

    fn sandbox(&self, sandbox: Sandbox) -> Sandbox {
        sandbox
            .bind(&self.pool, POOL)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("DEBCONF_NONINTERACTIVE_SEEN", "true")
            // The image has an initrd of its own; the kernel's hook would make another.
            .env("INITRD", "No")
            .env("SOURCE_DATE_EPOCH", &self.epoch.to_string())
    }

    fn dpkg(&self, action: &[&str], positions: &[usize]) -> Vec<String> {
        let mut command: Vec<String> = DPKG.iter().chain(action).map(|word| (*word).to_string()).collect();
        command.extend(positions.iter().map(|one| self.packages[*one].inside()));
        command
    }

    fn install(
        &self,
        sandbox: &Sandbox,
        helpers: &Helpers<'_>,
        ground: &mut Ground,
        positions: &[usize],
        controls: &[Control],
    ) -> Result<()> {
        if !self.debconf.is_empty() {
            let answers = self.debconf.join("\n") + "\n";
            sandbox.run(["debconf-set-selections"], answers.as_bytes()).doing(|| "answering installation questions")?;
        }
        for action in order::actions(controls) {
            match action {
                Action::Unpack(list) => {
                    let list: Vec<usize> = list.iter().map(|one| positions[*one]).collect();
                    let list = self.spanned("unpack: laid down", || self.left_to_dpkg(&list, ground))?;
                    if list.is_empty() {
                        continue;
                    }
                    self.spanned("unpack: by dpkg", || sandbox.run(self.dpkg(&["--unpack"], &list), b""))
                        .doing(|| format!("unpacking {} packages", list.len()))?;
                }
                Action::Configure(list) => {
                    let mut command: Vec<String> =
                        DPKG.iter().chain(&["--no-triggers", "--configure"]).map(|word| (*word).to_string()).collect();
                    command.extend(list.iter().map(|one| controls[*one]["package"].clone()));
                    self.spanned("configure", || helpers.replacing(sandbox).run(command, b""))
                        .doing(|| "configuring what others need first")?;
                }
            }
        }
        let command = DPKG.iter().chain(&["--configure", "-a"]).copied();
        self.spanned("configure", || helpers.replacing(sandbox).run(command, b"")).doing(|| "configuring packages")?;
        unpack::end(ground)?;
        helpers.keep()
    }

    fn spanned<T>(&self, what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let begin = Instant::now();
        let value = work();
        (self.span)(what, begin.elapsed().as_secs_f64());
        value
    }

    /// Lays down what can be, and gives what dpkg must unpack.
    fn left_to_dpkg(&self, list: &[usize], ground: &mut Ground) -> Result<Vec<usize>> {
        if self.release.configure.dpkg_unpacks {
            return Ok(list.to_vec());
        }
        let archives = list.iter().map(|one| Archive::open(&self.packages[*one].path)).collect::<Result<Vec<_>>>()?;
        let left = unpack::lay_down(&archives, ground).doing(|| format!("unpacking {} packages", list.len()))?;
        Ok(left.into_iter().map(|one| list[one]).collect())
    }

    /// Turns services off and removes what maintainer scripts leave that is no part of an image.
    pub(super) fn finish(&self, sandbox: &Sandbox, written: &Path) -> Result<()> {
        let users: Vec<User> = self.release.users.iter().chain(self.users).cloned().collect();
        accounts::lint(sandbox, self.release, &users)?;
        accounts::settle(sandbox, self.epoch)?;
        let clean = &self.release.clean;
        let mut script = String::from(
            "set -e\nrm -f /usr/sbin/policy-rc.d\nrm -rf /etc/systemd/system/*.wants /etc/systemd/system/*.requires\n\
             rm -f /etc/rc[0-6S].d/[SK]*\n\
             if [ -x /usr/bin/systemctl ]; then systemctl preset-all --quiet 2>/dev/null; fi\n",
        );
        for pattern in &clean.remove {
            script.push_str(&format!("rm -rf -- {pattern}\n"));
        }
        for pattern in &clean.empty {
            script.push_str(&format!(
                "for d in {pattern}; do [ ! -d \"$d\" ] || find \"$d\" -mindepth 1 -maxdepth 1 -exec rm -rf -- {{}} +; done\n"
            ));
        }
        for pattern in &clean.truncate {
            script.push_str(&format!("for f in {pattern}; do [ ! -f \"$f\" ] || : > \"$f\"; done\n"));
        }
        for (folder, kept) in &clean.prune {
            let kept: String = kept.iter().map(|name| format!(" ! -name {name}")).collect();
            // What is directly in the folder and no folder is left: one package's documentation may be a link to another's.
            script.push_str(&format!(
                "for d in {folder}; do [ ! -d \"$d\" ] || {{ find \"$d\" -mindepth 2 ! -type d{kept} -delete; \
                 find \"$d\" -mindepth 1 -type d -empty -delete; }}; done\n"
            ));
        }
        sandbox.run(["sh", "-c", &script], b"").doing(|| "cleaning the root")?;
        for pattern in &clean.sort_json {
            sort_json(written, pattern)?;
        }
        Ok(())
    }
}

/// Writes JSON files again with sorted keys. Only what this layer has written is looked at.
fn sort_json(written: &Path, pattern: &str) -> Result<()> {
    let pattern = written.join(pattern.trim_start_matches('/'));
    let found = glob::glob(&pattern.to_string_lossy()).map_err(|error| Error::new(error).doing("reading [clean] sort_json"))?;
    for path in found.flatten() {
        let what = || format!("sorting {}", path.display());
        let value: serde_json::Value = serde_json::from_slice(&fs::read(&path)?).doing(what)?;
        // serde_json's maps are sorted. Written in place, so that owner and mode stay.
        std::fs::write(&path, serde_json::to_vec_pretty(&value).doing(what)?).doing(what)?;
    }
    Ok(())
}
