//! A build that is as different from another one as it can be without meaning anything else: another user, machine, year, order of
//! whatever has an order. What it gives must be the same to the last byte.

use super::store;
use super::user::{self, USER};
use super::world::World;
use ostack_image::lock::ReleaseLock;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is different.
#[derive(Debug, Clone, Copy)]
pub struct Variation {
    /// What it is called.
    pub name: &'static str,
    /// Clock, order of folders, cores.
    pub world: World,
    /// An ordinary user builds, and not root.
    pub rootless: bool,
    /// The machine's name.
    pub host: &'static str,
    /// The user's folder, below the variation's own; it need not exist.
    pub home: &'static str,
    pub umask: &'static str,
    pub zone: &'static str,
    pub locale: &'static str,
    /// Where it is started, where the project is and where the store is, below the variation's own folder.
    pub at: [&'static str; 3],
    /// Whether all that lies in memory, or on the disk.
    pub memory: bool,
    /// In which order the packages come into the store.
    pub packages: Packages,
}

/// How packages come into an empty store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packages {
    /// They were put there, in the lock's order.
    InOrder,
    /// They were put there, the last first.
    Reversed,
    /// They are fetched from a mirror that serves who came last first.
    Fetched,
}

/// A build to compare with.
pub struct Reference<'a> {
    /// Its project, with the artifacts in `out`.
    pub project: &'a Path,
    /// Its store, which has the packages, too.
    pub store: &'a Path,
    /// Its release's lock.
    pub lock: &'a ReleaseLock,
    /// The role.
    pub role: &'a str,
    /// The commands that give all that is compared, a line each.
    pub commands: &'a str,
    /// Where a mirror has the packages; for [`Packages::Fetched`].
    pub mirror: &'a str,
}

/// What is run in the variation's own namespaces. It prints what differs.
const SCRIPT: &str = r#"
set -eu
hostname "$HOST"
if [ -n "$MEMORY" ]; then mount -t tmpfs -o mode=0755 tmpfs "$PLACE"; fi
cd "$PLACE"
mkdir -p "$PROJECT" "$STORE/blobs/sha256" "$AT" tmp
(cd "$REFERENCE" && tar -c --exclude ./out .) | tar --warning=no-timestamp -xC "$PROJECT"
if [ -s "$LIST" ]; then (cd "$POOL" && xargs -a "$LIST" cp -t "$PLACE/$STORE/blobs/sha256"); fi
as=
if [ -n "$ROOTLESS" ]; then
    mount --bind "$ETC" /etc
    # What roots are built in cannot be chosen: the kernel gives a user no /proc while part of it is hidden.
    chown -R "$ROOTLESS:$ROOTLESS" .
    as="setpriv --reuid $ROOTLESS --regid $ROOTLESS --clear-groups"
else
    # Where there is much memory, roots are built in it.
    mount --bind "$MEMINFO" /proc/meminfo
fi
cd "$AT"
umask "$UMASK"
ostack() {
    $as env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME="$PLACE/$HOME_AT" TZ="$ZONE" LC_ALL="$LOCALE" LANG="$LOCALE" TMPDIR="$PLACE/tmp" \
        "$PROGRAM" -C "$PLACE/$PROJECT" --store "$PLACE/$STORE" $SOURCE "$@"
}
echo "$COMMANDS" | while read -r line; do ostack $line > "$PLACE/said" || exit 1; done
ostack inspect "$ROLE" --json > "$PLACE/image"
cd "$PLACE"
"$PROGRAM" -C "$REFERENCE" --store "$POOL/../.." inspect "$ROLE" --json > reference
# Notes beside artifacts are about these very files: their inodes and times.
if cmp -s reference image && diff -rq --no-dereference --exclude '.*.json' "$REFERENCE/out" "$PROJECT/out"; then exit 0; fi
diff reference image || true
image=$(sed -n 's/.*"digest": "sha256:\(.*\)".*/\1/p' reference | tail -1)
{ cat reference; cat "$POOL/$image"; } | grep -o 'sha256:[0-9a-f]*' | cut -d: -f2 | sort -u | while read -r blob; do
    if [ -e "$POOL/$blob" ]; then cp -n "$POOL/$blob" "$STORE/blobs/sha256"; fi
done
"$PROGRAM" --store "$STORE" diff "sha256:$image" "$ROLE"
"#;

impl Reference<'_> {
    /// The blobs of the packages that may be needed, in the lock's order.
    fn packages(&self) -> Vec<String> {
        let needed = |set: &str| [self.role, "tools", "loaders"].contains(&set) || set.starts_with("kernel-");
        let all = self.lock.all().filter(|package| package.sets.iter().any(|set| needed(set.as_str())));
        all.filter(|package| store::blob(self.store, &package.sha256).exists()).map(|package| package.sha256.hex()).collect()
    }
}

impl Variation {
    /// Somebody else on another machine, in every respect but the clock, which is this one's.
    pub const ELSEWHERE: Self = Self {
        name: "elsewhere",
        world: World { clock: 0, order: None, core: None },
        rootless: true,
        host: "build-machine.example.org",
        home: "nonexistent",
        umask: "077",
        zone: "Pacific/Kiritimati",
        locale: "tr_TR.UTF-8",
        at: ["elsewhere", "a project/with a longer name", "the store of it"],
        memory: false,
        packages: Packages::Reversed,
    };

    /// Builds once more, from an empty store and in a folder of its own: what is wrong with that, in words, if anything is.
    pub fn wrong(&self, reference: &Reference<'_>) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        match self.differs(reference, folder.path()) {
            Ok(differences) if differences.is_empty() => None,
            Ok(differences) => Some(format!("`{}` gives other bytes:\n{differences}", self.name)),
            Err(words) => Some(format!("`{}` fails: {words}", self.name)),
        }
    }

    /// Builds once more, in a folder of its own, and says what differs from the reference; nothing, where nothing does.
    ///
    /// # Errors
    /// A command fails; with its words.
    fn differs(&self, reference: &Reference<'_>, folder: &Path) -> Result<String, String> {
        let place = folder.join("place");
        fs::create_dir_all(&place).unwrap();
        // For the user that it may be.
        for folder in [folder, &place] {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let write = |name: &str, text: &str| -> PathBuf {
            fs::write(folder.join(name), text).unwrap();
            folder.join(name)
        };
        let mut names = reference.packages();
        match self.packages {
            Packages::InOrder => {}
            Packages::Reversed => names.reverse(),
            Packages::Fetched => names.clear(),
        }
        let source =
            if self.packages == Packages::Fetched { format!("--mirror {}", reference.mirror) } else { "--offline".into() };
        let free = if self.memory { 20 << 20 } else { 1 << 20 };
        let ids = format!("{USER}:900000:65536\n");
        let etc = if self.rootless { user::etc(folder, &ids) } else { PathBuf::new() };
        let [at, project, store] = self.at;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--uts", "sh", "-c", SCRIPT]).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("PLACE", &place).env("MEMORY", if self.memory { "yes" } else { "" });
        command.env("MEMINFO", write("meminfo", &format!("MemAvailable: {free} kB\n"))).env("HOST", self.host);
        command.env("AT", at).env("PROJECT", project).env("STORE", store).env("REFERENCE", reference.project);
        command.env("POOL", reference.store.join("blobs/sha256")).env("LIST", write("packages", &names.join("\n")));
        command.env("ROOTLESS", if self.rootless { USER.to_string() } else { String::new() }).env("ETC", etc);
        command.env("HOME_AT", self.home).env("UMASK", self.umask).env("ZONE", self.zone).env("LOCALE", self.locale);
        command.env("PROGRAM", user::programs(folder)).env("SOURCE", source);
        command.env("COMMANDS", reference.commands).env("ROLE", reference.role);
        let output = self.world.run(&mut command);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match output.status.code() {
            Some(0) => Ok(text(&output.stdout)),
            _ => Err(format!("{}\n{}{}", output.status, text(&output.stderr), text(&output.stdout))),
        }
    }
}
