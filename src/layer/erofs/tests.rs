//! What is written, the kernel reads back.

use super::format::SUPERBLOCK;
use super::*;
use crate::base::error::Result;
use crate::base::path::RelPath;
use crate::base::tool::Tool;
use crate::layer::times::Times;
use crate::layer::tree::{Content, Entry, Kind, Tree};
use crate::model::release::Compression;
use std::path::Path;

const EPOCH: i64 = 1_700_000_000;
const BOTH: [Compression; 2] = [Compression::None, Compression::Zstd];

fn bytes(length: usize, byte: impl Fn(usize) -> u8) -> Entry {
    Entry::new(Kind::File(Content::Bytes((0..length).map(byte).collect())), 0o640, EPOCH)
}

fn file(length: usize) -> Entry {
    bytes(length, |index| (index * 7 % 251) as u8)
}

/// Bytes that no compression makes fewer.
fn noise(length: usize) -> Entry {
    bytes(length, |index| {
        let mixed = (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 56) as u8
    })
}

/// Every length at which data move from one place to another, directories of several blocks, names that sort before `.`, long
/// links, large owners, every bit of a mode, devices, pipes, other names, attributes.
fn tree() -> Tree {
    let mut tree = Tree::new(EPOCH);
    let mut add = |path: String, entry: Entry| tree.insert(path.parse().unwrap(), entry);
    let borders = [0, 1, 31, 32, 33, 191, 192, 193, 4031, 4032, 4033, 4095, 4096, 4097, 8127, 8128, 8129, 8192, 65_535, 65_536];
    for length in
        borders.into_iter().chain([65_537, 262_143, 262_144, 262_145, 524_287, 524_288, 524_289, 2_097_152, 2_097_153, 5_000_000])
    {
        add(format!("lengths/{length}"), file(length));
        add(format!("noise/{length}"), noise(length));
    }
    // Some extents of the last are stored as they are, others not.
    let half = |index: usize| if (index / 524_288).is_multiple_of(2) { 0 } else { (index * index % 65_521) as u8 };
    add("mixed".to_string(), bytes(3_000_000, half));
    for index in 0..300 {
        add(format!("many/{index}-{}", "x".repeat(index % 250)), file(index));
    }
    for name in ["!", "-a", ".a", "..a", "a", "ä"] {
        add(format!("names/{name}"), file(3));
    }
    for length in [1, 4031, 4032, 4033, 4094] {
        add(format!("links/{length}"), Entry::new(Kind::Symlink("t".repeat(length)), 0o777, EPOCH));
    }
    add("a/b/c/d".to_string(), Entry::new(Kind::Directory { opaque: false }, 0o3771, EPOCH - 5).owned_by(70_000, 80_000));
    add("a/set-user".to_string(), Entry { mode: 0o4755, mtime: 1, ..file(10) }.owned_by(64_055, 4_000_000_000));
    add(
        "names/twice".to_string(),
        Entry { mtime: 7, ..Entry::new(Kind::HardLink("a/set-user".parse().unwrap()), 0o4755, EPOCH) },
    );
    let device = |character, major, minor| Entry::new(Kind::Device { character, major, minor }, 0o660, EPOCH);
    add("special/null".to_string(), device(true, 1, 3));
    add("special/disk".to_string(), device(false, 259, 300));
    add("special/pipe".to_string(), Entry::new(Kind::Fifo, 0o600, EPOCH));
    add("special/gone".to_string(), Entry::new(Kind::Whiteout, 0o600, EPOCH));
    for (length, name) in [(10, "small"), (300, "packed"), (200_000, "large")] {
        let mut entry = file(length);
        entry.xattrs.insert("user.a".to_string(), vec![7; length % 300]);
        entry.xattrs.insert("trusted.b.c".to_string(), b"value".to_vec());
        entry.xattrs.insert("security.capability".to_string(), [1, 0, 0, 2].repeat(5));
        add(format!("attributes/{name}"), entry);
    }
    tree
}

/// What a directory has, as the writer's input would be.
fn read(root: &Path) -> Tree {
    let mut tree = Tree::default();
    for (path, entry) in Tree::settle(root, None, &Times::KEPT).unwrap().iter() {
        tree.insert(path.clone(), in_memory(entry));
    }
    tree
}

fn in_memory(entry: &Entry) -> Entry {
    let kind = match &entry.kind {
        Kind::File(content) => Kind::File(Content::Bytes(content.bytes().unwrap().into_owned())),
        other => other.clone(),
    };
    Entry { kind, ..entry.clone() }
}

/// The tree as this program reads it back.
fn read_back(image: &Path) -> Tree {
    let mut tree = Tree::default();
    for (path, entry) in super::tree(image).unwrap().iter() {
        tree.insert(path.clone(), in_memory(entry));
    }
    tree
}

/// The tree as a directory shows it: every name of a file has the file's own times and modes.
fn shown(tree: &Tree) -> Tree {
    let mut shown = tree.clone();
    for (path, entry) in tree.iter() {
        if let Kind::HardLink(first) = &entry.kind {
            let first = tree.get(first).unwrap();
            shown.insert(path.clone(), Entry { kind: entry.kind.clone(), xattrs: [].into(), ..first.clone() });
        }
    }
    shown
}

fn spec<'a>(id: &'a Digest, compression: Compression) -> Spec<'a> {
    Spec { id, epoch: EPOCH, label: "OSTACK-SEED", compression }
}

fn written(tree: &Tree, compression: Compression) -> Vec<u8> {
    image(tree, &spec(&Digest::of("x"), compression)).unwrap()
}

/// The same as people and programs write it.
fn uuid_text(id: &Digest) -> String {
    let hex: String = uuid(id).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[0..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..32])
}

fn shell(folder: &Path, line: &str) -> Result<()> {
    // Mounts and their loop devices end with the shell's namespace.
    Tool::new("unshare").args(["--mount", "sh", "-ec"]).arg(format!("cd {}; {line}", folder.display())).run().map(|_| ())
}

/// The names of paths that two trees do not have alike.
fn different(a: &Tree, b: &Tree) -> Vec<String> {
    let other = |tree: &Tree, path: &RelPath, entry: &Entry| tree.get(path) != Some(entry);
    let one = a.iter().filter(|(path, entry)| other(b, path, entry));
    one.chain(b.iter().filter(|(path, entry)| other(a, path, entry))).map(|(path, _)| path.to_string()).collect()
}

#[test]
fn the_kernel_reads_back_the_same_tree() {
    for compression in BOTH {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("image"), written(&tree(), compression)).unwrap();
        shell(folder.path(), "mkdir at by-kernel; mount -t erofs -o loop,ro image at; cp -a at/. by-kernel").unwrap();
        assert_eq!(different(&read(&folder.path().join("by-kernel")), &shown(&tree())), [""; 0]);
    }
}

#[test]
fn this_program_reads_back_the_same_tree() {
    for compression in BOTH {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        std::fs::write(&image, written(&tree(), compression)).unwrap();
        assert_eq!(different(&read_back(&image), &shown(&tree())), [""; 0]);
    }
}

#[test]
fn any_part_of_a_stored_file_is_that_of_the_file() {
    for compression in BOTH {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        std::fs::write(&image, written(&tree(), compression)).unwrap();
        let (stored, tree) = (super::tree(&image).unwrap(), tree());
        for (path, from, length) in [
            ("mixed", 524_287, 2),
            ("mixed", 1_048_576, 1_000_000),
            ("lengths/2097153", 2_097_152, 1),
            ("noise/5000000", 600_000, 3_000_000),
            ("lengths/8129", 8127, 2),
            ("lengths/262144", 100, 262_000),
            ("lengths/0", 0, 0),
        ] {
            let part = |tree: &Tree| match &tree.get(&path.parse().unwrap()).unwrap().kind {
                Kind::File(content) => content.part(from, length).unwrap().into_owned(),
                other => panic!("{other:?}"),
            };
            assert!(part(&stored) == part(&tree), "{path} from {from} on, {length} bytes, {compression:?}");
        }
    }
}

#[test]
fn what_is_no_filesystem_of_this_program_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    let mut damaged = written(&tree(), Compression::Zstd);
    damaged[SUPERBLOCK + 64] ^= 1;
    for (bytes, cause) in [
        (vec![0; 100], "reading its first block: failed to fill whole buffer"),
        (vec![0; 8192], "it is none, or none that this program writes\n  next: build the image again with this version"),
        (damaged, "it is none, or none that this program writes\n  next: build the image again with this version"),
    ] {
        std::fs::write(&image, bytes).unwrap();
        let expected = format!("reading the filesystem {}: {cause}", image.display());
        assert_eq!(super::tree(&image).unwrap_err().to_string(), expected);
    }
}

#[test]
fn the_formats_own_tools_read_back_the_same_files() {
    let folder = tempfile::tempdir().unwrap();
    // The tool makes no devices for those who are not root of the machine, gives a file its owner after its mode, which costs it
    // the set-user-id bit, and knows no attributes in some versions: files and links are what it is asked for.
    let mut tree = Tree::new(EPOCH);
    for (path, entry) in
        self::tree().iter().filter(|(path, _)| ["lengths", "links", "many"].contains(&path.as_str().split('/').next().unwrap()))
    {
        tree.insert(path.clone(), entry.clone());
    }
    std::fs::write(folder.path().join("image"), written(&tree, Compression::None)).unwrap();
    shell(folder.path(), "fsck.erofs --extract=by-tool --overwrite --preserve image").unwrap();
    assert_eq!(different(&read(&folder.path().join("by-tool")), &tree), [""; 0]);
}

#[test]
fn what_compresses_is_smaller_and_what_does_not_takes_no_more_than_its_blocks() {
    let one = |entry: Entry| {
        let mut tree = Tree::new(EPOCH);
        tree.insert("file".parse().unwrap(), entry);
        written(&tree, Compression::Zstd).len() / 4096
    };
    // Block 0, the file's, and the inodes'.
    assert_eq!(one(noise(1_000_000)), 1 + 245 + 1);
    assert_eq!(one(bytes(1_000_000, |_| 0)), 1 + 2 + 1);
    assert_eq!(one(noise(50_000)), 1 + 13 + 1);
}

#[test]
fn label_identity_and_time_are_the_callers_and_the_same_each_time() {
    for compression in BOTH {
        let folder = tempfile::tempdir().unwrap();
        let bytes = written(&tree(), compression);
        assert!(bytes == written(&tree(), compression));
        std::fs::write(folder.path().join("image"), &bytes).unwrap();
        let said = Tool::new("blkid").args(["-p", "-o", "export"]).arg(folder.path().join("image")).run().unwrap().text();
        let uuid = uuid_text(&Digest::of("x"));
        for line in ["LABEL=OSTACK-SEED".to_string(), format!("UUID={uuid}"), "TYPE=erofs".to_string()] {
            assert!(said.lines().any(|one| one == line), "{line} is not in\n{said}");
        }
        assert_eq!(bytes[SUPERBLOCK + 24..][..8], EPOCH.to_le_bytes());
    }
}

#[test]
fn an_opaque_directory_is_marked_for_overlayfs() {
    let folder = tempfile::tempdir().unwrap();
    let mut tree = Tree::new(EPOCH);
    tree.insert("d".parse().unwrap(), Entry::new(Kind::Directory { opaque: true }, 0o755, EPOCH));
    std::fs::write(folder.path().join("image"), written(&tree, Compression::Zstd)).unwrap();
    shell(folder.path(), "mkdir at by-kernel; mount -t erofs -o loop,ro image at; cp -a at/. by-kernel").unwrap();
    assert_eq!(different(&read(&folder.path().join("by-kernel")), &tree), [""; 0]);
}

#[test]
fn the_kernel_refuses_a_damaged_superblock() {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = written(&tree(), Compression::Zstd);
    bytes[SUPERBLOCK + 64] ^= 1;
    std::fs::write(folder.path().join("image"), bytes).unwrap();
    let error = shell(folder.path(), "mkdir at; mount -t erofs -o loop,ro image at").unwrap_err().to_string();
    assert!(error.contains("cannot mount") || error.contains("wrong fs type"), "{error}");
}

#[test]
fn an_attribute_that_the_format_does_not_hold_is_refused() {
    let mut tree = Tree::new(EPOCH);
    let mut entry = file(1);
    entry.xattrs.insert("system.nfs4_acl".to_string(), vec![1]);
    tree.insert("file".parse().unwrap(), entry);
    let error = image(&tree, &spec(&Digest::of("x"), Compression::Zstd)).unwrap_err();
    assert_eq!(error.to_string(), "/file has an attribute that no erofs holds");
}

#[test]
fn a_file_that_changed_while_it_was_read_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, vec![0; 1000]).unwrap();
    for (size, has) in [(1001, 1000), (200_000, 1000)] {
        let mut tree = Tree::new(EPOCH);
        tree.insert("file".parse().unwrap(), Entry::new(Kind::File(Content::OnDisk(path.clone(), size)), 0o644, EPOCH));
        let error = image(&tree, &spec(&Digest::of("x"), Compression::Zstd)).unwrap_err();
        assert_eq!(error.to_string(), format!("reading {}: it had {size} bytes, and has {has}", path.display()));
    }
}
