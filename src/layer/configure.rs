//! What a release's `[configure]` table asks for: programs that maintainer scripts call some hundred times are
//! replaced by one that only tells of the call, and another does what they would, beside them.
//!
//! ```text
//! /run/ostack/helpers/   the release's scripts, read-only
//! /run/ostack/replaced/  the programs that were replaced
//! /run/ostack/calls      the pipe from the one to the other; see `super::sandbox`
//! /run/ostack/kept/      what the other has made in earlier builds, read-only; see `super::kept`
//! /run/ostack/made/      what it makes in this one
//! ```

use super::kept::Kept;
use super::sandbox::Sandbox;
use crate::base::error::{Context, Result};
use crate::model::release::Configure;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const HELPERS: &str = "/run/ostack/helpers";

/// The helpers of one root, laid out on disk while it is configured.
pub struct Helpers<'a> {
    spec: &'a Configure,
    folder: TempDir,
    kept: Option<Kept>,
}

impl<'a> Helpers<'a> {
    /// Writes the helpers into a folder of their own below `scratch`. `kept` is where files last from one build to the next.
    ///
    /// # Errors
    /// A folder cannot be written.
    pub fn new(spec: &'a Configure, scratch: &Path, kept: &Path) -> Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::Builder::new().prefix("helpers-").tempdir_in(scratch).doing(|| "creating a scratch folder")?;
        let kept = spec.beside.as_ref().map(|_| Kept::open(kept)).transpose()?;
        let helpers = Self { spec, folder, kept };
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
        let sandbox = sandbox.bind(self.folder.path(), HELPERS);
        let sandbox = self.kept.iter().fold(sandbox, |sandbox, kept| kept.show(sandbox));
        self.spec.env.iter().fold(sandbox, |sandbox, (name, value)| sandbox.env(name, value))
    }

    /// The sandbox in which packages are configured: with the replacements in place of the programs, and what runs beside.
    /// A program that is not there yet when a command begins is not replaced during it.
    #[must_use]
    pub fn replacing(&self, sandbox: &Sandbox) -> Sandbox {
        let replace = |sandbox: Sandbox, (program, helper)| sandbox.replace(&self.outside(helper), program);
        let replace_all = self.spec.replace.iter().map(|(program, helper)| (program, helper.as_str()));
        let sandbox = replace_all.fold(sandbox.clone(), replace);
        match &self.spec.beside {
            Some(beside) => sandbox.beside(&format!("{HELPERS}/{beside}", beside = beside.as_str())),
            None => sandbox,
        }
    }

    /// Keeps for later builds what was made beside. To be called when everything is configured.
    ///
    /// # Errors
    /// It cannot be kept.
    pub fn keep(&self) -> Result<()> {
        self.kept.as_ref().map_or(Ok(()), Kept::keep)
    }

    fn outside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}
