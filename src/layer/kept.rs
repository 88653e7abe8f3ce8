//! What a release's helper makes of packages and keeps from one build to the next, such as compiled Python.
//!
//! ```text
//! <store>/ostack/kept/KEY-SHA256   a file's bytes have the second digest; the first is the helper's own, of all that they depend on
//!                     .new-…/      what a build under way has made; a killed build's is removed by the next
//! ```
//!
//! Nothing is synced: whoever reads a file checks its digest, and makes it again where it is another. That one then takes its place.

use super::sandbox::Sandbox;
use crate::base::digest::Digest;
use crate::base::error::{Context, Result};
use crate::base::fs;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use tempfile::TempDir;

const KEPT: &str = "/run/ostack/kept";
const MADE: &str = "/run/ostack/made";
const NEW: &str = ".new-";

/// The folder, and a place for new files in it.
pub struct Kept {
    folder: PathBuf,
    made: TempDir,
}

impl Kept {
    /// Opens the folder, which need not exist yet.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn open(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let made = tempfile::Builder::new().prefix(NEW).tempdir_in(folder).doing(|| "creating a folder for what is kept")?;
        Ok(Self { folder: folder.to_path_buf(), made })
    }

    /// Shows in a sandbox what is kept, and where to leave what is new.
    #[must_use]
    pub fn show(&self, sandbox: Sandbox) -> Sandbox {
        sandbox.bind(&self.folder, KEPT).bind_writable(self.made.path(), MADE)
    }

    /// Takes in what was made. A file with the key of an older one replaces it.
    ///
    /// # Errors
    /// A file cannot be moved.
    pub fn keep(&self) -> Result<()> {
        // Roles that are built side by side keep the same.
        static TURN: Mutex<()> = Mutex::new(());
        let _turn = TURN.lock();
        let old: BTreeMap<String, PathBuf> =
            fs::sorted_dir(&self.folder)?.into_iter().filter_map(|path| Some((key(&path)?, path))).collect();
        for path in fs::sorted_dir(self.made.path())? {
            let Some(key) = key(&path) else { continue };
            let target = self.folder.join(path.file_name().unwrap_or_default());
            if let Some(old) = old.get(&key).filter(|old| **old != target) {
                std::fs::remove_file(old).doing(|| format!("removing {}", old.display()))?;
            }
            std::fs::rename(&path, &target).doing(|| format!("writing {}", target.display()))?;
        }
        Ok(())
    }
}

/// The key in a file's name; `None` where it is no name of a kept file.
fn key(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let (key, digest) = name.split_once('-')?;
    (Digest::from_hex(key).is_ok() && Digest::from_hex(digest).is_ok()).then(|| key.to_string())
}
