//! Whose a file of a layer is: a package's, by the lists that dpkg keeps, or made by a script while packages were configured. Then by
//! the one that names it, if one does, else by whoever has the folder.

use super::tree::{Kind, Tree};
use crate::base::error::Result;
use crate::base::path::RelPath;
use std::collections::{BTreeMap, BTreeSet};

/// Where dpkg keeps lists and scripts.
const INFO: &str = "var/lib/dpkg/info/";
/// Scripts that run while an image is built.
const SCRIPTS: [&str; 4] = [".preinst", ".postinst", ".config", ".triggers"];

/// What the packages of some layers have and do.
pub struct Owners {
    /// Path to names of packages.
    files: BTreeMap<String, BTreeSet<String>>,
    /// Name of a package and the text of one of its scripts.
    scripts: Vec<(String, String)>,
}

impl Owners {
    /// Reads dpkg's lists and scripts in layers. Where there are none, as in a release of rpm packages, nothing is known.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn of(layers: &[&Tree]) -> Result<Self> {
        let mut owners = Self { files: BTreeMap::new(), scripts: Vec::new() };
        for (path, entry) in layers.iter().flat_map(|tree| tree.iter()) {
            let (Some(file), Kind::File(content)) = (path.as_str().strip_prefix(INFO), &entry.kind) else { continue };
            let Some((package, _)) = file.rsplit_once('.') else { continue };
            // `libc6:amd64`, where several architectures could be installed.
            let package = package.split(':').next().unwrap_or(package);
            if file.ends_with(".list") {
                for line in String::from_utf8_lossy(&content.bytes()?).lines() {
                    owners.files.entry(merged(line)).or_default().insert(package.to_string());
                }
            } else if SCRIPTS.iter().any(|suffix| file.ends_with(suffix)) {
                owners.scripts.push((package.to_string(), String::from_utf8_lossy(&content.bytes()?).into_owned()));
            }
        }
        Ok(owners)
    }

    /// Whose a path is, in words.
    pub fn origin(&self, path: &RelPath) -> String {
        let words = |names: &BTreeSet<String>| names.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
        if let Some(names) = self.files.get(path.as_str()) {
            return words(names);
        }
        let name = path.to_string();
        let makers: BTreeSet<String> =
            self.scripts.iter().filter(|(_, text)| names(text, &name)).map(|(package, _)| package.clone()).collect();
        if !makers.is_empty() {
            return format!("made by a script; that of {} names it", words(&makers));
        }
        let mut above = std::iter::successors(path.parent(), RelPath::parent);
        match above.find_map(|folder| Some((folder.clone(), self.files.get(folder.as_str())?))) {
            Some((folder, names)) => format!("made by a script; {folder} is of {}", words(names)),
            None => "made by a script".to_string(),
        }
    }
}

/// Whether a text has a path, and not only as the beginning of a longer one.
fn names(text: &str, path: &str) -> bool {
    let longer = |rest: &str| rest.starts_with(|c: char| c.is_alphanumeric() || "/._-".contains(c));
    text.match_indices(path).any(|(at, _)| !longer(&text[at + path.len()..]))
}

/// A path as a root has it whose `/bin`, `/lib` … are links: lists may say it as the package did.
fn merged(path: &str) -> String {
    let inside = path.trim_start_matches('/');
    let old = ["bin", "sbin", "lib", "lib64", "lib32"];
    if old.contains(&inside.split('/').next().unwrap_or_default()) { format!("usr/{inside}") } else { inside.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::tree::{Content, Entry};

    #[test]
    fn a_file_is_a_packages_or_that_of_the_script_which_names_it_or_of_one_below_a_packages_folder() {
        let mut tree = Tree::new(0);
        for (file, text) in [
            ("openssh-server.list", "/.\n/etc/ssh\n/lib/systemd/ssh\n"),
            ("openssh-server.postinst", "ssh-keygen -f /etc/ssh/host_key -N ''\n"),
            ("openssh-server.prerm", "rm /etc/ssh/other"),
            ("libc6:amd64.list", "/usr/lib/x.so\n"),
        ] {
            let entry = Entry::new(Kind::File(Content::Bytes(text.into())), 0o644, 0);
            tree.insert(format!("/{INFO}{file}").parse().unwrap(), entry);
        }
        let owners = Owners::of(&[&tree]).unwrap();
        let said = |path: &str| owners.origin(&path.parse().unwrap());
        assert_eq!(said("/usr/lib/x.so"), "libc6");
        assert_eq!(said("/usr/lib/systemd/ssh"), "openssh-server");
        assert_eq!(said("/etc/ssh/host_key"), "made by a script; that of openssh-server names it");
        for other in ["/etc/ssh/host", "/etc/ssh/other"] {
            assert_eq!(said(other), "made by a script; /etc/ssh is of openssh-server");
        }
        assert_eq!(said("/opt/x"), "made by a script");
    }
}
