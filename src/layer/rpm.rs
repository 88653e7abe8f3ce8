//! Lays rpm packages down in a root: the rpm of the locked tools does it, inside the root, in a sandbox.
//!
//! ```text
//! base      empty directory: what has the files of accounts, and a shell; accounts; the rest in one transaction
//! packages  an overlay over the base: what the role needs on top; only the upper directory becomes the layer
//! both      end with `finish`, as packages of Debian do
//! ```
//!
//! The tools' rpm and not the image's, because then every release is laid down by one program of one version, whatever
//! its own can do: rpm takes the time of its database from `SOURCE_DATE_EPOCH` only since 4.18. It is shown below `/run`
//! and started by its own dynamic linker, so that nothing of the image's libraries is needed, and scripts run as they
//! would on a node: in the root, with the root's programs. Packages were verified before; rpm is told so.

use super::accounts;
use super::configure::Helpers;
use super::root::{Job, POOL, PRESET};
use super::sandbox::Sandbox;
use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use crate::base::path::RelPath;
use crate::model::release::Rpm;
use std::path::Path;

const TOOLS: &str = "/run/ostack/tools";

/// Where Debian has the dynamic linker, libraries and rpm.
const LINKER: &str = "usr/lib64/ld-linux-x86-64.so.2";
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
const PROGRAM: &str = "usr/bin/rpm";
const CONFIGURATION: &str = "usr/lib/rpm";

/// What rpm leaves in its folder that says nothing and differs between builds.
const LEFTOVERS: [&str; 3] = [".rpm.lock", "rpmdb.sqlite-shm", "rpmdb.sqlite-wal"];

/// Directories that a mount covers during the build, so that rpm cannot give them the modes that they have everywhere.
const COVERED: [(&str, u32); 5] = [("dev", 0o755), ("proc", 0o555), ("run", 0o755), ("sys", 0o555), ("tmp", 0o1777)];

/// Whose a file of a root is, in words, by the root's database. `sandbox` is that root.
///
/// # Errors
/// rpm cannot be started.
pub fn owner(spec: &Rpm, sandbox: &Sandbox, tools: &Path, path: &RelPath) -> Result<String> {
    let mut command = program(spec);
    command.extend(["--query", "--queryformat", "%{NAME} ", "--file"].map(str::to_string));
    command.push(path.to_string());
    let ended = in_tools(sandbox.clone(), tools).run_to_any_end(command)?;
    let names = String::from_utf8_lossy(&ended.output).trim().to_string();
    Ok(if ended.code == Some(0) { names } else { "made by a script".to_string() })
}

/// The tools' rpm on the database of a root.
fn program(spec: &Rpm) -> Vec<String> {
    let mut command = vec![format!("{TOOLS}/{LINKER}"), "--library-path".to_string(), format!("{TOOLS}/{LIBRARIES}")];
    command.extend([format!("{TOOLS}/{PROGRAM}"), format!("--dbpath=/{}", spec.database.as_str())]);
    command
}

/// Shows the tools in a root.
fn in_tools(sandbox: Sandbox, tools: &Path) -> Sandbox {
    sandbox.bind(tools, TOOLS).env("RPM_CONFIGDIR", &format!("{TOOLS}/{CONFIGURATION}"))
}

impl Job<'_> {
    /// Fills an empty directory with the base system.
    pub(super) fn rpm_base(&self, spec: &Rpm, root: &Path) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let mut first = Vec::new();
        for name in &spec.first {
            let found = self.packages.iter().position(|package| package.name == name.as_str());
            first.push(found.ok_or_else(|| {
                Error::new(format!("the base set has no {name}, which is to be there first"))
                    .next("write it in base of the release's [packages], or take it out of first in [rpm]")
            })?);
        }
        for (folder, mode) in COVERED {
            let path = root.join(folder);
            fs::create_dir_all(&path)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).doing(|| format!("making /{folder}"))?;
        }
        let preset = root.join("etc/systemd/system-preset/98-ostack.preset");
        fs::create_dir_all(preset.parent().unwrap_or(root))?;
        std::fs::write(&preset, PRESET).doing(|| "writing the unit policy")?;
        let helpers = Helpers::new(&self.release.configure, self.scratch, &self.kept)?;
        let sandbox = self.rpm_sandbox(helpers.show(Sandbox::new(root)))?;
        self.rpm(spec, &sandbox, &["--upgrade", "--nodeps"], &first).doing(|| "installing the first packages")?;
        accounts::add(&sandbox, self.users, &self.release.groups)?;
        let rest: Vec<usize> = (0..self.packages.len()).filter(|one| !first.contains(one)).collect();
        self.rpm_rest(spec, &sandbox, &helpers, &rest)?;
        // What the first packages depend on nobody has asked yet.
        self.rpm(spec, &sandbox, &["--verify", "--all", "--nofiles", "--noscript"], &[]).doing(|| "checking dependencies")?;
        self.rpm_finish(spec, &sandbox, root)
    }

    /// Installs the packages over `base`.
    pub(super) fn rpm_packages(&self, spec: &Rpm, base: &Path, upper: &Path, work: &Path, mount: &Path) -> Result<()> {
        let helpers = Helpers::new(&self.release.configure, self.scratch, &self.kept)?;
        let sandbox = self.rpm_sandbox(helpers.show(Sandbox::new(mount).overlay(base, upper, work)))?;
        if !self.users.is_empty() {
            accounts::add(&sandbox, self.users, &[])?;
        }
        let all: Vec<usize> = (0..self.packages.len()).collect();
        self.rpm_rest(spec, &sandbox, &helpers, &all)?;
        self.rpm_finish(spec, &sandbox, upper)
    }

    fn rpm_rest(&self, spec: &Rpm, sandbox: &Sandbox, helpers: &Helpers<'_>, positions: &[usize]) -> Result<()> {
        if positions.is_empty() {
            return Ok(());
        }
        self.rpm(spec, &helpers.replacing(sandbox), &["--upgrade"], positions).doing(|| "installing packages")?;
        helpers.keep()
    }

    fn rpm_sandbox(&self, sandbox: Sandbox) -> Result<Sandbox> {
        fs::must_exist(
            &self.tools.join(PROGRAM),
            "the tools' rpm",
            "write \"rpm\" in tools of the release's [packages], and run: ostack-image lock",
        )?;
        Ok(in_tools(sandbox, self.tools).bind(&self.pool, POOL).env("SOURCE_DATE_EPOCH", &self.epoch.to_string()))
    }

    /// Runs the tools' rpm on some of the packages.
    fn rpm(&self, spec: &Rpm, sandbox: &Sandbox, action: &[&str], positions: &[usize]) -> Result<()> {
        let mut command = program(spec);
        // Their files' sha256 are the lock's: to ask keys and digests again, old rpms' MD5 among them, would prove less.
        command.extend(["--nosignature", "--nodigest", "--noplugins"].map(str::to_string));
        for (name, value) in &spec.macros {
            command.extend(["--define".to_string(), format!("{name} {value}")]);
        }
        command.extend(action.iter().map(|word| (*word).to_string()));
        command.extend(self.pool_files(positions));
        let output = sandbox.run(command, b"")?;
        // rpm goes on after most failures of scripts and calls that a success. An image that nobody looks at must not.
        let warnings = String::from_utf8_lossy(&output.stderr);
        if !warnings.lines().any(|line| line.contains("scriptlet failed")) {
            return Ok(());
        }
        Err(Error::new(format!("a package's script failed:\n{}", (output.text() + &warnings).trim()))
            .next("name the version that works: write it in the recipe, or take the package out"))
    }

    fn pool_files(&self, positions: &[usize]) -> impl Iterator<Item = String> {
        positions.iter().map(|one| self.packages[*one].inside())
    }

    fn rpm_finish(&self, spec: &Rpm, sandbox: &Sandbox, written: &Path) -> Result<()> {
        if spec.own_database {
            self.rpm_own_database(sandbox)?;
        }
        self.finish(sandbox, written)?;
        let folder = spec.database.under(written);
        for name in LEFTOVERS {
            let path = folder.join(name);
            match std::fs::symlink_metadata(&path) {
                // A journal that is not empty would hold what the database lacks.
                Ok(meta) if name.ends_with("-wal") && meta.len() > 0 => {
                    return Err(Error::new("rpm did not finish writing its database").doing(format!("checking {name}")));
                }
                Ok(_) => std::fs::remove_file(&path).doing(|| format!("removing {}", path.display()))?,
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Tells the image's own rpm of the layer's packages, in the form that it reads. It writes beside the tools' database.
    fn rpm_own_database(&self, sandbox: &Sandbox) -> Result<()> {
        let all: Vec<usize> = (0..self.packages.len()).collect();
        let mut command: Vec<String> =
            ["rpm", "--install", "--justdb", "--noscripts", "--notriggers", "--nodeps", "--nosignature", "--nodigest"]
                .map(str::to_string)
                .into();
        command.extend(self.pool_files(&all));
        sandbox
            .clone()
            .env("RPM_CONFIGDIR", "/usr/lib/rpm")
            .run(command, b"")
            .map(|_| ())
            .doing(|| "telling the image's own rpm what is installed")
    }
}
