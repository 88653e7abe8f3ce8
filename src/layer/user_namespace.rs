//! Root without being it: a user namespace in which an ordinary user has every id that the files of an image may have.
//!
//! ```text
//! inside      0          1 … 65534
//! outside     the user   the user's subordinate ids (subuid(5), subgid(5)), in their files' order
//! ```
//!
//! Which ids these are does not reach an image: what reads a tree is inside as well. The kernel gives more than one id only to
//! `newuidmap` and `newgidmap`, which check them against those files. Where there are no such programs, or too few ids, root is the
//! only one inside, and owners are written down: see `owner` and `sandbox::one_id`.

use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use crate::base::tool::Tool;
use rustix::thread::UnshareFlags;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The highest id that images have: `nobody` and `nogroup`.
const LAST: u32 = 65534;

/// A range of ids: the first, and how many.
type Range = (u32, u32);

/// Makes this process root of a user namespace, if it is not root already; says why root is the only one in it, where that is so. To be
/// called before the process has threads.
///
/// # Errors
/// The kernel gives ordinary users no namespaces.
pub fn become_root() -> Result<Option<Error>> {
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    if user.is_root() {
        return Ok(None);
    }
    let name = name_of(&fs::read_text(Path::new("/etc/passwd"))?, user.as_raw());
    let helper = |file: &str, program: &str, own: u32| -> Result<_> {
        let text = if Path::new(file).exists() { fs::read_text(Path::new(file))? } else { String::new() };
        let ranges = ranges(&text, &name, user.as_raw());
        let triples = mapping(own, &ranges).ok_or_else(|| too_few(file, &name, &ranges))?;
        let words = triples.iter().flatten().map(u32::to_string);
        let folders = std::env::var_os("PATH").unwrap_or_default();
        if !std::env::split_paths(&folders).any(|folder| folder.join(program).exists()) {
            return Err(Error::new(format!("{program} is missing")).next("run as root, or have root install uidmap"));
        }
        Tool::new(program).package("uidmap").arg(std::process::id().to_string()).args(words).hold()
    };
    // They must be outside when they begin, and the namespace must be there.
    let users = helper("/etc/subuid", "newuidmap", user.as_raw());
    let helpers = users.and_then(|users| Ok((users, helper("/etc/subgid", "newgidmap", group.as_raw())?)));
    alone()?;
    // SAFETY: the process has one thread and shares no file descriptors table.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER) }.doing(|| "making a user namespace").map_err(|error| {
        error.next(
            "run as root, or let ordinary users have user namespaces (sysctl user.max_user_namespaces, and where it has them \
             kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns)",
        )
    })?;
    let what = || format!("giving {name} the ids of an image's files");
    let why = match helpers {
        Ok((users, groups)) => {
            users.go().doing(what)?;
            groups.go().doing(what)?;
            None
        }
        Err(why) => {
            // In this order: who could give up groups could use what they are kept from.
            std::fs::write("/proc/self/setgroups", "deny").doing(what)?;
            std::fs::write("/proc/self/uid_map", format!("0 {} 1", user.as_raw())).doing(what)?;
            std::fs::write("/proc/self/gid_map", format!("0 {} 1", group.as_raw())).doing(what)?;
            Some(why)
        }
    };
    Ok(why)
}

/// Whether root is the only one in this process's user namespace. Not to be asked before [`become_root`].
pub fn has_one_id() -> bool {
    static ONE_ID: OnceLock<bool> = OnceLock::new();
    *ONE_ID.get_or_init(|| {
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        matches!(map.split_whitespace().collect::<Vec<_>>()[..], [_, _, "1"])
    })
}

/// Waits until the kernel has done with threads that have ended: it counts them for a moment after they have been joined, and gives
/// no user namespace to a process that has several.
fn alone() -> Result<()> {
    let end = Instant::now() + Duration::from_secs(5);
    while fs::sorted_dir(Path::new("/proc/self/task"))?.len() > 1 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Whether this process's root is not the machine's: it makes no device nodes, and overlayfs keeps its notes elsewhere.
pub fn is_own() -> Result<bool> {
    let map = fs::read_text(Path::new("/proc/self/uid_map"))?;
    Ok(map.split_whitespace().ne(["0", "0", "4294967295"]))
}

/// A user's name in the text of a passwd file; the number where it has none.
fn name_of(accounts: &str, user: u32) -> String {
    let mut lines = accounts.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let number = user.to_string();
    lines.find(|fields| fields.get(2) == Some(&number.as_str())).map_or(number.clone(), |fields| fields[0].to_string())
}

/// What a user has in the text of a subuid or subgid file, by name or number.
fn ranges(text: &str, name: &str, user: u32) -> Vec<Range> {
    let range = |line: &str| -> Option<Range> {
        let mut fields = line.trim().split(':');
        let who = fields.next()?;
        if who != name && who != user.to_string() {
            return None;
        }
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    text.lines().filter_map(range).collect()
}

/// Triples of inside, outside and count: the user as root, and the ranges behind it; none where they are too few.
fn mapping(own: u32, ranges: &[Range]) -> Option<Vec<[u32; 3]>> {
    let mut triples = vec![[0, own, 1]];
    let mut next = 1;
    for (first, count) in ranges {
        let count = (*count).min(LAST + 1 - next);
        if count > 0 {
            triples.push([next, *first, count]);
            next += count;
        }
    }
    (next > LAST).then_some(triples)
}

fn too_few(file: &str, name: &str, ranges: &[Range]) -> Error {
    let count: u64 = ranges.iter().map(|(_, count)| u64::from(*count)).sum();
    Error::new(format!("building without root takes {LAST} subordinate ids, and {file} gives {name} {count}")).next(format!(
        "run as root, or have root give them: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_root_inside_and_its_subordinate_ids_follow() {
        let text = "root:1:5\nnova:100000:65536\n1001:700000:65536\n";
        assert_eq!(ranges(text, "nova", 121), [(100_000, 65536)]);
        assert_eq!(ranges(text, "somebody", 1001), [(700_000, 65536)]);
        assert_eq!(mapping(1000, &[(100_000, 65536)]), Some(vec![[0, 1000, 1], [1, 100_000, 65534]]));
    }

    #[test]
    fn several_ranges_follow_each_other_as_far_as_they_are_needed() {
        let ranges = [(100_000, 60_000), (300_000, 5_000), (500_000, 60_000), (900_000, 60_000)];
        let expected = vec![[0, 1000, 1], [1, 100_000, 60_000], [60_001, 300_000, 5_000], [65_001, 500_000, 534]];
        assert_eq!(mapping(1000, &ranges), Some(expected));
    }

    #[test]
    fn a_user_with_too_few_subordinate_ids_is_told_what_to_do() {
        assert_eq!(mapping(1000, &[(100_000, 65533)]), None);
        let words = "building without root takes 65534 subordinate ids, and /etc/subuid gives nova 1000\n  next: run as root, or have \
                     root give them: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 nova";
        assert_eq!(too_few("/etc/subuid", "nova", &[(100_000, 1000)]).to_string(), words);
    }

    #[test]
    fn a_user_without_a_name_goes_by_its_number() {
        assert_eq!(name_of("root:x:0:0::/root:/bin/sh\nnova:x:121:125::/:/bin/false\n", 121), "nova");
        assert_eq!(name_of("root:x:0:0::/root:/bin/sh\n", 121), "121");
    }
}
