//! Loading kernel modules: by name, by alias, and for every device there is.
//!
//! `modules.dep` has a line `path: dependency …` per module, dependencies in the reverse of loading order;
//! `modules.alias` has `alias PATTERN NAME`, patterns as in fnmatch(3); `modules.softdep` has
//! `softdep NAME pre: … post: …`. In names `-` and `_` are the same.

use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use rustix::io::Errno;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

/// `MODULE_INIT_COMPRESSED_FILE` of linux/module.h: the kernel (5.17 and later) unpacks the file itself.
const COMPRESSED_FILE: i32 = 4;
/// What the disk writer put into the initrd for this program.
const SETTINGS: &str = "/etc/ostack/initrd.json";

/// The modules of the running kernel.
pub struct Modules {
    folder: PathBuf,
    paths: BTreeMap<String, (String, Vec<String>)>,
    /// By the text before the pattern's first `:`, mostly the bus, to compare few of the thousands.
    aliases: BTreeMap<String, Vec<(String, String)>>,
    before: BTreeMap<String, Vec<String>>,
    tried: BTreeSet<String>,
    seen: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Settings {
    load: Vec<String>,
}

impl Modules {
    /// Reads the lists of the running kernel in `/lib/modules`.
    ///
    /// # Errors
    /// They cannot be read: the initrd is another kernel's.
    pub fn open() -> Result<Self> {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let folder = Path::new("/lib/modules").join(&release);
        let read = |name: &str| {
            fs::read_text(&folder.join(name)).map_err(|error| error.next("boot this kernel with the initrd that belongs to it"))
        };
        let texts = [read("modules.dep")?, read("modules.alias")?, read("modules.softdep")?];
        Ok(Self::parse(folder, &texts[0], &texts[1], &texts[2]))
    }

    fn parse(folder: PathBuf, dep: &str, alias: &str, softdep: &str) -> Self {
        let mut aliases: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
        for line in alias.lines() {
            if let ["alias", pattern, module] = line.split_whitespace().collect::<Vec<_>>()[..] {
                aliases.entry(bus(pattern)).or_default().push((pattern.into(), name(module)));
            }
        }
        let lines = dep.lines().filter_map(|line| line.split_once(':'));
        let paths = lines.map(|(path, deps)| (name(path), (path.into(), deps.split_whitespace().map(str::to_string).collect())));
        let mut before: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for line in softdep.lines() {
            if let ["softdep", module, "pre:", deps @ ..] = &line.split_whitespace().collect::<Vec<_>>()[..] {
                let deps = deps.iter().take_while(|word| !word.ends_with(':')).map(|word| name(word));
                before.entry(name(module)).or_default().extend(deps);
            }
        }
        let (tried, seen) = (BTreeSet::new(), BTreeSet::new());
        Self { folder, paths: paths.collect(), aliases, before, tried, seen }
    }

    /// Loads what the initrd was told to load first.
    ///
    /// # Errors
    /// The list cannot be read or the kernel refuses a module.
    pub fn load_first(&mut self) -> Result<()> {
        let settings: Settings =
            serde_json::from_str(&fs::read_text(Path::new(SETTINGS))?).map_err(|error| Error::new(error).at(SETTINGS, None))?;
        settings.load.iter().try_for_each(|module| self.load(module))
    }

    /// Loads a module, what it needs first. One that is not there is built in, or of no use here.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn load(&mut self, module: &str) -> Result<()> {
        let module = name(module);
        if !self.tried.insert(module.clone()) {
            return Ok(());
        }
        for earlier in self.before.get(&module).cloned().unwrap_or_default() {
            self.load(&earlier)?;
        }
        let Some((path, deps)) = self.paths.get(&module).cloned() else { return Ok(()) };
        for dep in deps.iter().rev() {
            self.load(dep)?;
        }
        insert(&self.folder.join(&path)).doing(|| format!("loading the kernel module {module}"))
    }

    /// Loads every module that an alias such as a device's `modalias` names.
    ///
    /// # Errors
    /// The kernel refuses one.
    pub fn load_alias(&mut self, alias: &str) -> Result<()> {
        for module in self.matching(alias) {
            self.load(&module)?;
        }
        Ok(())
    }

    fn matching(&self, alias: &str) -> Vec<String> {
        let same = self.aliases.get(&bus(alias)).into_iter().flatten();
        same.filter(|(pattern, _)| matches(pattern.as_bytes(), alias.as_bytes())).map(|(_, module)| module.clone()).collect()
    }

    /// Loads modules for all devices in `/sys`, again and again until no new device appears. Gives what the kernel
    /// refused: a driver without its hardware is nothing to stop for.
    pub fn load_for_devices(&mut self) -> Vec<Error> {
        let mut refused = Vec::new();
        loop {
            let mut fresh = Vec::new();
            modaliases(Path::new("/sys/devices"), &mut |alias| {
                if !alias.is_empty() && !self.seen.contains(alias) {
                    fresh.push(alias.to_string());
                }
            });
            if fresh.is_empty() {
                return refused;
            }
            for alias in fresh {
                for module in self.matching(&alias) {
                    refused.extend(self.load(&module).err());
                }
                self.seen.insert(alias);
            }
        }
    }
}

/// Serves the kernel, which runs `modprobe -q -- NAME` when it meets a filesystem or an algorithm.
///
/// # Errors
/// The lists cannot be read or the kernel refuses the module.
pub fn modprobe(args: &[&str]) -> Result<()> {
    let mut modules = Modules::open()?;
    for module in args.iter().filter(|arg| !arg.starts_with('-')) {
        modules.load(module)?;
        modules.load_alias(module)?;
    }
    Ok(())
}

fn modaliases(folder: &Path, found: &mut dyn FnMut(&str)) {
    // Devices come and go while this looks; what cannot be read is gone.
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            modaliases(&entry.path(), found);
        } else if entry.file_name() == "modalias"
            && let Ok(text) = std::fs::read_to_string(entry.path())
        {
            found(text.trim());
        }
    }
}

fn insert(path: &Path) -> Result<()> {
    let mut file = fs::open(path)?;
    let compressed = path.extension().is_some_and(|suffix| suffix != "ko");
    let done = match rustix::system::finit_module(&file, c"", if compressed { COMPRESSED_FILE } else { 0 }) {
        // An older kernel, or one that unpacks another format.
        Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOEXEC) if compressed => {
            let mut bytes = Vec::new();
            match path.extension().and_then(|suffix| suffix.to_str()) {
                Some("xz") => liblzma::read::XzDecoder::new(&file).read_to_end(&mut bytes),
                Some("gz") => flate2::read::GzDecoder::new(&file).read_to_end(&mut bytes),
                Some("zst") => zstd::Decoder::new(&file).and_then(|mut reader| reader.read_to_end(&mut bytes)),
                _ => file.read_to_end(&mut bytes),
            }
            .doing(|| format!("unpacking {}", path.display()))?;
            rustix::system::init_module(&bytes, c"")
        }
        other => other,
    };
    match done {
        // Already there; or built for hardware that is absent.
        Ok(()) | Err(Errno::EXIST | Errno::NODEV) => Ok(()),
        Err(error) => Err(Error::new(error)),
    }
}

/// A module's name from its file or any spelling.
fn name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or_default();
    file.split(".ko").next().unwrap_or_default().replace('-', "_")
}

/// What is before the first `:` and has no wildcard; patterns and aliases of one bus agree in it.
fn bus(alias: &str) -> String {
    alias.split([':', '*', '?', '[']).next().unwrap_or_default().to_string()
}

/// fnmatch(3) as aliases use it: `*`, `?` and `[abc]`, `[a-z]`.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern, text) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => (0..=text.len()).any(|at| matches(rest, &text[at..])),
        ([b'?', rest @ ..], [_, tail @ ..]) => matches(rest, tail),
        ([b'[', rest @ ..], [c, tail @ ..]) => {
            let Some(end) = rest.iter().position(|c| *c == b']') else { return false };
            in_set(&rest[..end], *c) && matches(&rest[end + 1..], tail)
        }
        ([p, rest @ ..], [c, tail @ ..]) => p == c && matches(rest, tail),
        _ => false,
    }
}

fn in_set(set: &[u8], c: u8) -> bool {
    match set {
        [from, b'-', to, rest @ ..] => (*from..=*to).contains(&c) || in_set(rest, c),
        [one, rest @ ..] => *one == c || in_set(rest, c),
        [] => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_gets_every_module_whose_alias_matches() {
        let alias = "# c\nalias pci:v00001AF4d0000104[0-9]sv*sd*bc*sc*i* virtio-pci\nalias pci:v*d*sv*sd*bc01sc06i01* ahci\n\
                     alias fs-ext4 ext4\nalias virtio:d00000002v* virtio_blk\nalias acpi*:PNP0C0C:* button\n";
        let modules = Modules::parse(PathBuf::new(), "", alias, "");
        for (device, expected) in [
            ("pci:v00001AF4d00001042sv00001AF4sd00001100bc01sc00i00", vec!["virtio_pci"]),
            ("pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01", vec!["ahci"]),
            ("virtio:d00000002v00001AF4", vec!["virtio_blk"]),
            ("virtio:d00000001v00001AF4", vec![]),
            ("fs-ext4", vec!["ext4"]),
        ] {
            assert_eq!(modules.matching(device), expected, "{device}");
        }
    }

    #[test]
    fn alias_patterns_follow_fnmatch() {
        for (pattern, text, expected) in [
            ("a*c", "abbc", true),
            ("a*c", "abb", false),
            ("a?c", "ac", false),
            ("[A-C0]x", "0x", true),
            ("[A-C0]x", "Dx", false),
            ("*", "", true),
            ("a", "ab", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn soft_dependencies_before_a_module_are_known_and_those_after_it_are_not() {
        let modules = Modules::parse(PathBuf::new(), "", "", "softdep a-b pre: c-d e post: f\n");
        assert_eq!(modules.before, BTreeMap::from([("a_b".to_string(), vec!["c_d".to_string(), "e".to_string()])]));
    }
}
