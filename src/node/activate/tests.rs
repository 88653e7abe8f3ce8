//! Layers as folders: what a boot makes of files with placeholders.

use super::*;
use crate::model::placeholder::Fields;
use std::os::unix::fs::PermissionsExt;

/// Three layers as the node sees them, the topmost first, and a root that has what they stack to.
struct Node {
    folder: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let node = Self { folder: tempfile::tempdir().unwrap() };
        for part in ["node", "1", "0", "root"] {
            std::fs::create_dir(node.path(part)).unwrap();
        }
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn layers(&self) -> Vec<PathBuf> {
        ["node", "1", "0"].map(|name| self.path(name)).into()
    }

    fn file(self, name: &str, text: &str, mode: u32) -> Self {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    fn fill(&self) -> Result<usize> {
        let mut values = Values::default();
        values.insert("db", Fields::from([("value".to_string(), "Secret1".to_string())]));
        fill(&self.layers(), &self.path("root"), &values)
    }

    /// Content and mode of a file in the root.
    fn root(&self, name: &str) -> (String, u32) {
        let path = self.path("root").join(name);
        let mode = std::fs::metadata(&path).unwrap().mode() & 0o7777;
        (std::fs::read_to_string(path).unwrap(), mode)
    }
}

const FILE: &str = "password = @ostack-secret:db:value@\n";
const FILLED: &str = "password = Secret1\n";

#[test]
fn listed_files_and_the_nodes_own_are_filled_with_the_layers_mode() {
    let node = Node::new()
        .file("0/usr/share/ostack/secrets/db", "/etc/db.conf\n", 0o644)
        .file("0/etc/db.conf", FILE, 0o640)
        .file("node/etc/own.conf", FILE, 0o400)
        .file("node/etc/plain.conf", "nothing\n", 0o644)
        .file("root/etc/db.conf", FILE, 0o640);
    assert_eq!(node.fill().unwrap(), 2);
    assert_eq!(node.root("etc/db.conf"), (FILLED.to_string(), 0o640));
    assert_eq!(node.root("etc/own.conf"), (FILLED.to_string(), 0o400));
    // Again, over what is filled, and nothing is left beside it.
    assert_eq!(node.fill().unwrap(), 2);
    assert_eq!(node.root("etc/db.conf"), (FILLED.to_string(), 0o640));
    let names: Vec<PathBuf> = sorted_dir(&node.path("root/etc")).unwrap();
    assert_eq!(names, [node.path("root/etc/db.conf"), node.path("root/etc/own.conf")]);
}

#[test]
fn the_topmost_layer_decides_what_a_file_says() {
    let node = Node::new()
        .file("0/usr/share/ostack/secrets/db", "/etc/db.conf\n/etc/plain.conf\n", 0o644)
        .file("0/etc/db.conf", FILE, 0o640)
        .file("0/etc/plain.conf", FILE, 0o640)
        .file("1/etc/db.conf", "other @ostack-secret:db:value@", 0o600)
        .file("1/etc/plain.conf", "no secret any more", 0o644);
    assert_eq!(node.fill().unwrap(), 1);
    assert_eq!(node.root("etc/db.conf"), ("other Secret1".to_string(), 0o600));
}

#[test]
fn a_value_that_is_missing_is_named_and_no_file_is_touched() {
    let node = Node::new()
        .file("0/usr/share/ostack/secrets/db", "/etc/a.conf\n/etc/b.conf\n", 0o644)
        .file("0/etc/a.conf", FILE, 0o640)
        .file("0/etc/b.conf", "@ostack-secret:other:value@", 0o640)
        .file("root/etc/a.conf", FILE, 0o640);
    assert_eq!(
        node.fill().err().unwrap().to_string(),
        "filling /etc/b.conf: there is no value of the secret `other` (value)\n  \
         next: make the node's seed again, with: ostack-image seed NODE, and attach it"
    );
    assert_eq!(node.root("etc/a.conf"), (FILE.to_string(), 0o640));
}

#[test]
fn a_listed_file_that_no_layer_has_is_an_error() {
    let node = Node::new().file("0/usr/share/ostack/secrets/db", "/etc/db.conf\n", 0o644);
    assert_eq!(
        node.fill().err().unwrap().to_string(),
        "/etc/db.conf should have secrets and is in no layer\n  next: write the image to this machine again"
    );
}

#[test]
fn a_folder_that_older_state_lacks_is_made_as_the_layer_has_it() {
    let node = Node::new().file("0/usr/share/ostack/secrets/db", "/var/lib/db/keys/key\n", 0o644).file(
        "0/var/lib/db/keys/key",
        FILE,
        0o400,
    );
    std::fs::set_permissions(node.path("0/var/lib/db/keys"), std::fs::Permissions::from_mode(0o750)).unwrap();
    std::fs::create_dir_all(node.path("root/var/lib/db")).unwrap();
    assert_eq!(node.fill().unwrap(), 1);
    assert_eq!(node.root("var/lib/db/keys/key"), (FILLED.to_string(), 0o400));
    assert_eq!(std::fs::metadata(node.path("root/var/lib/db/keys")).unwrap().mode() & 0o7777, 0o750);
}

#[test]
fn a_link_that_a_service_put_into_its_state_leads_nowhere() {
    let node = Node::new().file("0/usr/share/ostack/secrets/db", "/var/lib/db/keys/key\n", 0o644).file(
        "0/var/lib/db/keys/key",
        FILE,
        0o400,
    );
    std::fs::create_dir_all(node.path("root/var/lib/db")).unwrap();
    std::fs::create_dir(node.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink(node.path("elsewhere"), node.path("root/var/lib/db/keys")).unwrap();
    assert_eq!(
        node.fill().err().unwrap().to_string(),
        "filling /var/lib/db/keys/key: /var/lib/db/keys is no folder of its own: a link would lead elsewhere\n  \
         next: declare the path that the link leads to, or remove the link"
    );
    assert_eq!(sorted_dir(&node.path("elsewhere")).unwrap(), Vec::<PathBuf>::new());
}
