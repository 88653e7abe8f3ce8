use super::*;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// A package as [`crate::layer::deb::decompress`] writes it.
struct Deb {
    control: Vec<(&'static str, String)>,
    data: tar::Builder<Vec<u8>>,
}

impl Deb {
    /// A package that brings nothing yet; `fields` follow its name.
    fn new(name: &str, fields: &str) -> Self {
        let control = format!("Package: {name}\nVersion: 1\nArchitecture: amd64\n{fields}");
        let deb =
            Self { control: vec![("./control", control), ("./md5sums", String::new())], data: tar::Builder::new(Vec::new()) };
        deb.directory("./", 0o755)
    }

    fn script(mut self, name: &'static str, text: &str) -> Self {
        self.control.push((name, text.to_string()));
        self
    }

    fn header(kind: tar::EntryType, size: usize, mode: u32) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size as u64);
        header.set_mode(mode);
        header.set_mtime(1_000_000_000);
        header.set_uid(u64::from(rustix::process::geteuid().as_raw()));
        header.set_gid(u64::from(rustix::process::getegid().as_raw()));
        header
    }

    fn entry(mut self, path: &str, kind: tar::EntryType, bytes: &[u8], mode: u32) -> Self {
        // As dpkg-deb writes them: with the leading ./ that the crate's own way of setting paths drops.
        let mut header = Self::header(kind, bytes.len(), mode);
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        self.data.append(&header, bytes).unwrap();
        self
    }

    fn directory(self, path: &str, mode: u32) -> Self {
        self.entry(path, tar::EntryType::Directory, b"", mode)
    }

    fn file(self, path: &str, text: &str, mode: u32) -> Self {
        self.entry(path, tar::EntryType::Regular, text.as_bytes(), mode)
    }

    fn link(mut self, path: &str, kind: tar::EntryType, target: &str) -> Self {
        let mut header = Self::header(kind, 0, 0o777);
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        self.data.append(&header, &b""[..]).unwrap();
        self
    }

    fn write(self, path: &Path) -> Archive {
        let mut control = tar::Builder::new(Vec::new());
        for (name, text) in &self.control {
            let mode = if name.ends_with("inst") { 0o755 } else { 0o644 };
            let mut header = Self::header(tar::EntryType::Regular, text.len(), mode);
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            control.append(&header, text.as_bytes()).unwrap();
        }
        let mut file = std::fs::File::create(path).unwrap();
        file.write_all(b"!<arch>\n").unwrap();
        let members = [
            ("debian-binary", b"2.0\n".to_vec()),
            ("control.tar", control.into_inner().unwrap()),
            ("data.tar", self.data.into_inner().unwrap()),
        ];
        for (name, body) in members {
            writeln!(file, "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`", 0, 0, 0, 100_644, body.len()).unwrap();
            file.write_all(&body).unwrap();
        }
        Archive::open(path).unwrap()
    }
}

/// A root over another, in which dpkg knows one package and one interest.
struct Root {
    folder: tempfile::TempDir,
}

impl Root {
    fn new() -> Self {
        let root = Self { folder: tempfile::tempdir().unwrap() };
        root.put("lower/var/lib/dpkg/status", "Package: old\nStatus: install ok installed\nArchitecture: amd64\n\n");
        root.put("lower/var/lib/dpkg/triggers/File", "/usr/share/icons icons/noawait\n/usr/share/man man-db\n");
        root.put("lower/var/lib/dpkg/info/old.list", "/.\n");
        root.put("lower/usr/bin/old", "old");
        std::fs::create_dir(root.path("upper")).unwrap();
        root
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn put(&self, path: &str, text: &str) {
        std::fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        std::fs::write(self.path(path), text).unwrap();
    }

    fn text(&self, path: &str) -> String {
        std::fs::read_to_string(self.path(path)).unwrap()
    }

    /// Lays packages down; gives the positions that were left to dpkg.
    fn lay(&self, packages: Vec<Deb>) -> Vec<usize> {
        let number = |number: usize| self.path(&format!("{number}.deb"));
        let archives: Vec<Archive> = packages.into_iter().enumerate().map(|(at, deb)| deb.write(&number(at))).collect();
        lay_down(&archives, &mut Ground::over(&self.path("lower"), &self.path("upper"))).unwrap()
    }
}

fn plain(name: &str) -> Deb {
    Deb::new(name, "").directory("./usr/", 0o755).directory("./usr/bin/", 0o755).file(&format!("./usr/bin/{name}"), name, 0o755)
}

#[test]
fn what_a_package_brings_has_its_modes_times_and_links() {
    let root = Root::new();
    let deb = plain("tool")
        .directory("./usr/share/", 0o755)
        .directory("./usr/share/empty/", 0o2750)
        .file("./usr/bin/setuid", "s", 0o4755)
        .link("./usr/bin/other", tar::EntryType::Link, "./usr/bin/tool")
        .link("./usr/bin/alias", tar::EntryType::Symlink, "tool");
    assert_eq!(root.lay(vec![deb]), Vec::<usize>::new());
    let seen = |path: &str| {
        let meta = root.path("upper").join(path).symlink_metadata().unwrap();
        (meta.mode() & 0o7777, meta.mtime(), meta.nlink())
    };
    assert_eq!(seen("usr/bin/tool"), (0o755, 1_000_000_000, 2));
    assert_eq!(seen("usr/bin/setuid"), (0o4755, 1_000_000_000, 1));
    assert_eq!(seen("usr/share/empty"), (0o2750, 1_000_000_000, 2));
    assert_eq!(seen("usr/bin/alias"), (0o777, 1_000_000_000, 1));
    assert_eq!(std::fs::read_link(root.path("upper/usr/bin/alias")).unwrap(), Path::new("tool"));
    assert_eq!(root.text("upper/usr/bin/other"), "tool");
}

#[test]
fn dpkgs_notes_say_that_it_is_unpacked_and_what_it_sets_off() {
    let root = Root::new();
    let deb = Deb::new("apple", "Multi-Arch: same\nDescription: a fruit\n of a tree\n")
        .script("./conffiles", "/etc/apple.conf\n")
        .script("./triggers", "# by hand\nactivate-noawait ldconfig\n")
        .script("./postinst", "#!/bin/sh\n")
        .directory("./etc/", 0o755)
        .file("./etc/apple.conf", "sweet", 0o644)
        .directory("./usr/", 0o755)
        .directory("./usr/share/", 0o755)
        .directory("./usr/share/man/", 0o755)
        .file("./usr/share/man/apple.1", "", 0o644);
    assert_eq!(root.lay(vec![deb, plain("zebra")]), Vec::<usize>::new());
    assert_eq!(
        root.text("upper/var/lib/dpkg/status"),
        "Package: apple\nStatus: install ok unpacked\nVersion: 1\nArchitecture: amd64\nMulti-Arch: same\n\
         Description: a fruit\n of a tree\nConffiles:\n /etc/apple.conf newconffile\n\n\
         Package: old\nStatus: install ok installed\nArchitecture: amd64\n\n\
         Package: zebra\nStatus: install ok unpacked\nVersion: 1\nArchitecture: amd64\n\n"
    );
    assert_eq!(root.text("upper/var/lib/dpkg/triggers/Unincorp"), "/usr/share/man apple:amd64\nldconfig -\n");
    assert_eq!(
        root.text("upper/var/lib/dpkg/info/apple:amd64.list"),
        "/.\n/etc\n/etc/apple.conf\n/usr\n/usr/share\n/usr/share/man\n/usr/share/man/apple.1\n"
    );
    let postinst = root.path("upper/var/lib/dpkg/info/apple:amd64.postinst").metadata().unwrap();
    assert_eq!((postinst.mode() & 0o7777, postinst.mtime()), (0o755, 1_000_000_000));
    // dpkg puts it into its place when it configures the package.
    assert_eq!(root.text("upper/etc/apple.conf.dpkg-new"), "sweet");
    assert!(!root.path("upper/etc/apple.conf").exists());
}

#[test]
fn a_directory_of_the_lower_root_that_is_written_in_stays_what_it_was() {
    let root = Root::new();
    std::fs::set_permissions(root.path("lower/usr/bin"), std::fs::Permissions::from_mode(0o2711)).unwrap();
    assert_eq!(root.lay(vec![plain("tool")]), Vec::<usize>::new());
    assert_eq!(root.path("upper/usr/bin").metadata().unwrap().mode() & 0o7777, 0o2711);
    assert!(!root.path("upper/usr/bin/old").exists());
}

#[test]
fn what_is_more_than_laying_new_paths_down_is_left_to_dpkg() {
    let cases: Vec<(&str, Deb)> = vec![
        ("a script runs before", plain("a").script("./preinst", "#!/bin/sh\n")),
        ("dpkg knows it", plain("old")),
        ("it overwrites a file", plain("a").file("./usr/bin/old", "", 0o755)),
        ("a file is where the root has a directory", Deb::new("a", "").file("./usr", "", 0o644)),
        ("a directory is where the root has a file", plain("a").directory("./usr/bin/old/", 0o755)),
        ("a path leads through a link", Deb::new("a", "").directory("./link/", 0o755).file("./link/a", "", 0o644)),
        ("a path is diverted", plain("a").file("./usr/bin/diverted", "", 0o755)),
        ("a path has an owner of its own", plain("a").file("./usr/bin/overridden", "", 0o755)),
        ("it wants to hear of others", plain("a").script("./triggers", "interest-noawait /usr/lib\n")),
        ("a configuration file goes", plain("a").script("./conffiles", "remove-on-upgrade /etc/a\n")),
        ("a configuration file is not in it", plain("a").script("./conffiles", "/etc/a\n")),
        ("it brings a device", plain("a").entry("./usr/bin/null", tar::EntryType::Char, b"", 0o666)),
        ("its directory is missing", Deb::new("a", "").file("./opt/a", "", 0o644)),
        ("a second one has the same path", plain("b").file("./usr/bin/first", "", 0o755)),
    ];
    let mut wrong = Vec::new();
    for (why, deb) in cases {
        let root = Root::new();
        root.put("lower/var/lib/dpkg/diversions", "/usr/bin/diverted\n/usr/bin/diverted.real\nold\n");
        root.put("lower/var/lib/dpkg/statoverride", "root adm 2755 /usr/bin/overridden\n");
        symlink("usr", root.path("lower/link")).unwrap();
        let left = root.lay(vec![plain("first"), deb]);
        let notes = root.text("upper/var/lib/dpkg/status");
        if left != [1] || notes.contains("Package: a\n") || root.path("upper/usr/bin/a").exists() {
            wrong.push(why);
        }
    }
    assert_eq!(wrong, Vec::<&str>::new());
}

#[test]
fn a_truncated_package_is_an_error_that_names_it() {
    let root = Root::new();
    let path = root.path("short.deb");
    drop(plain("tool").write(&path));
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 1024]).unwrap();
    let error = Archive::open(&path).err().unwrap().to_string();
    assert_eq!(error, format!("reading the package {}: it is truncated or compressed: no data.tar", path.display()));
}

#[test]
fn the_file_that_hands_triggers_over_goes_when_it_only_repeats_the_lower_roots() {
    let root = Root::new();
    let name = "var/lib/dpkg/triggers/Unincorp";
    let ground = Ground::over(&root.path("lower"), &root.path("upper"));
    let stays = |lower: Option<&str>, upper: &str| {
        let _ = std::fs::remove_file(root.path("lower").join(name));
        lower.into_iter().for_each(|text| root.put(&format!("lower/{name}"), text));
        root.put(&format!("upper/{name}"), upper);
        end(&ground).unwrap();
        root.path("upper").join(name).exists()
    };
    assert_eq!(
        [stays(Some(""), ""), stays(Some(""), "ldconfig -\n"), stays(Some("x -\n"), ""), stays(None, "")],
        [false, true, true, true]
    );
}
