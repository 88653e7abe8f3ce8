//! dpkg's notes about packages that were laid down: what `dpkg --unpack` leaves in `/var/lib/dpkg` (dpkg 1.22, database format 1).

use super::archive::{Archive, Entry};
use super::ground::Ground;
use crate::base::error::{Context, Error, Result};
use crate::layer::tree::set_mtime;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::os::unix::fs::OpenOptionsExt;

/// dpkg's folder.
const FOLDER: &str = "var/lib/dpkg";

/// A trigger's name -> who waits for it; `-` where nobody does.
pub type Activated = BTreeMap<String, BTreeSet<String>>;

/// The paths that packages want to hear of: path -> whether the one who touches it waits.
///
/// # Errors
/// The file cannot be read.
pub fn interests(ground: &Ground) -> Result<BTreeSet<String>> {
    let text = ground.text(&format!("{FOLDER}/triggers/File"))?;
    Ok(text.lines().filter_map(|line| line.split(' ').next()).map(str::to_string).collect())
}

/// The name by which dpkg's notes call a package: with its architecture where several may be installed.
pub fn noted_name(archive: &Archive) -> String {
    let name = archive.field("package");
    if archive.field("multi-arch") == "same" { format!("{name}:{}", archive.field("architecture")) } else { name.to_string() }
}

/// Writes the package's files of `/var/lib/dpkg/info`, whose directory was opened.
///
/// # Errors
/// They cannot be written.
pub fn write_info(ground: &Ground, archive: &Archive, entries: &[Entry]) -> Result<()> {
    let name = noted_name(archive);
    let write = |kind: &str, bytes: &[u8], executable: bool, mtime: Option<i64>| -> Result<()> {
        let path = format!("{FOLDER}/info/{name}.{kind}").parse()?;
        let what = || format!("writing {path}");
        let mode = if executable { 0o755 } else { 0o644 };
        let mut options = std::fs::File::options();
        let mut file = options.write(true).create_new(true).mode(mode).open(ground.place(&path)).doing(what)?;
        std::io::Write::write_all(&mut file, bytes).doing(what)?;
        mtime.map_or(Ok(()), |mtime| set_mtime(&ground.place(&path), mtime)).doing(what)
    };
    let mut list = String::new();
    for entry in entries {
        let _ = writeln!(list, "/{}", if entry.path.is_root() { "." } else { entry.path.as_str() });
    }
    write("list", list.as_bytes(), false, None)?;
    archive.members.iter().try_for_each(|member| write(&member.name, &member.bytes, member.executable, Some(member.mtime)))
}

/// What unpacking a package sets off: the paths it brings that others want to hear of, and what it says itself.
///
/// # Errors
/// Its triggers file has a word that dpkg does not know either.
pub fn activates(archive: &Archive, entries: &[Entry], interests: &BTreeSet<String>, activated: &mut Activated) -> Result<()> {
    let name = noted_name(archive);
    let mut add = |trigger: &str, who: &str| {
        activated.entry(trigger.to_string()).or_default().insert(who.to_string());
    };
    for entry in entries {
        let path = entry.path.to_string();
        if interests.contains(&path) {
            add(&path, &name);
        }
    }
    for line in String::from_utf8_lossy(archive.member("triggers").unwrap_or_default()).lines() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match line.split_once(char::is_whitespace).map(|(word, rest)| (word, rest.trim())) {
            Some(("activate" | "activate-await", trigger)) => add(trigger, &name),
            Some(("activate-noawait", trigger)) => add(trigger, "-"),
            _ => return Err(Error::new(format!("the triggers of {name} have `{line}`, which is no activation"))),
        }
    }
    Ok(())
}

/// Adds the packages to the status file as unpacked, and what they set off to the file from which dpkg's next run takes it.
///
/// # Errors
/// The files cannot be read or written.
pub fn record(ground: &mut Ground, packages: &[(&Archive, &[Entry])], activated: &Activated) -> Result<()> {
    ground.open(&format!("{FOLDER}/triggers").parse()?)?;
    let old = ground.text(&format!("{FOLDER}/status"))?;
    // dpkg writes the stanzas in this order, and takes packages up in the order in which it reads them.
    let mut stanzas: BTreeMap<(String, String), String> = BTreeMap::new();
    for stanza in old.split("\n\n").map(|stanza| stanza.trim_matches('\n')).filter(|stanza| !stanza.is_empty()) {
        let field = |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_string();
        stanzas.insert((field("Package:"), field("Architecture:")), stanza.to_string());
    }
    for (archive, _) in packages {
        stanzas.insert((archive.field("package").to_string(), archive.field("architecture").to_string()), unpacked(archive));
    }
    let status: String = stanzas.values().map(|stanza| format!("{stanza}\n\n")).collect();
    write(ground, "status", &status)?;
    let mut deferred = ground.text(&format!("{FOLDER}/triggers/Unincorp"))?;
    for (trigger, waiting) in activated {
        let waiting: Vec<&str> = waiting.iter().map(String::as_str).collect();
        let _ = writeln!(deferred, "{trigger} {}", waiting.join(" "));
    }
    write(ground, "triggers/Unincorp", &deferred)
}

/// Removes the file of deferred triggers from the upper directory where dpkg has left it as empty as it is in the lower.
///
/// # Errors
/// It cannot be removed.
pub fn forget_handed_over(ground: &Ground) -> Result<()> {
    let path = format!("{FOLDER}/triggers/Unincorp").parse()?;
    let empty = |place: std::path::PathBuf| std::fs::symlink_metadata(place).is_ok_and(|meta| meta.is_file() && meta.len() == 0);
    if ground.below(&path).is_some_and(empty) && empty(ground.place(&path)) {
        std::fs::remove_file(ground.place(&path)).doing(|| format!("removing {path}"))?;
    }
    Ok(())
}

fn write(ground: &Ground, name: &str, text: &str) -> Result<()> {
    let path = format!("{FOLDER}/{name}").parse()?;
    std::fs::write(ground.place(&path), text).doing(|| format!("writing {path}"))
}

/// The stanza of a package that is unpacked and waits to be configured.
fn unpacked(archive: &Archive) -> String {
    let (first, rest) = archive.control_text.trim_matches('\n').split_once('\n').unwrap_or_default();
    let mut stanza = format!("{first}\nStatus: install ok unpacked\n{rest}");
    let conffiles = String::from_utf8_lossy(archive.member("conffiles").unwrap_or_default()).into_owned();
    let mut lines = conffiles.lines().map(str::trim_end).filter(|line| !line.is_empty()).peekable();
    if lines.peek().is_some() {
        stanza.push_str("\nConffiles:");
    }
    for line in lines {
        let _ = write!(stanza, "\n {line} newconffile");
    }
    stanza
}
