//! Accounts with fixed numbers: state on disk outlives the image, so a rebuilt image must number its users the same.

use super::sandbox::Sandbox;
use crate::base::error::{Context, Error, Result};
use crate::model::release::{Group, Release, User};
use std::collections::BTreeMap;

/// Adds accounts to a root that has its base accounts. Passwords are locked.
///
/// A user's own group is made only when no group has its number yet: sshd's is nogroup, libvirt-qemu's is kvm.
///
/// # Errors
/// A file of the account database cannot be read or written.
pub fn add(sandbox: &Sandbox, users: &[User], groups: &[Group]) -> Result<()> {
    let present = read(sandbox, "/etc/group")?;
    let mut taken: BTreeMap<String, u32> = present
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            Some((fields.next()?.to_string(), fields.nth(1)?.parse().ok()?))
        })
        .collect();
    let mut new: Vec<(&str, u32)> = Vec::new();
    let wanted = groups
        .iter()
        .map(|group| (group.name.as_str(), group.gid))
        .chain(users.iter().map(|user| (user.name.as_str(), user.gid)));
    for (index, (name, gid)) in wanted.enumerate() {
        let own = index >= groups.len();
        if taken.contains_key(name) || (own && taken.values().any(|other| *other == gid)) {
            continue;
        }
        taken.insert(name.to_string(), gid);
        new.push((name, gid));
    }
    let mut members: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for user in users {
        for group in &user.groups {
            members.entry(group).or_default().push(&user.name);
        }
    }
    let line = |user: &User| format!("{}:x:{}:{}::{}:{}\n", user.name, user.uid, user.gid, user.home, user.shell);
    let passwd: String = users.iter().map(line).collect();
    let shadow: String = users.iter().map(|user| format!("{}:!*:::::::\n", user.name)).collect();
    let group: String = new.iter().map(|(name, gid)| format!("{name}:x:{gid}:\n")).collect();
    let gshadow: String = new.iter().map(|(name, _)| format!("{name}:!::\n")).collect();
    for (file, text) in [("/etc/passwd", passwd), ("/etc/shadow", shadow), ("/etc/group", group), ("/etc/gshadow", gshadow)] {
        let mut lines = read(sandbox, file)? + &text;
        if file.ends_with("group") || file.ends_with("gshadow") {
            lines = lines.lines().map(|line| with_members(line, &members) + "\n").collect();
        }
        // In place, so that owner and mode stay as the distribution has them.
        sandbox.run(["sh", "-c", "cat > \"$0\"", file], lines.as_bytes()).doing(|| format!("writing {file}"))?;
    }
    Ok(())
}

/// Has every password in `/etc/shadow` be as old as the build. Programs that write it do so of themselves (`SOURCE_DATE_EPOCH`), but where
/// the machine's clock is behind that, they take the clock's day.
///
/// # Errors
/// The file cannot be read or written.
pub fn settle(sandbox: &Sandbox, epoch: i64) -> Result<()> {
    let shadow = read(sandbox, "/etc/shadow")?;
    let settled = with_day(&shadow, epoch / SECONDS_OF_A_DAY);
    if settled == shadow {
        return Ok(());
    }
    sandbox.run(["sh", "-c", "cat > \"$0\"", "/etc/shadow"], settled.as_bytes()).map(|_| ()).doing(|| "writing /etc/shadow")
}

const SECONDS_OF_A_DAY: i64 = 24 * 3600;

/// The lines of shadow(5) with this day of the last change where they have any. 0 is none: it asks for a new password.
fn with_day(shadow: &str, day: i64) -> String {
    let line = |line: &str| {
        let mut fields: Vec<&str> = line.split(':').collect();
        let day = day.to_string();
        if fields.get(2).is_some_and(|last| last.parse::<i64>().is_ok_and(|last| last > 0)) {
            fields[2] = &day;
        }
        fields.join(":") + "\n"
    };
    shadow.lines().map(line).collect()
}

/// A file of the root; empty where the distribution has none.
fn read(sandbox: &Sandbox, file: &str) -> Result<String> {
    Ok(sandbox.run(["sh", "-c", "[ ! -e \"$0\" ] || cat \"$0\"", file], b"")?.text())
}

fn with_members(line: &str, members: &BTreeMap<&str, Vec<&str>>) -> String {
    let name = line.split(':').next().unwrap_or_default();
    match members.get(name) {
        Some(users) if line.ends_with(':') => format!("{line}{}", users.join(",")),
        Some(users) => format!("{line},{}", users.join(",")),
        None => line.to_string(),
    }
}

/// Refuses a root in which a maintainer script made an account that neither the release numbers nor the distribution:
/// Debian's own list of those is in the root, of others it is the release's `[base_users]` and `[base_groups]`.
///
/// # Errors
/// Names each account, with the lines to add to the release's file.
pub fn lint(sandbox: &Sandbox, release: &Release, users: &[User]) -> Result<()> {
    let Release { groups, base_users, base_groups, .. } = release;
    let (passwd, group) = (read(sandbox, "/etc/passwd")?, read(sandbox, "/etc/group")?);
    let base_passwd = read(sandbox, "/usr/share/base-passwd/passwd.master")?;
    let base_group = read(sandbox, "/usr/share/base-passwd/group.master")?;
    let mut missing = Vec::new();
    for line in passwd.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, shell] = fields[..] else { continue };
        let pinned = users.iter().any(|user| user.name == name && user.uid.to_string() == uid && user.gid.to_string() == gid);
        let of_base = base_users.get(name).is_some_and(|number| number.to_string() == uid);
        if !pinned && !of_base && !has(&base_passwd, name) {
            missing
                .push(format!("[[user]]\nname = \"{name}\"\nuid = {uid}\ngid = {gid}\nhome = \"{home}\"\nshell = \"{shell}\""));
        }
    }
    for line in group.lines() {
        let mut fields = line.split(':');
        let (Some(name), Some(gid)) = (fields.next(), fields.nth(1)) else { continue };
        let of_user = users.iter().any(|user| user.name == name)
            || missing.iter().any(|entry| entry.contains(&format!("name = \"{name}\"\nuid")));
        let of_base = base_groups.get(name).is_some_and(|number| number.to_string() == gid);
        if !of_user && !of_base && !groups.iter().any(|group| group.name == name) && !has(&base_group, name) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_password_is_as_old_as_the_build_but_for_those_without_a_day() {
        let shadow = "root:*:20420:0:99999:7:::\nnova:!*:::::::\nnew:x:0:0:99999:7:::\n";
        assert_eq!(with_day(shadow, 20784), "root:*:20784:0:99999:7:::\nnova:!*:::::::\nnew:x:0:0:99999:7:::\n");
        assert_eq!(with_day("", 20784), "");
    }
}
