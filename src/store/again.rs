//! Blobs that are checked again and again: large ones, each time they go onto a disk.
//!
//! ```text
//! <store>/ostack/blake3/<64 digits of sha256>    the blob's BLAKE3, 64 digits
//! ```
//!
//! BLAKE3 takes less than half of what SHA-256 takes, also where the processor has instructions for that. A blob's is written down
//! when it is checked first, against its name, and may be lost.

use super::Store;
use crate::base::digest::{Digest, Hasher, copy};
use crate::base::error::{Context, Result};
use crate::base::fs;
use std::path::PathBuf;

impl Store {
    /// Reads a blob to its end and checks that it is what its first check found to have this digest.
    ///
    /// # Errors
    /// It is absent or damaged.
    pub fn verify_again(&self, digest: &Digest) -> Result<()> {
        let note = self.again().join(digest.hex());
        let mut second = blake3::Hasher::new();
        let mut blob = fs::open(&self.path(digest))?;
        let what = || format!("reading {digest}");
        let whole = match std::fs::read_to_string(&note) {
            Ok(known) => {
                copy(&mut blob, &mut second).doing(what)?;
                known == second.finalize().to_hex().as_str()
            }
            Err(_) => {
                let mut hasher = Hasher::new(&mut second);
                copy(&mut blob, &mut hasher).doing(what)?;
                let (found, _) = hasher.finish();
                if found == *digest {
                    fs::write_atomic(&note, second.finalize().to_hex().as_bytes())?;
                }
                found == *digest
            }
        };
        if whole { Ok(()) } else { Err(self.damaged(digest)) }
    }

    /// The folder of what is known of blobs that have been checked.
    pub fn again(&self) -> PathBuf {
        self.root.join("ostack/blake3")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_blob(then: impl FnOnce(&Store, &Digest)) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let _lock = store.lock().unwrap();
        let blob = store.put_bytes(&vec![7; 3_000_000]).unwrap();
        then(&store, &blob.digest);
    }

    #[test]
    fn what_was_whole_at_its_first_check_is_found_damaged_at_a_later_one() {
        with_blob(|store, digest| {
            store.verify_again(digest).unwrap();
            assert_eq!(fs::sorted_dir(&store.again()).unwrap(), [store.again().join(digest.hex())]);
            store.verify_again(digest).unwrap();
            std::fs::write(store.path(digest), vec![7; 2_999_999]).unwrap();
            let damaged = store.damaged(digest).to_string();
            assert_eq!(store.verify_again(digest).unwrap_err().to_string(), damaged);
        });
    }

    #[test]
    fn what_is_damaged_at_its_first_check_is_not_noted() {
        with_blob(|store, digest| {
            std::fs::write(store.path(digest), vec![8; 3_000_000]).unwrap();
            let damaged = store.damaged(digest).to_string();
            assert_eq!(store.verify_again(digest).unwrap_err().to_string(), damaged);
            assert_eq!(fs::sorted_dir(&store.again()).unwrap_or_default(), Vec::<PathBuf>::new());
        });
    }
}
