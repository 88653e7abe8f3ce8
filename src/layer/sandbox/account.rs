//! Becoming an account of the sandbox's root: its numbers and groups as that root's own files have them.

use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use std::path::Path;

/// Gives up root for this account, for good; the account's home. The root must be entered already.
///
/// # Errors
/// The root has no such account.
pub(super) fn become_user(name: &str) -> Result<String> {
    let accounts = fs::read_text(Path::new("/etc/passwd"))?;
    let (uid, gid, home) = find(&accounts, name).ok_or_else(|| {
        Error::new(format!("the root has no account `{name}`")).next("name one of the role's packages' or overlays'")
    })?;
    let groups = groups(&fs::read_text(Path::new("/etc/group"))?, name, gid);
    // A pipe belongs to whoever made it; programs open /dev/stdout anew, which only its owner may.
    for output in [1, 2] {
        // SAFETY: changes the owner of a descriptor of ours; a failure shows when the program writes.
        unsafe { libc::fchown(output, uid, gid) };
    }
    // SAFETY: the process has one thread, so nothing else depends on what it may do.
    let done = unsafe {
        libc::setgroups(groups.len(), groups.as_ptr()) == 0
            && libc::setresgid(gid, gid, gid) == 0
            && libc::setresuid(uid, uid, uid) == 0
    };
    if done { Ok(home) } else { Err(std::io::Error::last_os_error()).doing(|| format!("becoming the account {name}")) }
}

/// Numbers and home of an account in the text of a passwd file.
fn find(accounts: &str, name: &str) -> Option<(u32, u32, String)> {
    let fields = accounts.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields[0] == name)?;
    Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?, fields.get(5)?.to_string()))
}

/// An account's own group and those that have it as a member, in the text of a group file.
fn groups(groups: &str, name: &str, own: u32) -> Vec<u32> {
    let of = |line: &str| -> Option<u32> {
        let fields: Vec<&str> = line.split(':').collect();
        fields.get(3)?.split(',').any(|member| member == name).then(|| fields[2].parse().ok())?
    };
    std::iter::once(own).chain(groups.lines().filter_map(of).filter(|gid| *gid != own)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_has_its_own_group_and_those_that_name_it() {
        let accounts = "root:x:0:0:root:/root:/bin/sh\nnova:x:121:125:Nova,,,:/var/lib/nova:/bin/false\n";
        let all = "root:x:0:\nnova:x:125:nova\nlibvirt:x:130:libvirt-qemu,nova\nceph:x:64045:novax\n";
        assert_eq!(find(accounts, "nova"), Some((121, 125, "/var/lib/nova".to_string())));
        assert_eq!(find(accounts, "nov"), None);
        assert_eq!(groups(all, "nova", 125), [125, 130]);
    }
}
