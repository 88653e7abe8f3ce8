//! The only door to files: every error names its path, every result appears whole or not at all.

use crate::base::error::{Context, Error, Result};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Opens a file for reading.
///
/// # Errors
/// Names the path.
pub fn open(path: &Path) -> Result<File> {
    File::open(path).doing(|| format!("opening {}", path.display()))
}

/// Reads a whole text file.
///
/// # Errors
/// Names the path; also when it is not UTF-8.
pub fn read_text(path: &Path) -> Result<String> {
    fs::read_to_string(path).doing(|| format!("reading {}", path.display()))
}

/// Reads a whole file.
///
/// # Errors
/// Names the path.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).doing(|| format!("reading {}", path.display()))
}

/// Makes a directory and its parents.
///
/// # Errors
/// Names the path.
pub fn create_dir_all(path: &Path) -> Result<()> {
    fs::create_dir_all(path).doing(|| format!("creating the directory {}", path.display()))
}

/// Removes a tree that may be absent.
///
/// # Errors
/// Names the path.
pub fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.doing(|| format!("removing {}", path.display())),
    }
}

/// Writes a file whole: into a temporary file beside it, synced, then renamed over `path`.
///
/// # Errors
/// Names the path; the old file is then untouched.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let what = || format!("writing {}", path.display());
    let mut file = temporary_beside(path)?;
    file.write_all(bytes).doing(what)?;
    persist(file, path, 0o644)
}

/// A temporary file in the folder of `path`, made if needed; it vanishes unless [`persist`]ed.
///
/// # Errors
/// The folder cannot be written.
pub fn temporary_beside(path: &Path) -> Result<tempfile::NamedTempFile> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    create_dir_all(folder)?;
    tempfile::Builder::new()
        .prefix(".new-")
        .tempfile_in(folder)
        .doing(|| format!("creating a temporary file in {}", folder.display()))
}

/// Syncs a temporary file and renames it to `path` with this mode.
///
/// # Errors
/// Names the path; the old file is then untouched.
pub fn persist(file: tempfile::NamedTempFile, path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let what = || format!("writing {}", path.display());
    file.as_file().set_permissions(fs::Permissions::from_mode(mode)).doing(what)?;
    file.as_file().sync_all().doing(what)?;
    file.persist(path).map_err(|error| error.error).doing(what)?;
    Ok(())
}

/// Files that appear in a folder together: they are written beside their places, synced at once, then renamed. One that is
/// dropped leaves nothing.
pub struct Batch {
    folder: PathBuf,
    new: tempfile::TempDir,
}

impl Batch {
    /// A batch for a folder, which is made if needed.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn new(folder: &Path) -> Result<Self> {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        create_dir_all(folder)?;
        let new = tempfile::Builder::new().prefix(".new-").tempdir_in(folder);
        let new = new.doing(|| format!("creating a temporary folder in {}", folder.display()))?;
        Ok(Self { folder: folder.to_path_buf(), new })
    }

    /// Adds a file of `size` bytes with this mode: `bytes`, and a hole behind them.
    ///
    /// # Errors
    /// Names the file.
    pub fn write(&self, name: &str, bytes: &[u8], size: u64, mode: u32) -> Result<()> {
        use std::os::unix::fs::OpenOptionsExt;
        let write = || {
            let new = self.new.path().join(name);
            let mut file = File::options().write(true).create_new(true).mode(mode).open(new)?;
            file.write_all(bytes)?;
            file.set_len(size)
        };
        write().doing(|| format!("writing {}", self.folder.join(name).display()))
    }

    /// Puts the files into their places, over older ones.
    ///
    /// # Errors
    /// Names the folder or the file; each place then has its old file or the new one, whole.
    pub fn publish(self) -> Result<()> {
        // One sync of the filesystem: thousands of files' own would each wait for the disk.
        rustix::fs::syncfs(open(&self.folder)?).doing(|| format!("writing to {}", self.folder.display()))?;
        for new in sorted_dir(self.new.path())? {
            let place = self.folder.join(new.file_name().unwrap_or_default());
            fs::rename(&new, &place).doing(|| format!("writing {}", place.display()))?;
        }
        Ok(())
    }
}

/// The entries of a directory, sorted by name; empty when it does not exist.
///
/// # Errors
/// Names the path.
pub fn sorted_dir(path: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.doing(|| format!("reading the directory {}", path.display()))?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.doing(|| format!("reading the directory {}", path.display()))?.path());
    }
    paths.sort();
    Ok(paths)
}

/// Refuses a path that is not there, saying what it is for.
///
/// # Errors
/// The path does not exist.
pub fn must_exist(path: &Path, what: &str, next: &str) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    Err(Error::new(format!("{what} {} does not exist", path.display())).next(next))
}
