//! Real rpm packages of `tests/fixtures/rpm/packages`, built, signed with throwaway keys and put into repositories.

use super::Test;
use super::role::remove_at_exit;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Which key a package or a repository is signed with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Signed {
    /// With none.
    Not,
    /// With the one that the project trusts.
    Trusted,
    /// With another one.
    Strange,
}

/// Everything that is built once: packages unsigned and signed with either key, and the keys.
struct Built {
    folder: PathBuf,
}

const KEYS: [(&str, Signed); 2] = [("trusted", Signed::Trusted), ("strange", Signed::Strange)];

impl Built {
    fn packages(&self, signed: Signed) -> PathBuf {
        self.folder.join(match signed {
            Signed::Not => "plain",
            Signed::Trusted => "trusted",
            Signed::Strange => "strange",
        })
    }

    fn gpg(&self, key: &str) -> PathBuf {
        self.folder.join(format!("gpg-{key}"))
    }
}

/// A tool to its end; its words where it fails.
#[track_caller]
pub fn tool(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; run scripts/setup test"));
    assert!(output.status.success(), "{command:?}:\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The packages of the fixture, built at the first call.
fn built() -> &'static Built {
    static BUILT: OnceLock<Built> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap().keep();
        remove_at_exit(&folder);
        let built = Built { folder };
        let specs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/rpm/packages");
        let plain = built.packages(Signed::Not);
        fs::create_dir(&plain).unwrap();
        let build = |spec: &Path, defines: &[&str]| {
            let mut command = Command::new("rpmbuild");
            command.args(["-bb", "--quiet", "--define", "_build_id_links none", "--define", "busybox /usr/bin/busybox"]);
            command.args(["--define", "_rpmfilename %{NAME}-%{VERSION}-%{RELEASE}.%{ARCH}.rpm", "--define"]);
            command.arg(format!("_topdir {}", built.folder.join("rpmbuild").display()));
            command.args(["--define", &format!("_rpmdir {}", plain.display())]);
            command.args(defines.iter().flat_map(|define| ["--define", define])).arg(spec);
            tool(command.env("HOME", &built.folder));
        };
        for entry in fs::read_dir(&specs).unwrap() {
            let spec = entry.unwrap().path();
            if spec.ends_with("libtick.spec") {
                for (epoch, version) in [(0, "1.0"), (0, "2.0"), (1, "0.5")] {
                    let defines = [format!("library_epoch {epoch}"), format!("library_version {version}")];
                    build(&spec, &[&defines[0], &defines[1]]);
                }
            } else {
                build(&spec, &[]);
            }
        }
        for (key, signed) in KEYS {
            let home = built.gpg(key);
            fs::create_dir(&home).unwrap();
            fs::set_permissions(&home, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
            let mut gpg = Command::new("gpg");
            gpg.args(["--batch", "--quiet", "--passphrase", "", "--quick-gen-key", key, "rsa2048", "sign", "never"]);
            tool(gpg.env("GNUPGHOME", &home));
            let folder = built.packages(signed);
            super::copy(&plain, &folder);
            let mut rpmsign = Command::new("rpmsign");
            rpmsign.args(["--define", &format!("_gpg_name {key}"), "--define", "__gpg /usr/bin/gpg", "--addsign"]);
            tool(rpmsign.args(files(&folder)).env("GNUPGHOME", &home).env("HOME", &built.folder));
            end_agent(&home);
        }
        built
    })
}

/// gpg leaves a process that remembers keys.
fn end_agent(home: &Path) {
    tool(Command::new("gpgconf").args(["--kill", "all"]).env("GNUPGHOME", home));
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// A repository: `os/x86_64` below a folder of its own.
pub struct Repository {
    folder: tempfile::TempDir,
}

impl Repository {
    /// All packages but `without`, signed like that; the metadata is not signed.
    pub fn new(signed: Signed, without: &[&str]) -> Self {
        let repository = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir_all(repository.packages()).unwrap();
        for file in files(&built().packages(signed)) {
            let name = file.file_name().unwrap().to_str().unwrap().to_string();
            if !without.iter().any(|one| name.starts_with(&format!("{one}-"))) {
                fs::copy(&file, repository.packages().join(name)).unwrap();
            }
        }
        repository.describe();
        repository
    }

    /// The repository's own folder.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("os/x86_64")
    }

    fn packages(&self) -> PathBuf {
        self.path().join("p")
    }

    /// A package's file, by the beginning of its name.
    #[track_caller]
    pub fn file(&self, name: &str) -> PathBuf {
        let file = files(&self.packages()).into_iter().find(|file| file.file_name().unwrap().to_str().unwrap().starts_with(name));
        file.unwrap_or_else(|| panic!("the repository has no {name}"))
    }

    /// Puts a package of the fixture in, with the signature it has there.
    pub fn add(&self, name: &str, signed: Signed) -> &Self {
        for file in files(&built().packages(signed)) {
            if file.file_name().unwrap().to_str().unwrap().starts_with(name) {
                fs::copy(&file, self.packages().join(file.file_name().unwrap())).unwrap();
            }
        }
        self
    }

    /// Writes the metadata of what is there now.
    pub fn describe(&self) -> &Self {
        tool(Command::new("createrepo_c").args(["--quiet", "--no-database"]).arg(self.path()));
        self
    }

    /// Signs the metadata.
    pub fn sign(&self, signed: Signed) -> &Self {
        let (key, _) = KEYS.iter().find(|(_, key)| *key == signed).unwrap();
        let home = built().gpg(key);
        let mut gpg = Command::new("gpg");
        gpg.args(["--batch", "--quiet", "--yes", "--armor", "--detach-sign"]).arg(self.path().join("repodata/repomd.xml"));
        tool(gpg.env("GNUPGHOME", &home));
        end_agent(&home);
        self
    }

    /// Its archive's URL, as a folder of this machine.
    pub fn url(&self) -> String {
        format!("file://{}", self.folder.path().display())
    }

    /// The project with this archive and the trusted key. Most tests need no tools, and this machine's dnf is as good to them as
    /// a locked one: both would be asked of Debian's archive.
    pub fn project(&self) -> Test {
        let tools = "tools = [\"grub-common\", \"grub-efi-amd64-bin\", \"grub-pc-bin\", \"rpm\"]\n\
                     solver = [\"apt\", \"dpkg\", \"python3-dnf\"]\n";
        self.whole_project(&self.url()).replace("recipes/releases/fixture.toml", tools, "")
    }

    /// The project with tools, and this archive at another URL.
    pub fn whole_project(&self, url: &str) -> Test {
        let key = tool(Command::new("gpg").args(["--armor", "--export"]).env("GNUPGHOME", built().gpg("trusted")));
        Test::rpm()
            .write("keys/trusted.asc", key)
            .append("site.toml", &format!("[mirror]\nfixture = \"{url}\"\n\n[trust]\nfixture = [\"keys/trusted.asc\"]\n"))
    }

    /// Serves the archive on a port of the kernel's choice, as long as the process lives; gives its URL.
    pub fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let root = self.folder.path().to_path_buf();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let root = root.clone();
                std::thread::spawn(move || answer(&stream.unwrap(), &root));
            }
        });
        url
    }

    /// Keeps the folder until the process ends.
    pub fn kept(self) -> Self {
        remove_at_exit(self.folder.path());
        self
    }
}

/// One request, then the connection ends.
fn answer(stream: &TcpStream, root: &Path) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let Some(request) = lines.next() else { return };
    lines.for_each(drop);
    let path = request.split(' ').nth(1).unwrap().trim_start_matches('/').to_string();
    let (status, body) = match fs::read(root.join(path)) {
        Ok(body) => ("200 OK", body),
        Err(_) => ("404 Not Found", Vec::new()),
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let mut stream = stream;
    // The client may have hung up; it says so itself.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
}
