//! The times of a layer's files. What packages bring has the times of the packages; what the build itself wrote must not show its clock,
//! wherever that stands, and gets the build's own time.
//!
//! The two are told apart by when the build ran, and that by the clock which stamped the files, the filesystem's: a new file has its
//! time. To take only what is later than the build's own time would do on a machine whose clock is right, and nowhere else.

use crate::base::error::{Context, Result};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A moment: seconds since 1970 and nanoseconds.
type Moment = (i64, i64);

/// When the writing of a layer began.
pub struct Begin {
    folder: PathBuf,
    moment: Moment,
}

/// Which times stay.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    begin: Moment,
    end: Moment,
    epoch: i64,
}

impl Begin {
    /// Now; the layer will be written to the filesystem of this folder.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn now(folder: &Path) -> Result<Self> {
        Ok(Self { folder: folder.to_path_buf(), moment: now(folder)? })
    }

    /// The times of a layer that has been written from then to now: the build's own, `epoch`, for whatever was written in between, and
    /// as the latest that there can be.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn times(&self, epoch: i64) -> Result<Times> {
        Ok(Times { begin: self.moment, end: now(&self.folder)?, epoch })
    }
}

impl Times {
    /// All times stay as they are.
    pub const KEPT: Self = Self { begin: (0, 0), end: (-1, 0), epoch: i64::MAX };

    /// The same but for times later than `epoch`, which become it.
    pub const fn until(epoch: i64) -> Self {
        Self { epoch, ..Self::KEPT }
    }

    /// The build's own time.
    pub fn epoch(&self) -> i64 {
        self.epoch
    }

    /// The time that a file has in its layer.
    pub fn of(&self, file: &std::fs::Metadata) -> i64 {
        let written = (self.begin..=self.end).contains(&(file.mtime(), file.mtime_nsec()));
        if written { self.epoch } else { file.mtime().min(self.epoch) }
    }
}

/// The time of a file that is made now.
fn now(folder: &Path) -> Result<Moment> {
    let stamp = tempfile::tempfile_in(folder).and_then(|file| file.metadata());
    let stamp = stamp.doing(|| format!("reading the clock of {}", folder.display()))?;
    Ok((stamp.mtime(), stamp.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::tree::{Tree, set_mtime};

    /// The times of a packaged file, a new one, and one with a time that packages may not have, in a layer of this time.
    fn settled(epoch: i64, packaged: i64, future: i64) -> [i64; 3] {
        let folder = tempfile::tempdir().unwrap();
        let begin = Begin::now(folder.path()).unwrap();
        let root = folder.path().join("root");
        std::fs::create_dir(&root).unwrap();
        for (name, time) in [("future", Some(future)), ("new", None), ("packaged", Some(packaged))] {
            std::fs::write(root.join(name), "").unwrap();
            if let Some(time) = time {
                set_mtime(&root.join(name), time).unwrap();
            }
        }
        let tree = Tree::settle(&root, None, &begin.times(epoch).unwrap()).unwrap();
        // What is on the disk is the same.
        assert_eq!(tree, Tree::settle(&root, None, &Times::KEPT).unwrap());
        ["packaged", "new", "future"].map(|name| tree.get(&name.parse().unwrap()).unwrap().mtime)
    }

    #[test]
    fn what_the_build_wrote_has_its_time_and_what_packages_bring_keeps_its_own() {
        // The lock is older than the build.
        assert_eq!(settled(1000, 900, 1100), [900, 1000, 1000]);
    }

    #[test]
    fn a_clock_that_is_behind_the_lock_gives_the_same_times() {
        // As seen by a clock that is behind: the lock and its packages are of the future, new files are not.
        let ahead = 1 << 33;
        assert_eq!(settled(ahead, ahead - 100, ahead + 100), [ahead - 100, ahead, ahead]);
    }
}
