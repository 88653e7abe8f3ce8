//! Accounts with fixed numbers: state on disk outlives the image, so a rebuilt image must number its users the same.

use super::sandbox::Sandbox;
use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use crate::model::release::{Group, User};
use std::collections::BTreeMap;
use std::path::Path;

/// Adds the accounts to a root that has only its base accounts. Passwords are locked.
///
/// # Errors
/// A file of the account database cannot be read or written.
pub fn add(root: &Path, users: &[User], groups: &[Group]) -> Result<()> {
    let mut passwd = String::new();
    let mut shadow = String::new();
    let mut members: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut numbers: BTreeMap<&str, u32> = groups.iter().map(|group| (group.name.as_str(), group.gid)).collect();
    for user in users {
        passwd.push_str(&format!("{}:x:{}:{}::{}:{}\n", user.name, user.uid, user.gid, user.home, user.shell));
        shadow.push_str(&format!("{}:!*:::::::\n", user.name));
        numbers.entry(&user.name).or_insert(user.gid);
        for group in &user.groups {
            members.entry(group).or_default().push(&user.name);
        }
    }
    append(&root.join("etc/passwd"), &passwd)?;
    append(&root.join("etc/shadow"), &shadow)?;
    let present = fs::read_text(&root.join("etc/group"))?;
    let known: Vec<&str> = present.lines().filter_map(|line| line.split(':').next()).collect();
    // A user may share a group that exists already (ceph's client accounts do): only new names are added.
    let new: Vec<(&str, u32)> = numbers.into_iter().filter(|(name, _)| !known.contains(name)).collect();
    let group: String = new.iter().map(|(name, gid)| format!("{name}:x:{gid}:\n")).collect();
    let gshadow: String = new.iter().map(|(name, _)| format!("{name}:!::\n")).collect();
    append(&root.join("etc/group"), &group)?;
    append(&root.join("etc/gshadow"), &gshadow)?;
    for file in ["etc/group", "etc/gshadow"] {
        let path = root.join(file);
        let text: String = fs::read_text(&path)?.lines().map(|line| with_members(line, &members) + "\n").collect();
        std::fs::write(&path, text).doing(|| format!("writing /{file}"))?;
    }
    Ok(())
}

fn with_members(line: &str, members: &BTreeMap<&str, Vec<&str>>) -> String {
    let name = line.split(':').next().unwrap_or_default();
    match members.get(name) {
        Some(users) if line.ends_with(':') => format!("{line}{}", users.join(",")),
        Some(users) => format!("{line},{}", users.join(",")),
        None => line.to_string(),
    }
}

fn append(path: &Path, text: &str) -> Result<()> {
    // The file may be absent in a root whose distribution has no shadow groups.
    let old = if path.exists() { fs::read_text(path)? } else { String::new() };
    std::fs::write(path, old + text).doing(|| format!("writing {}", path.display()))
}

/// Refuses a root in which a maintainer script made an account that the release does not number.
///
/// # Errors
/// Names each account, with the lines to add to the release's file.
pub fn lint(sandbox: &Sandbox, users: &[User], groups: &[Group]) -> Result<()> {
    let read = |file: &str| -> Result<String> { Ok(sandbox.run(["cat", file], b"")?.text()) };
    let (passwd, group) = (read("/etc/passwd")?, read("/etc/group")?);
    let (base_passwd, base_group) = (read("/usr/share/base-passwd/passwd.master")?, read("/usr/share/base-passwd/group.master")?);
    let mut missing = Vec::new();
    for line in passwd.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, shell] = fields[..] else { continue };
        let pinned = users.iter().any(|user| user.name == name && user.uid.to_string() == uid && user.gid.to_string() == gid);
        if !pinned && !has(&base_passwd, name) {
            missing
                .push(format!("[[user]]\nname = \"{name}\"\nuid = {uid}\ngid = {gid}\nhome = \"{home}\"\nshell = \"{shell}\""));
        }
    }
    for line in group.lines() {
        let mut fields = line.split(':');
        let (Some(name), Some(gid)) = (fields.next(), fields.nth(1)) else { continue };
        let of_user = users.iter().any(|user| user.name == name)
            || missing.iter().any(|entry| entry.contains(&format!("name = \"{name}\"\nuid")));
        if !of_user && !groups.iter().any(|group| group.name == name) && !has(&base_group, name) {
            missing.push(format!("[[group]]\nname = \"{name}\"\ngid = {gid}"));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::new(format!("packages made {} accounts without a fixed number", missing.len()))
        .next(format!("add them to the release's file, with numbers that are free:\n{}", missing.join("\n"))))
}

fn has(database: &str, name: &str) -> bool {
    database.lines().any(|line| line.split(':').next() == Some(name))
}
