//! What a release's `[configure]` table asks for: programs that maintainer scripts call some hundred times are
//! replaced by one that remembers the calls, and a last one does their work once.
//!
//! ```text
//! /run/ostack/helpers/    the release's scripts, read-only
//! /run/ostack/deferred/   what they leave for each other; gone with the build
//!     calls               the remembered calls: without it there is nothing to finish
//! ```

use super::sandbox::Sandbox;
use crate::base::error::{Context, Result};
use crate::base::fs;
use crate::model::release::Configure;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const HELPERS: &str = "/run/ostack/helpers";
const DEFERRED: &str = "/run/ostack/deferred";

/// The helpers of one root, laid out on disk while it is configured.
pub struct Helpers<'a> {
    spec: &'a Configure,
    folder: TempDir,
}

impl<'a> Helpers<'a> {
    /// Writes the helpers into a folder of their own below `scratch`.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn new(spec: &'a Configure, scratch: &Path) -> Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::Builder::new().prefix("helpers-").tempdir_in(scratch).doing(|| "creating a scratch folder")?;
        let helpers = Self { spec, folder };
        for folder in ["helpers", "deferred"] {
            fs::create_dir_all(&helpers.folder.path().join(folder))?;
        }
        for (name, bytes) in &spec.helpers {
            let file = helpers.outside(name.as_str());
            let what = || format!("writing {}", file.display());
            std::fs::write(&file, bytes).doing(what)?;
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).doing(what)?;
        }
        Ok(helpers)
    }

    /// Shows the helpers in a sandbox and sets the environment of the release.
    #[must_use]
    pub fn show(&self, sandbox: Sandbox) -> Sandbox {
        let sandbox = sandbox.bind(&self.folder.path().join("helpers"), HELPERS).bind_writable(&self.deferred(), DEFERRED);
        self.spec.env.iter().fold(sandbox, |sandbox, (name, value)| sandbox.env(name, value))
    }

    /// The sandbox in which packages are configured: with the replacements in place of the programs.
    /// A program that is not there yet when a command begins is not replaced during it.
    #[must_use]
    pub fn replacing(&self, sandbox: &Sandbox) -> Sandbox {
        self.spec
            .replace
            .iter()
            .fold(sandbox.clone(), |sandbox, (program, helper)| sandbox.replace(&self.outside(helper.as_str()), program))
    }

    /// Does what was put off, once for everything since the last time.
    ///
    /// # Errors
    /// The last helper fails; with its last words.
    pub fn finish(&self, sandbox: &Sandbox) -> Result<()> {
        let calls = self.deferred().join("calls");
        let Some(finish) = self.spec.finish.as_ref().filter(|_| calls.exists()) else { return Ok(()) };
        sandbox
            .run([format!("{HELPERS}/{finish}", finish = finish.as_str())], b"")
            .doing(|| "doing what maintainer scripts put off")?;
        std::fs::remove_file(&calls).doing(|| "forgetting the recorded calls")
    }

    fn outside(&self, name: &str) -> PathBuf {
        self.folder.path().join("helpers").join(name)
    }

    fn deferred(&self) -> PathBuf {
        self.folder.path().join("deferred")
    }
}
