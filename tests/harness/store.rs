//! Stores as tests see them: folders of files.

use ostack_image::base::digest::Digest;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Every path below a folder with its content's digest (a directory's or a link's own form); empty when it is absent.
pub fn snapshot(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    if !folder.exists() {
        return found;
    }
    for entry in walkdir::WalkDir::new(folder) {
        let entry = entry.unwrap();
        let kind = entry.file_type();
        let mode = entry.metadata().unwrap().mode();
        let what = if kind.is_file() {
            Digest::of_file(entry.path()).unwrap().0.to_string()
        } else if kind.is_symlink() {
            fs::read_link(entry.path()).unwrap().display().to_string()
        } else {
            "directory or device".to_string()
        };
        found.insert(entry.path().strip_prefix(folder).unwrap().to_path_buf(), format!("{mode:o} {what}"));
    }
    found
}

/// What differs between two snapshots, by path.
pub fn changes(before: &BTreeMap<PathBuf, String>, after: &BTreeMap<PathBuf, String>) -> Vec<String> {
    let gone = before.keys().filter(|path| !after.contains_key(*path)).map(|path| format!("- {}", path.display()));
    let new = after.iter().filter_map(|(path, what)| match before.get(path) {
        None => Some(format!("+ {}", path.display())),
        Some(old) if old != what => Some(format!("~ {}", path.display())),
        Some(_) => None,
    });
    gone.chain(new).collect()
}

/// Where a store keeps a blob.
pub fn blob(store: &Path, digest: &Digest) -> PathBuf {
    store.join("blobs/sha256").join(digest.hex())
}

/// Copies what an erofs holds, as this machine's kernel reads it, into a folder; with owners, times and attributes.
pub fn unpack_erofs(image: &Path, to: &Path) {
    // The mount and its loop device end with the namespace.
    let script =
        "mount -t tmpfs none /mnt && mkdir /mnt/at && mount -t erofs -o loop,ro \"$1\" /mnt/at && cp -a /mnt/at/. \"$2\"";
    let mut command = std::process::Command::new("unshare");
    let output = command.args(["--mount", "sh", "-c", script, "sh"]).args([image, to]).output().unwrap();
    assert!(output.status.success(), "{}: {}", image.display(), String::from_utf8_lossy(&output.stderr));
}

/// Copies those blobs into a store that it lacks and another one has.
pub fn add(from: &Path, to: &Path) {
    for entry in fs::read_dir(from.join("blobs/sha256")).unwrap().map(|entry| entry.unwrap()) {
        let new = to.join("blobs/sha256").join(entry.file_name());
        if !new.exists() {
            fs::copy(entry.path(), new).unwrap();
        }
    }
}

/// A second store with the same content: blobs are never written in place, so links are as good as copies.
pub fn duplicate(store: &Path, to: &Path) {
    for entry in walkdir::WalkDir::new(store) {
        let entry = entry.unwrap();
        let target = to.join(entry.path().strip_prefix(store).unwrap());
        if entry.file_type().is_dir() {
            fs::create_dir_all(&target).unwrap();
        } else if entry.file_name() == "lock" {
            // Its own lock: two stores must not wait for each other.
            fs::write(&target, "").unwrap();
        } else {
            fs::hard_link(entry.path(), &target).unwrap();
        }
    }
}

/// Replaces a blob with what `spoil` makes of its bytes. A new file: the old one may be linked elsewhere.
pub fn spoil(path: &Path, spoil: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    spoil(&mut bytes);
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Changes one byte in the middle.
pub fn flip_a_byte(path: &Path) {
    spoil(path, |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    });
}
