//! The initrd: `ostack-node` as init, kernel modules, and nothing else.
//!
//! ```text
//! +-----------------------------+---------------------------------------------------------------+
//! | microcode, cpio, plain      | zstd of one cpio:                                             |
//! | kernel/x86/microcode/*.bin  | dev/console dev/null etc/ostack/initrd.json init              |
//! | (only if the root has any)  | lib/modules/VERSION/{kernel/…,modules.*} sbin/modprobe        |
//! +-----------------------------+---------------------------------------------------------------+
//! ```
//!
//! Names are sorted, inodes counted, owners root and times the caller's. Modules stay compressed as the distribution
//! ships them, since the kernel unpacks them itself. The list of modules names the wanted ones by name, or whole folders below
//! `kernel/` with a final `/`; what they depend on comes by itself.

use crate::base::error::{Context, Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What an archive is padded to, in bytes.
const BLOCK: usize = 512;
/// zstd's level: modules do not shrink further, and a higher one costs a second per build for 1 %.
const ZSTD_LEVEL: i32 = 9;

/// What goes into an initrd.
pub struct Initrd<'a> {
    /// The static `ostack-node` binary.
    pub node: &'a [u8],
    /// The root tree that has `lib/modules` (or `usr/lib/modules`) and perhaps microcode.
    pub root: &'a Path,
    /// The kernel's version: the folder's name in `lib/modules`.
    pub kernel: &'a str,
    /// Module names, and folders below `kernel/` that end in `/`.
    pub modules: &'a [String],
    /// Modules to load before anything is looked for, in order.
    pub load: &'a [String],
    /// Every file's time, in seconds since 1970.
    pub epoch: u64,
}

/// The kernel versions that a root tree has modules for, sorted.
///
/// # Errors
/// The folder cannot be read.
pub fn kernels(root: &Path) -> Result<Vec<String>> {
    let folders = crate::base::fs::sorted_dir(&modules_dir(root))?;
    Ok(folders.iter().filter_map(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned()).collect())
}

/// Builds an initrd.
///
/// # Errors
/// The root has no modules of this kernel, or a named module or folder does not exist in it nor is built in.
pub fn build(initrd: &Initrd) -> Result<Vec<u8>> {
    let mut files = Files::default();
    files.put("init", Kind::File(0o755), loadable(initrd.node)?.to_vec());
    // The kernel asks /sbin/modprobe for filesystems and algorithms that it meets.
    files.put("sbin/modprobe", Kind::Link, b"/init".to_vec());
    files.put("dev/console", Kind::Device(5, 1), Vec::new());
    files.put("dev/null", Kind::Device(1, 3), Vec::new());
    let load = serde_json::json!({ "kernel": initrd.kernel, "load": initrd.load });
    files.put("etc/ostack/initrd.json", Kind::File(0o644), format!("{load}\n").into_bytes());
    for folder in ["proc", "sys", "run", "root"] {
        files.put(folder, Kind::Folder, Vec::new());
    }
    add_modules(initrd, &mut files).map_err(|error| error.doing(format!("choosing modules of Linux {}", initrd.kernel)))?;

    let mut out = microcode(initrd)?;
    out.extend(zstd::encode_all(files.cpio(initrd.epoch).as_slice(), ZSTD_LEVEL).doing(|| "compressing the initrd")?);
    Ok(aligned(out))
}

/// Zeros up to a block's end: what is unpacked after it must begin at a multiple of 4, and not every loader sees to that.
fn aligned(mut archive: Vec<u8>) -> Vec<u8> {
    archive.resize(archive.len().next_multiple_of(BLOCK), 0);
    archive
}

/// What an initrd lacks for more modules, as an archive to be unpacked after it: the modules, what firmware they ask for (as
/// far as the root has it), and lists that name both these and the initrd's own.
///
/// # Errors
/// As [`build`]'s.
pub fn extension(initrd: &Initrd, more: &[String]) -> Result<Vec<u8>> {
    let doing = |error: Error| error.doing(format!("choosing modules of Linux {}", initrd.kernel));
    let (mut own, mut all) = (Files::default(), Files::default());
    add_modules(initrd, &mut own).map_err(doing)?;
    let both: Vec<String> = initrd.modules.iter().chain(more).cloned().collect();
    add_modules(&Initrd { modules: &both, ..*initrd }, &mut all).map_err(doing)?;
    let is_new = |path: &String, entry: &(Kind, Vec<u8>)| own.0.get(path).is_none_or(|(_, bytes)| *bytes != entry.1);
    all.0.retain(|path, entry| matches!(entry.0, Kind::Folder) || is_new(path, entry));
    let modules: Vec<&Vec<u8>> = all.0.iter().filter(|(path, _)| path.contains(".ko")).map(|(_, (_, bytes))| bytes).collect();
    let mut firmware = BTreeSet::new();
    for module in modules {
        firmware.extend(wanted_firmware(module)?);
    }
    let folder = initrd.root.join("usr/lib/firmware");
    for name in firmware.iter().filter(|name| !name.split('/').any(|part| part == "..")) {
        // Links lead to one version of several: the kernel asks for the name that it knows.
        if folder.join(name).is_file() {
            all.put(&format!("lib/firmware/{name}"), Kind::File(0o644), crate::base::fs::read(&folder.join(name))?);
        }
    }
    let packed = zstd::encode_all(all.cpio(initrd.epoch).as_slice(), ZSTD_LEVEL);
    packed.doing(|| "compressing the installer's modules").map(aligned)
}

/// A file that an installer finds in its root, as an archive to be unpacked after an initrd.
pub fn file(path: &str, bytes: Vec<u8>, epoch: u64) -> Vec<u8> {
    let mut files = Files::default();
    files.put(path, Kind::File(0o600), bytes);
    files.cpio(epoch)
}

/// The firmware that a module names in its `.modinfo`: strings `firmware=NAME`, each ended by a zero byte.
fn wanted_firmware(module: &[u8]) -> Result<Vec<String>> {
    const MARK: &[u8] = b"firmware=";
    let plain = match module {
        [0xfd, b'7', b'z', ..] => {
            let mut plain = Vec::new();
            let mut reader = liblzma::read::XzDecoder::new(module);
            std::io::Read::read_to_end(&mut reader, &mut plain).doing(|| "unpacking a module")?;
            plain
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => zstd::decode_all(module).doing(|| "unpacking a module")?,
        _ => module.to_vec(),
    };
    let begins = |at: &usize| plain[*at..].starts_with(MARK) && (*at == 0 || plain[at - 1] == 0);
    let name = |at: usize| {
        let rest = &plain[at + MARK.len()..];
        let end = rest.iter().position(|byte| *byte == 0)?;
        std::str::from_utf8(&rest[..end]).ok().map(str::to_string)
    };
    Ok((0..plain.len()).filter(begins).filter_map(name).collect())
}

/// An ELF program without what follows its loaded segments: symbols and debugging information, most of its size. The section
/// table that then points past the end is only read by debuggers.
fn loadable(program: &[u8]) -> Result<&[u8]> {
    let field = |at: usize, length: usize| -> Option<u64> {
        let bytes = program.get(at..at + length)?;
        Some(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    };
    let end = || {
        // e_phoff, e_phentsize, e_phnum; then p_offset and p_filesz of each.
        let (table, size, count) = (field(32, 8)?, field(54, 2)?, field(56, 2)?);
        let segment = |number| {
            let at = (table + number * size) as usize;
            field(at + 8, 8)?.checked_add(field(at + 32, 8)?)
        };
        (0..count).map(segment).try_fold(0, |end, segment| Some(end.max(segment?)))
    };
    let end = end().filter(|_| program.starts_with(b"\x7fELF\x02\x01"));
    end.and_then(|end| program.get(..end as usize))
        .ok_or_else(|| Error::new("the init program is no 64-bit ELF file").next("give the ostack-node binary of this release"))
}

fn modules_dir(root: &Path) -> PathBuf {
    // A merged root's lib is a link, perhaps an absolute one: the real folder comes first.
    let usr = root.join("usr/lib/modules");
    if usr.is_dir() { usr } else { root.join("lib/modules") }
}

/// A module's name: its file's, without suffixes, `-` written as `_`.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or_default();
    file.split(".ko").next().unwrap_or_default().replace('-', "_")
}

fn add_modules(initrd: &Initrd, files: &mut Files) -> Result<()> {
    let folder = modules_dir(initrd.root).join(initrd.kernel);
    crate::base::fs::must_exist(&folder, "the modules folder", "name a kernel that the root has")?;
    let dep = crate::base::fs::read_text(&folder.join("modules.dep"))?;
    let deps: BTreeMap<&str, Vec<&str>> = dep
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(path, deps)| (path, deps.split_whitespace().collect()))
        .collect();
    let by_name: BTreeMap<String, &str> = deps.keys().map(|path| (module_name(path), *path)).collect();
    let builtin = crate::base::fs::read_text(&folder.join("modules.builtin"))?;
    let softdep = crate::base::fs::read_text(&folder.join("modules.softdep")).unwrap_or_default();
    let soft = soft_dependencies(&softdep);

    let mut wanted: Vec<&str> = Vec::new();
    for entry in initrd.modules.iter().chain(initrd.load) {
        let name = module_name(entry);
        if let Some(below) = entry.strip_suffix('/') {
            let prefix = format!("kernel/{below}/");
            let found: Vec<&str> = deps.keys().copied().filter(|path| path.starts_with(&prefix)).collect();
            if found.is_empty() && !builtin.lines().any(|line| line.starts_with(&prefix)) {
                return Err(Error::new(format!("there is no module below {prefix}")).next("correct or remove this folder"));
            }
            wanted.extend(found);
        } else if let Some(path) = by_name.get(&name) {
            wanted.push(path);
        } else if !builtin.lines().any(|line| module_name(line) == name) {
            return Err(Error::new(format!("there is no module {entry}")).next("correct or remove this name"));
        }
    }
    let mut chosen: BTreeSet<&str> = BTreeSet::new();
    while let Some(path) = wanted.pop() {
        if chosen.insert(path) {
            wanted.extend(deps.get(path).into_iter().flatten());
            let soft = soft.get(&module_name(path)).into_iter().flatten();
            wanted.extend(soft.filter_map(|name| by_name.get(name)));
        }
    }

    let names: BTreeSet<String> = chosen.iter().map(|path| module_name(path)).collect();
    let at = |name: &str| format!("lib/modules/{}/{name}", initrd.kernel);
    for path in &chosen {
        files.put(&at(path), Kind::File(0o644), crate::base::fs::read(&folder.join(path))?);
    }
    let alias = crate::base::fs::read_text(&folder.join("modules.alias"))?;
    let lines = |text: &str, keep: &dyn Fn(&str) -> bool| -> Vec<u8> {
        text.lines().filter(|line| keep(line)).flat_map(|line| [line.as_bytes(), b"\n"].concat()).collect()
    };
    let last_word = |line: &str| line.rsplit(' ').next().is_some_and(|name| names.contains(&name.replace('-', "_")));
    let of_path = |line: &str| line.split(':').next().is_some_and(|path| chosen.contains(path));
    let second_word = |line: &str| line.split(' ').nth(1).is_some_and(|name| names.contains(&name.replace('-', "_")));
    files.put(&at("modules.alias"), Kind::File(0o644), lines(&alias, &last_word));
    files.put(&at("modules.dep"), Kind::File(0o644), lines(&dep, &of_path));
    files.put(&at("modules.softdep"), Kind::File(0o644), lines(&softdep, &second_word));
    files.put(&at("modules.builtin"), Kind::File(0o644), builtin.into_bytes());
    Ok(())
}

/// `softdep NAME pre: A B post: C` as NAME -> A, B, C.
fn soft_dependencies(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut map: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("softdep") {
            continue;
        }
        let Some(name) = words.next() else { continue };
        let deps = words.filter(|word| !word.ends_with(':')).map(|word| word.replace('-', "_"));
        map.entry(name.replace('-', "_")).or_default().extend(deps);
    }
    map
}

/// The archive that the kernel reads before it unpacks anything; empty without microcode.
fn microcode(initrd: &Initrd) -> Result<Vec<u8>> {
    let mut files = Files::default();
    for (folder, name) in [("intel-ucode", "GenuineIntel.bin"), ("amd-ucode", "AuthenticAMD.bin")] {
        let both = ["usr/lib/firmware", "lib/firmware"].map(|firmware| initrd.root.join(firmware).join(folder));
        let Some(folder) = both.iter().find(|folder| folder.is_dir()) else { continue };
        let mut bytes = Vec::new();
        for path in crate::base::fs::sorted_dir(folder)? {
            // Beside AMD's containers lie their signatures.
            if path.is_file() && path.extension().is_none_or(|suffix| suffix == "bin" || suffix == "initramfs") {
                bytes.extend(crate::base::fs::read(&path)?);
            }
        }
        files.put(&format!("kernel/x86/microcode/{name}"), Kind::File(0o644), bytes);
    }
    Ok(if files.0.is_empty() { Vec::new() } else { files.cpio(initrd.epoch) })
}

/// What an entry is; files with their permission bits, devices with major and minor number.
#[derive(Clone, Copy)]
enum Kind {
    File(u32),
    Folder,
    Link,
    Device(u32, u32),
}

#[derive(Default)]
struct Files(BTreeMap<String, (Kind, Vec<u8>)>);

impl Files {
    /// Adds an entry and the folders above it.
    fn put(&mut self, path: &str, kind: Kind, bytes: Vec<u8>) {
        for (at, _) in path.match_indices('/') {
            self.0.entry(path[..at].to_string()).or_insert((Kind::Folder, Vec::new()));
        }
        self.0.insert(path.to_string(), (kind, bytes));
    }

    /// A `newc` cpio archive (Documentation/driver-api/early-userspace/buffer-format.rst of Linux), padded to a
    /// block of 512 bytes.
    fn cpio(&self, epoch: u64) -> Vec<u8> {
        let mut out = Vec::new();
        for (inode, (path, (kind, bytes))) in (1..).zip(&self.0) {
            let (mode, links, device) = match kind {
                Kind::File(mode) => (0o100_000 | mode, 1, (0, 0)),
                Kind::Folder => (0o040_755, 2, (0, 0)),
                Kind::Link => (0o120_777, 1, (0, 0)),
                Kind::Device(major, minor) => (0o020_600, 1, (*major, *minor)),
            };
            entry(&mut out, path, [inode, mode, links, epoch as u32, device.0, device.1], bytes);
        }
        entry(&mut out, "TRAILER!!!", [0, 0, 1, 0, 0, 0], &[]);
        aligned(out)
    }
}

fn entry(out: &mut Vec<u8>, path: &str, [inode, mode, links, time, major, minor]: [u32; 6], bytes: &[u8]) {
    let (size, name) = (bytes.len() as u32, path.len() as u32 + 1);
    out.extend_from_slice(b"070701");
    // Inode, mode, owner, group, links, time, size, device, device node, name's length, checksum.
    for field in [inode, mode, 0, 0, links, time, size, 0, 0, major, minor, name, 0] {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(path.as_bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend_from_slice(bytes);
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::tool::Tool;

    const DEP: &str = "kernel/fs/a/a-fs.ko.xz: kernel/lib/b.ko.xz\nkernel/lib/b.ko.xz:\n\
                       kernel/drivers/net/n.ko.xz:\nkernel/drivers/ata/x.ko.xz:\nkernel/lib/soft.ko.xz:\n";

    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let modules = "usr/lib/modules/6.1";
        put(&format!("{modules}/modules.dep"), DEP);
        for line in DEP.lines() {
            let path = line.split(':').next().unwrap();
            put(&format!("{modules}/{path}"), path);
        }
        put(&format!("{modules}/modules.alias"), "# Aliases\nalias fs-a a_fs\nalias pci:v* n\n");
        put(&format!("{modules}/modules.softdep"), "softdep x pre: soft\nsoftdep n pre: b\n");
        put(&format!("{modules}/modules.builtin"), "kernel/fs/built-in.ko\n");
        put("usr/lib/firmware/intel-ucode/06-01-01", "one");
        put("usr/lib/firmware/intel-ucode/06-01-02", "two");
        root
    }

    fn built(root: &Path, modules: &[&str]) -> Result<Vec<u8>> {
        let modules: Vec<String> = modules.iter().map(|name| (*name).to_string()).collect();
        build(&Initrd { node: &elf(), root, kernel: "6.1", modules: &modules, load: &[], epoch: 86_400 })
    }

    /// A program of one segment that ends at byte 140, and ten bytes of debugging information.
    fn elf() -> Vec<u8> {
        let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
        elf.resize(150, 0);
        (elf[32], elf[54], elf[56]) = (64, 56, 1);
        (elf[64 + 8], elf[64 + 32]) = (120, 20);
        elf[140..].fill(0xdd);
        elf
    }

    #[test]
    fn a_program_loses_its_debugging_information_and_nothing_that_is_loaded() {
        assert_eq!(loadable(&elf()).unwrap(), &elf()[..140]);
        for bad in [b"#!/bin/sh".as_slice(), &elf()[..130], b""] {
            assert!(loadable(bad).is_err());
        }
    }

    /// The entries of an archive as `cpio` sees them: mode, links, owner, date and path.
    fn listed(archive: &[u8]) -> String {
        let tool = Tool::new("cpio").package("cpio").args(["-itvn", "--quiet"]).env("TZ", "UTC").env("LC_ALL", "C");
        let text = tool.stdin(archive).run().unwrap().text();
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n").collect()
    }

    #[test]
    fn an_extension_has_what_the_initrd_lacks_with_its_firmware_and_whole_lists() {
        let root = root();
        let put = |path: &str, bytes: &[u8]| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        };
        put(
            "usr/lib/modules/6.1/kernel/drivers/net/n.ko.xz",
            b"x\0firmware=card/fw.bin\0y\0firmware=absent.bin\0notfirmware=z\0",
        );
        put("usr/lib/firmware/card/fw.bin", b"code");
        let modules = ["a-fs".to_string()];
        let initrd = Initrd { node: &elf(), root: root.path(), kernel: "6.1", modules: &modules, load: &[], epoch: 86_400 };
        let extension = extension(&initrd, &["drivers/net/".to_string()]).unwrap();
        let archive = unpacked(&extension);
        let names: Vec<String> = listed(&archive).lines().filter(|line| line.starts_with('-')).map(last_word).collect();
        let at = |name: &str| format!("lib/modules/6.1/{name}");
        assert_eq!(
            names,
            [
                "lib/firmware/card/fw.bin".to_string(),
                at("kernel/drivers/net/n.ko.xz"),
                at("modules.alias"),
                at("modules.dep"),
                at("modules.softdep"),
            ]
        );
        // The list of modules names the initrd's, too.
        let text = String::from_utf8_lossy(&archive).into_owned();
        assert!(text.contains("kernel/fs/a/a-fs.ko.xz: kernel/lib/b.ko.xz\nkernel/lib/b.ko.xz:\nkernel/drivers/net/n.ko.xz:\n"));
    }

    /// What is packed, without the zeros behind it.
    fn unpacked(packed: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        let mut reader = zstd::Decoder::new(packed).unwrap().single_frame();
        std::io::Read::read_to_end(&mut reader, &mut plain).unwrap();
        plain
    }

    fn last_word(line: &str) -> String {
        line.rsplit(' ').next().unwrap().to_string()
    }

    #[test]
    fn an_initrd_has_the_named_modules_and_what_they_need_and_no_other() {
        let root = root();
        let initrd = built(root.path(), &["a-fs", "drivers/ata/", "built_in"]).unwrap();
        let split = initrd.windows(4).position(|bytes| bytes == [0x28, 0xb5, 0x2f, 0xfd]).unwrap();
        assert_eq!(split % 512, 0);
        let date = "Jan 2 1970";
        assert_eq!(
            listed(&initrd[..split]),
            format!(
                "drwxr-xr-x 2 0 0 0 {date} kernel\ndrwxr-xr-x 2 0 0 0 {date} kernel/x86\n\
                 drwxr-xr-x 2 0 0 0 {date} kernel/x86/microcode\n\
                 -rw-r--r-- 1 0 0 6 {date} kernel/x86/microcode/GenuineIntel.bin\n"
            )
        );
        let plain = unpacked(&initrd[split..]);
        let paths: Vec<String> = listed(&plain)
            .lines()
            .filter(|line| !line.starts_with('d'))
            .map(|line| line.split(&format!("{date} ")).nth(1).unwrap().to_string())
            .collect();
        assert_eq!(
            paths,
            [
                "dev/console",
                "dev/null",
                "etc/ostack/initrd.json",
                "init",
                "lib/modules/6.1/kernel/drivers/ata/x.ko.xz",
                "lib/modules/6.1/kernel/fs/a/a-fs.ko.xz",
                "lib/modules/6.1/kernel/lib/b.ko.xz",
                "lib/modules/6.1/kernel/lib/soft.ko.xz",
                "lib/modules/6.1/modules.alias",
                "lib/modules/6.1/modules.builtin",
                "lib/modules/6.1/modules.dep",
                "lib/modules/6.1/modules.softdep",
                "sbin/modprobe -> /init",
            ]
        );
        let text = String::from_utf8_lossy(&plain);
        assert!(text.contains("alias fs-a a_fs") && !text.contains("alias pci:v* n"));
    }

    #[test]
    fn the_same_tree_gives_the_same_bytes_whatever_the_files_times() {
        let (one, two) = (root(), root());
        assert_eq!(built(one.path(), &["a_fs"]).unwrap(), built(two.path(), &["a_fs"]).unwrap());
    }

    #[test]
    fn a_module_or_folder_that_does_not_exist_is_an_error() {
        let root = root();
        for (name, cause) in [("nope", "there is no module nope"), ("fs/nope/", "there is no module below kernel/fs/nope/")] {
            assert_eq!(built(root.path(), &[name]).err().unwrap().cause(), cause);
        }
    }
}
