//! The content-addressed store: an OCI image layout, plus what this program must remember.
//!
//! ```text
//! <store>/oci-layout                    {"imageLayoutVersion":"1.0.0"}
//!         index.json                    one entry per image, named by org.opencontainers.image.ref.name
//!         blobs/sha256/<64 digits>      packages, layers, kernels, initrds, configs, manifests
//!         ostack/meta.json              {"format":1}: refused when newer than this program
//!         ostack/steps/<64 digits>.json a finished step: its inputs by name and its outputs by digest
//!         ostack/last/<release>-<role>  the inputs of that image's last build: why a step runs again
//!         ostack/tools/<64 digits>/     unpacked tool packages, by the digest of their list
//!         ostack/unpacked/              packages without their compression
//!         ostack/blake3/                what blobs that were checked are by a faster digest, see `again`
//!         ostack/kept/                  what helpers make of packages, such as compiled Python
//!         ostack/partial/<64 digits>    a download under way
//!         ostack/scratch/               work in progress; emptied by the next build
//!         ostack/lock                   held by the program that writes
//! ```
//!
//! What must hold: a blob appears by rename after its digest is known and its bytes are synced; a step's record
//! appears after its outputs. A killed build leaves only scratch and partial files behind.
//! Nothing is created before the first write.

mod again;
mod record;

pub use crate::base::digest::Blob;
pub use record::Record;

use crate::base::digest::{Digest, Hasher};
use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use crate::base::turns::{Turn, Turns};
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// The version of the folders and files under `ostack/`.
const FORMAT: u64 = 1;
/// What an image's name is followed by for the image before it.
pub const PREVIOUS: &str = ".previous";

/// A store. Values that name blobs are facts: the blob was there, whole, when the value was made.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    /// For threads of this process that write the same; other processes wait for the lock.
    turns: Turns,
}

/// Held while a program writes the store; released when dropped, also by the kernel when the program dies.
pub struct WriteLock {
    #[allow(dead_code, reason = "dropping it releases the lock")]
    file: File,
    /// Packages that this process has decompressed.
    unpacked: Mutex<BTreeMap<Digest, PathBuf>>,
}

impl WriteLock {
    /// Where a package is that this process has decompressed.
    pub fn unpacked(&self, package: &Digest) -> Option<PathBuf> {
        self.unpacked.lock().ok()?.get(package).cloned()
    }

    /// Says where a package is that has been decompressed.
    pub fn has_unpacked(&self, package: Digest, path: PathBuf) {
        if let Ok(mut unpacked) = self.unpacked.lock() {
            unpacked.insert(package, path);
        }
    }
}

impl Store {
    /// A store in this folder, which need not exist yet.
    ///
    /// # Errors
    /// A newer program has written it.
    pub fn open(root: &Path) -> Result<Self> {
        let meta = root.join("ostack/meta.json");
        if meta.exists() {
            let value: Value = serde_json::from_slice(&fs::read(&meta)?).doing(|| format!("reading {}", meta.display()))?;
            let format = value["format"].as_u64().unwrap_or(u64::MAX);
            if format > FORMAT {
                return Err(Error::new(format!("the store {} has format {format}, this program knows {FORMAT}", root.display()))
                    .next("use a newer ostack-image, or another --store"));
            }
        }
        // Paths are handed to processes with other working folders.
        let root = std::path::absolute(root).doing(|| format!("finding {}", root.display()))?;
        Ok(Self { root, turns: Turns::default() })
    }

    /// Makes the layout and takes the writer's lock, waiting for another writer to end.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn lock(&self) -> Result<WriteLock> {
        for folder in ["blobs/sha256", "ostack/steps", "ostack/last", "ostack/tools", "ostack/partial", "ostack/scratch"] {
            fs::create_dir_all(&self.root.join(folder))?;
        }
        let path = self.root.join("ostack/lock");
        let file = File::create(&path).doing(|| format!("opening {}", path.display()))?;
        flock(&file, FlockOperation::LockExclusive).doing(|| "waiting for another build to end")?;
        let layout = self.root.join("oci-layout");
        if !layout.exists() {
            fs::write_atomic(&self.root.join("ostack/meta.json"), json!({ "format": FORMAT }).to_string().as_bytes())?;
            fs::write_atomic(&layout, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        }
        Ok(WriteLock { file, unpacked: Mutex::default() })
    }

    /// The store's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder that holds every blob, named by its digits.
    pub fn pool(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    /// Where a blob is, or would be.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.pool().join(digest.hex())
    }

    /// Where a download of a blob grows.
    pub fn partial(&self, digest: &Digest) -> PathBuf {
        self.root.join("ostack/partial").join(digest.hex())
    }

    /// A folder for work in progress, on the store's own filesystem.
    pub fn scratch(&self) -> PathBuf {
        self.root.join("ostack/scratch")
    }

    /// Where unpacked tools of this key are, or would be.
    pub fn tools(&self, key: &Digest) -> PathBuf {
        self.root.join("ostack/tools").join(key.hex())
    }

    /// A folder for packages without their compression.
    pub fn unpacked(&self) -> PathBuf {
        self.root.join("ostack/unpacked")
    }

    /// A folder for what is made of packages and lasts from one build to the next.
    pub fn kept(&self) -> PathBuf {
        self.root.join("ostack/kept")
    }

    /// Whether a blob is there with this size.
    pub fn has(&self, digest: &Digest, size: u64) -> bool {
        self.path(digest).metadata().is_ok_and(|meta| meta.len() == size)
    }

    /// Whether a blob is there.
    pub fn has_any(&self, digest: &Digest) -> bool {
        self.path(digest).exists()
    }

    /// Stores bytes.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<Blob> {
        let digest = Digest::of(bytes);
        if !self.has(&digest, bytes.len() as u64) {
            fs::write_atomic(&self.path(&digest), bytes)?;
        }
        Ok(Blob { digest, size: bytes.len() as u64 })
    }

    /// Moves a file into the store; it must lie on the store's filesystem or is copied.
    ///
    /// # Errors
    /// The file cannot be read or the store not written.
    pub fn put_file(&self, file: &Path) -> Result<Blob> {
        let (digest, size) = Digest::of_file(file)?;
        self.adopt(file, &digest)?;
        Ok(Blob { digest, size })
    }

    /// Moves a file whose digest has been computed from its very bytes into the store.
    ///
    /// # Errors
    /// As [`Self::put_file`].
    pub fn adopt(&self, file: &Path, digest: &Digest) -> Result<()> {
        let target = self.path(digest);
        let what = || format!("storing {digest}");
        fs::open(file)?.sync_all().doing(what)?;
        match std::fs::rename(file, &target) {
            Err(error) if error.kind() == std::io::ErrorKind::CrossesDevices => {
                let mut new = fs::temporary_beside(&target)?;
                let mut hasher = Hasher::new(new.as_file_mut());
                std::io::copy(&mut fs::open(file)?, &mut hasher).doing(what)?;
                let (copied, _) = hasher.finish();
                if copied != *digest {
                    return Err(Error::new(format!("{} changed while it was stored", file.display())));
                }
                fs::persist(new, &target, 0o644)?;
                std::fs::remove_file(file).doing(what)
            }
            other => other.doing(what),
        }
    }

    /// A small blob's bytes, checked.
    ///
    /// # Errors
    /// It is absent or damaged.
    pub fn read(&self, digest: &Digest) -> Result<Vec<u8>> {
        let bytes = fs::read(&self.path(digest))?;
        if Digest::of(&bytes) != *digest {
            return Err(self.damaged(digest));
        }
        Ok(bytes)
    }

    /// Reads a blob to its end and checks its digest.
    ///
    /// # Errors
    /// It is absent or damaged.
    pub fn verify(&self, digest: &Digest) -> Result<()> {
        let (found, _) = Digest::of_file(&self.path(digest))?;
        if found == *digest { Ok(()) } else { Err(self.damaged(digest)) }
    }

    fn damaged(&self, digest: &Digest) -> Error {
        let path = self.path(digest);
        Error::new(format!("the stored blob {digest} is damaged: its bytes have another digest"))
            .next(format!("remove {} and build again", path.display()))
    }

    /// Waits until no other thread is at what has this name.
    pub fn turn(&self, what: &str) -> Turn {
        self.turns.take(what)
    }

    /// The same, where nobody is at it now.
    pub fn try_turn(&self, what: &str) -> Option<Turn> {
        self.turns.try_take(what)
    }

    /// A finished step, if its record and all its outputs are there.
    pub fn step(&self, key: &Digest) -> Option<Record> {
        let record: Record = serde_json::from_slice(&std::fs::read(self.step_path(key)).ok()?).ok()?;
        record.outputs.values().all(|blob| self.has(&blob.digest, blob.size)).then_some(record)
    }

    /// Remembers a finished step. Its outputs must be in the store.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn put_step(&self, key: &Digest, record: &Record) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(record).doing(|| "writing a step's record")?;
        fs::write_atomic(&self.step_path(key), &bytes)
    }

    fn step_path(&self, key: &Digest) -> PathBuf {
        self.root.join("ostack/steps").join(format!("{}.json", key.hex()))
    }

    /// What an image's last build had as inputs; `Null` when there was none.
    pub fn last(&self, name: &str) -> Value {
        let path = self.root.join("ostack/last").join(name);
        std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or(Value::Null)
    }

    /// Remembers an image's inputs.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn put_last(&self, name: &str, value: &Value) -> Result<()> {
        fs::write_atomic(&self.root.join("ostack/last").join(name), value.to_string().as_bytes())
    }

    /// The manifest that a name points at, with the manifest's size.
    ///
    /// # Errors
    /// The index is damaged.
    pub fn reference(&self, name: &str) -> Result<Option<Blob>> {
        for entry in self.index()?["manifests"].as_array().into_iter().flatten() {
            if entry["annotations"]["org.opencontainers.image.ref.name"] == name {
                let digest = entry["digest"].as_str().unwrap_or_default().parse()?;
                return Ok(Some(Blob { digest, size: entry["size"].as_u64().unwrap_or(0) }));
            }
        }
        Ok(None)
    }

    /// The names of all images.
    ///
    /// # Errors
    /// The index is damaged.
    pub fn references(&self) -> Result<Vec<String>> {
        let index = self.index()?;
        let names = index["manifests"].as_array().into_iter().flatten();
        Ok(names
            .filter_map(|entry| Some(entry["annotations"]["org.opencontainers.image.ref.name"].as_str()?.to_string()))
            .collect())
    }

    /// Points a name at a manifest; the one it pointed at before gets the name with [`PREVIOUS`].
    ///
    /// # Errors
    /// The index is damaged or cannot be written.
    pub fn set_reference(&self, name: &str, manifest: &Blob) -> Result<()> {
        let _turn = self.turn("index");
        if self.reference(name)?.is_some_and(|old| old.digest == manifest.digest) {
            return Ok(());
        }
        let mut index = self.index()?;
        let mut manifests: Vec<Value> = index["manifests"].as_array().cloned().unwrap_or_default();
        let named = |entry: &Value, name: &str| entry["annotations"]["org.opencontainers.image.ref.name"] == name;
        let previous = format!("{name}{PREVIOUS}");
        if let Some(mut old) = manifests.iter().find(|entry| named(entry, name)).cloned() {
            old["annotations"]["org.opencontainers.image.ref.name"] = json!(previous);
            manifests.retain(|entry| !named(entry, &previous));
            manifests.push(old);
        }
        manifests.retain(|entry| !named(entry, name));
        manifests.push(json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": manifest.digest,
            "size": manifest.size,
            "annotations": { "org.opencontainers.image.ref.name": name },
            "platform": { "architecture": "amd64", "os": "linux" },
        }));
        manifests.sort_by_key(|entry| entry["annotations"]["org.opencontainers.image.ref.name"].to_string());
        index["manifests"] = Value::Array(manifests);
        fs::write_atomic(&self.root.join("index.json"), index.to_string().as_bytes())
    }

    fn index(&self) -> Result<Value> {
        let path = self.root.join("index.json");
        if !path.exists() {
            return Ok(json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [] }));
        }
        serde_json::from_slice(&fs::read(&path)?)
            .doing(|| format!("reading {}", path.display()))
            .map_err(|error| error.next("remove the file; the next build writes it again"))
    }

    /// A new file in the scratch folder.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn scratch_file(&self) -> Result<tempfile::NamedTempFile> {
        tempfile::NamedTempFile::new_in(self.scratch()).doing(|| "creating a scratch file")
    }

    /// Removes what a killed build left. The caller holds the write lock.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub fn empty_scratch(&self, _lock: &WriteLock) -> Result<()> {
        for entry in fs::sorted_dir(&self.scratch())? {
            if entry.is_dir() {
                fs::remove_tree(&entry)?;
            } else {
                std::fs::remove_file(&entry).doing(|| format!("removing {}", entry.display()))?;
            }
        }
        // What was being made beside files that last has a hidden name.
        for entry in [fs::sorted_dir(&self.kept())?, fs::sorted_dir(&self.unpacked())?].concat() {
            if entry.is_dir() {
                fs::remove_tree(&entry)?;
            } else if entry.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) {
                std::fs::remove_file(&entry).doing(|| format!("removing {}", entry.display()))?;
            }
        }
        Ok(())
    }

    /// Removes blobs that a killed program had begun to write. The caller holds the write lock.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub fn remove_unfinished(&self, _lock: &WriteLock) -> Result<()> {
        for path in fs::sorted_dir(&self.pool())? {
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".new-")) {
                std::fs::remove_file(&path).doing(|| format!("removing {}", path.display()))?;
            }
        }
        Ok(())
    }

    /// Streams a blob's writer: bytes go to a scratch file that becomes a blob when `fill` is done.
    ///
    /// # Errors
    /// Whatever `fill` gives, or the store cannot be written; nothing is stored then.
    pub fn put_with(&self, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<Blob> {
        let mut file = self.scratch_file()?;
        let mut hasher = Hasher::new(file.as_file_mut());
        fill(&mut hasher)?;
        let (digest, size) = hasher.finish();
        if !self.has(&digest, size) {
            fs::persist(file, &self.path(&digest), 0o644)?;
        }
        Ok(Blob { digest, size })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        (folder, store)
    }

    #[test]
    fn opening_a_store_creates_nothing() {
        let (folder, store) = store();
        assert!(store.reference("controller").unwrap().is_none());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_flipped_byte_is_found_and_the_remedy_names_the_file() {
        let (_folder, store) = store();
        let _lock = store.lock().unwrap();
        let blob = store.put_bytes(b"hello").unwrap();
        std::fs::write(store.path(&blob.digest), b"hellp").unwrap();
        let error = store.verify(&blob.digest).unwrap_err();
        assert!(error.remedy().unwrap().contains(&blob.digest.hex()));
    }

    #[test]
    fn a_step_counts_only_while_all_its_outputs_are_there() {
        let (_folder, store) = store();
        let _lock = store.lock().unwrap();
        let blob = store.put_bytes(b"layer").unwrap();
        let key = Digest::of("key");
        let record = Record { step: "base".into(), outputs: [("layer".to_string(), blob)].into(), ..Record::default() };
        store.put_step(&key, &record).unwrap();
        assert_eq!(store.step(&key), Some(record));
        std::fs::remove_file(store.path(&blob.digest)).unwrap();
        assert_eq!(store.step(&key), None);
    }

    #[test]
    fn a_name_points_at_its_newest_manifest_and_keeps_the_one_before() {
        let (_folder, store) = store();
        let _lock = store.lock().unwrap();
        let (old, new) = (store.put_bytes(b"old").unwrap(), store.put_bytes(b"new").unwrap());
        store.set_reference("controller", &old).unwrap();
        store.set_reference("compute", &old).unwrap();
        store.set_reference("controller", &new).unwrap();
        assert_eq!(store.reference("controller").unwrap(), Some(new));
        assert_eq!(store.reference("controller.previous").unwrap(), Some(old));
        assert_eq!(store.references().unwrap(), ["compute", "controller", "controller.previous"]);
    }

    #[test]
    fn a_store_of_a_newer_format_is_refused() {
        let (_folder, store) = store();
        let _lock = store.lock().unwrap();
        fs::write_atomic(&store.root().join("ostack/meta.json"), br#"{"format":2}"#).unwrap();
        let error = Store::open(store.root()).unwrap_err();
        assert_eq!(error.remedy(), Some("use a newer ostack-image, or another --store"));
    }
}
