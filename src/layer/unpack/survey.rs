//! Which packages can be laid down side by side: those whose unpacking touches nothing but new paths of their own.

use super::archive::{Archive, Entry, Kind};
use super::ground::{Found, Ground};
use crate::base::error::Result;
use crate::base::path::RelPath;
use std::collections::{BTreeSet, HashMap, HashSet};

/// What is known of a root while packages are looked at one after the other.
pub struct Survey<'a> {
    ground: &'a Ground,
    /// Packages that dpkg knows in any state.
    known: BTreeSet<String>,
    /// Paths that dpkg treats in a way of their own: diverted, or with an owner or mode of the administrator's.
    special: HashSet<RelPath>,
    /// Directories of the root, and of packages that have passed.
    directories: HashMap<RelPath, bool>,
    /// Every other path of packages that have passed.
    taken: HashSet<RelPath>,
}

impl<'a> Survey<'a> {
    /// Reads what dpkg knows of the root.
    ///
    /// # Errors
    /// Its files cannot be read.
    pub fn new(ground: &'a Ground) -> Result<Self> {
        let status = ground.text("var/lib/dpkg/status")?;
        let known = status.lines().filter_map(|line| line.strip_prefix("Package: ")).map(str::to_string).collect();
        let diversions = ground.text("var/lib/dpkg/diversions")?;
        // Three lines for each: from where, to where, by whom.
        let diverted = diversions.lines().enumerate().filter(|(number, _)| number % 3 < 2).map(|(_, line)| line);
        let overrides = ground.text("var/lib/dpkg/statoverride")?;
        let overridden = overrides.lines().filter_map(|line| line.splitn(4, ' ').nth(3));
        let special = diverted.chain(overridden).map(str::parse).collect::<Result<_>>()?;
        let directories = HashMap::from([(RelPath::root(), true)]);
        Ok(Self { ground, known, special, directories, taken: HashSet::new() })
    }

    /// Whether a package brings nothing but what is new, so that it can be laid down without dpkg; if so, it has its place. One
    /// that does not, because it has a script to run first or shares a path with another, is left to dpkg, which knows
    /// what then is right.
    ///
    /// # Errors
    /// The root cannot be read.
    pub fn takes(&mut self, archive: &Archive, entries: &[Entry]) -> Result<bool> {
        if archive.member("preinst").is_some()
            || archive.member("md5sums").is_none()
            || self.known.contains(archive.field("package"))
        {
            return Ok(false);
        }
        let Some(conffiles) = conffiles(archive) else { return Ok(false) };
        // dpkg keeps interests in an order that says who came first.
        let triggers = archive.member("triggers").unwrap_or_default();
        if String::from_utf8_lossy(triggers).lines().any(|line| line.trim_start().starts_with("interest")) {
            return Ok(false);
        }
        let mut own: HashMap<&RelPath, &Kind> = HashMap::new();
        for entry in entries.iter().filter(|entry| !entry.path.is_root()) {
            let path = &entry.path;
            let parent = path.parent().unwrap_or_default();
            let parent_is_new = matches!(own.get(&parent), Some(Kind::Directory)) && !self.directory(&parent)?;
            if !parent_is_new && !self.directory(&parent)? || self.special.contains(path) {
                return Ok(false);
            }
            let free = match &entry.kind {
                Kind::Directory => {
                    !self.taken.contains(path) && (parent_is_new || self.directory(path)? || self.nothing(path)?)
                }
                kind => {
                    let settled = match kind {
                        Kind::HardLink(target) => matches!(own.get(target), Some(Kind::File(_))) && !conffiles.contains(target),
                        Kind::Other => false,
                        _ => true,
                    };
                    settled
                        && !own.contains_key(path)
                        && (parent_is_new || self.nothing(path)?)
                        && self.new_conffile(path, &conffiles)?
                }
            };
            if !free {
                return Ok(false);
            }
            own.insert(path, &entry.kind);
        }
        if conffiles.iter().any(|path| !matches!(own.get(path), Some(Kind::File(_)))) {
            return Ok(false);
        }
        for (path, kind) in own {
            if *kind == Kind::Directory {
                self.directories.insert(path.clone(), true);
            } else {
                self.taken.insert(path.clone());
            }
        }
        Ok(true)
    }

    /// A configuration file is laid down beside its place first.
    fn new_conffile(&self, path: &RelPath, conffiles: &BTreeSet<RelPath>) -> Result<bool> {
        if !conffiles.contains(path) {
            return Ok(true);
        }
        self.nothing(&beside(path)?)
    }

    /// Whether a path is a directory, of the root or of a package that has passed.
    fn directory(&mut self, path: &RelPath) -> Result<bool> {
        if let Some(known) = self.directories.get(path) {
            return Ok(*known);
        }
        // Above it there may be a link, through which nothing may be looked for.
        let above = self.directory(&path.parent().unwrap_or_default())?;
        let is = above && self.ground.find(path)? == Found::Directory;
        self.directories.insert(path.clone(), is);
        Ok(is)
    }

    fn nothing(&self, path: &RelPath) -> Result<bool> {
        Ok(!self.taken.contains(path) && self.directories.get(path) != Some(&true) && self.ground.find(path)? == Found::Nothing)
    }
}

/// Where dpkg lays a configuration file down until it is configured.
///
/// # Errors
/// The name would be too long.
pub fn beside(path: &RelPath) -> Result<RelPath> {
    format!("{}.dpkg-new", path.as_str()).parse()
}

/// The package's configuration files; `None` where it asks for more than to keep them.
pub fn conffiles(archive: &Archive) -> Option<BTreeSet<RelPath>> {
    let text = String::from_utf8_lossy(archive.member("conffiles").unwrap_or_default()).into_owned();
    text.lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .map(|line| line.starts_with('/').then(|| line.parse().ok())?)
        .collect()
}
