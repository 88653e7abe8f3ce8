//! Every kind in the form that the programs which read it expect; they are asked themselves where that is possible.

use super::*;
use crate::base::tool::Tool;
use crate::model::placeholder;
use crate::secrets::Wanted;
use std::path::Path;

fn wanted(name: &str, kind: SecretKind) -> Wanted {
    Wanted { name: name.parse().unwrap(), kind, length: None, fixed: None, ca: None, node: None, names: Vec::new() }
}

fn signed(name: &str, kind: SecretKind, ca: &str, names: &[&str]) -> Wanted {
    Wanted { ca: Some(ca.parse().unwrap()), names: names.iter().map(|name| (*name).to_string()).collect(), ..wanted(name, kind) }
}

fn drawn(wanted: &[Wanted]) -> Held {
    let mut held = Held::new("guide");
    missing(&mut held, wanted).unwrap();
    held
}

fn field(held: &Held, name: &str, field: &str) -> String {
    held.get(None, name).unwrap().field(field).unwrap().into_owned()
}

/// Writes a field as the file that an overlay would make of it.
fn write(held: &Held, name: &str, of: &str, folder: &Path, mode: u32) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.join(format!("{name}.{of}"));
    std::fs::write(&path, field(held, name, of) + "\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    path
}

#[test]
fn a_password_is_letters_and_digits_of_the_declared_length_and_each_is_another() {
    let long = Wanted { length: Some(64), ..wanted("horizon", SecretKind::Password) };
    let held = drawn(&[wanted("nova", SecretKind::Password), wanted("glance", SecretKind::Password), long]);
    let password = |name| field(&held, name, "value");
    for (name, length) in [("nova", 32), ("glance", 32), ("horizon", 64)] {
        assert_eq!(password(name).len(), length);
        assert!(password(name).bytes().all(|byte| byte.is_ascii_alphanumeric()), "{name}");
    }
    assert_ne!(password("nova"), password("glance"));
}

#[test]
fn hex_uuid_fernet_and_cephx_keys_have_their_programs_forms() {
    let authkey = Wanted { length: Some(128), ..wanted("authkey", SecretKind::Hex) };
    let held = drawn(&[
        authkey,
        wanted("fsid", SecretKind::Uuid),
        wanted("fernet", SecretKind::Fernet),
        wanted("admin", SecretKind::Ceph),
    ]);
    let hex = field(&held, "authkey", "value");
    assert!(hex.len() == 256 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let uuid = field(&held, "fsid", "value");
    let (dashes, version, variant) = (uuid.match_indices('-').map(|(at, _)| at), &uuid[14..15], &uuid[19..20]);
    assert_eq!((uuid.len(), dashes.collect::<Vec<_>>(), version), (36, vec![8, 13, 18, 23], "4"));
    assert!("89ab".contains(variant), "{variant}");
    // Keystone hands it to Fernet(key), which takes 32 bytes in base64 for URLs, padding included.
    let fernet = field(&held, "fernet", "value");
    assert_eq!((fernet.len(), URL_SAFE.decode(fernet).unwrap().len()), (44, 32));
    let ceph = STANDARD.decode(field(&held, "admin", "value")).unwrap();
    assert_eq!((ceph.len(), &ceph[..2], &ceph[10..12]), (28, &[1, 0][..], &[16, 0][..]));
    let seconds = u64::from(u32::from_le_bytes(ceph[2..6].try_into().unwrap()));
    assert!(seconds.abs_diff(now().unwrap()) < 600);
}

#[test]
fn openssl_takes_a_certificate_for_its_names_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let held = drawn(&[
        wanted("site-ca", SecretKind::Ca),
        wanted("other-ca", SecretKind::Ca),
        signed("vip", SecretKind::Certificate, "site-ca", &["controller01", "172.16.181.30"]),
    ]);
    let file = |name, of| write(&held, name, of, folder.path(), 0o600);
    let (ca, other) = (file("site-ca", "certificate"), file("other-ca", "certificate"));
    let (vip, bundle) = (file("vip", "certificate"), file("vip", "bundle"));
    let verify = |ca: &Path, more: &[&str]| {
        let tool = Tool::new("openssl").args(["verify", "-x509_strict", "-CAfile"]).arg(ca).args(more).arg(&vip).run();
        tool.map(|output| output.text())
    };
    let ok = format!("{}: OK\n", vip.display());
    for good in [["-purpose", "sslserver"], ["-purpose", "sslclient"], ["-verify_hostname", "controller01"]] {
        assert_eq!(verify(&ca, &good).unwrap(), ok);
    }
    assert_eq!(verify(&ca, &["-verify_ip", "172.16.181.30"]).unwrap(), ok);
    let refused = |ca, more| verify(ca, more).err().unwrap().to_string();
    assert!(refused(&ca, &["-verify_hostname", "controller02"]).contains("hostname mismatch"));
    assert!(refused(&ca, &["-verify_ip", "172.16.181.31"]).contains("IP address mismatch"));
    assert!(refused(&other, &[]).contains("unable to get local issuer certificate"));

    let text = |args: &[&str], path: &Path| Tool::new("openssl").args(args).arg(path).run().unwrap().text();
    let show = ["x509", "-noout", "-ext", "basicConstraints,keyUsage,extendedKeyUsage", "-in"];
    let flat = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(
        flat(text(&show, &ca)),
        "X509v3 Key Usage: critical Certificate Sign, CRL Sign X509v3 Basic Constraints: critical CA:TRUE, pathlen:0"
    );
    assert_eq!(
        flat(text(&show, &vip)),
        "X509v3 Key Usage: critical Digital Signature X509v3 Extended Key Usage: TLS Web Server Authentication, TLS Web Client \
         Authentication X509v3 Basic Constraints: critical CA:FALSE"
    );
    // The bundle has the certificate, and the key that goes with it.
    assert_eq!(text(&["x509", "-noout", "-pubkey", "-in"], &bundle), text(&["pkey", "-pubout", "-in"], &bundle));
}

#[test]
fn a_certificate_is_valid_from_yesterday_for_five_years_and_an_authority_for_twenty() {
    let folder = tempfile::tempdir().unwrap();
    let held = drawn(&[wanted("site-ca", SecretKind::Ca), signed("node", SecretKind::Certificate, "site-ca", &["localhost"])]);
    for (name, days) in [("site-ca", 20 * 365), ("node", 5 * 365)] {
        let file = write(&held, name, "certificate", folder.path(), 0o600);
        let ends_within = |days: i64| {
            let seconds = (days * 24 * 60 * 60).to_string();
            Tool::new("openssl").args(["x509", "-noout", "-checkend", &seconds, "-in"]).arg(&file).run().is_err()
        };
        assert!(!ends_within(days - 1) && ends_within(days + 1), "{name}");
        let ca = write(&held, "site-ca", "certificate", folder.path(), 0o600);
        let at = |time: u64| {
            let time = time.to_string();
            Tool::new("openssl").args(["verify", "-attime", &time, "-CAfile"]).arg(&ca).arg(&file).run().is_ok()
        };
        let now = now().unwrap();
        assert!(at(now - 23 * 3600) && !at(now - 25 * 3600), "{name}");
    }
}

#[test]
fn ssh_keygen_reads_host_keys_and_their_certificates() {
    let folder = tempfile::tempdir().unwrap();
    let held = drawn(&[
        wanted("ssh-ca", SecretKind::SshCa),
        signed("ssh-host", SecretKind::SshHost, "ssh-ca", &["controller01", "172.16.181.31"]),
    ]);
    let keygen =
        |args: &[&str], path: &Path| Tool::new("ssh-keygen").package("openssh-client").args(args).arg(path).run().unwrap().text();
    let file = |name, of| write(&held, name, of, folder.path(), 0o600);
    // The private key gives the public one.
    assert_eq!(keygen(&["-y", "-f"], &file("ssh-host", "key")), field(&held, "ssh-host", "public") + "\n");
    let authority = keygen(&["-l", "-f"], &file("ssh-ca", "public"));
    let authority = authority.split(' ').nth(1).unwrap();
    let shown = keygen(&["-L", "-f"], &file("ssh-host", "certificate"));
    let line = |what: &str| shown.lines().find(|line| line.contains(what)).unwrap_or_default().trim().to_string();
    assert_eq!(line("Type:"), "Type: ssh-ed25519-cert-v01@openssh.com host certificate");
    assert_eq!(line("Signing CA:"), format!("Signing CA: ED25519 {authority} (using ssh-ed25519)"));
    let names = shown.lines().skip_while(|line| !line.contains("Principals:")).skip(1).take(2).map(str::trim);
    assert_eq!(names.collect::<Vec<_>>(), ["controller01", "172.16.181.31"]);
}

#[test]
fn what_is_there_is_kept_and_a_new_node_gets_its_own() {
    let node =
        |name: &str| Wanted { node: Some(name.parse().unwrap()), ..signed("node", SecretKind::Certificate, "site-ca", &[name]) };
    let mut all = vec![wanted("nova", SecretKind::Password), wanted("site-ca", SecretKind::Ca), node("compute01")];
    let mut held = drawn(&all);
    let before = serde_json::to_value(&held).unwrap();
    assert_eq!(missing(&mut held, &all).unwrap(), Vec::<&Wanted>::new());
    assert_eq!(serde_json::to_value(&held).unwrap(), before);
    all.push(node("compute02"));
    assert_eq!(missing(&mut held, &all).unwrap(), [&node("compute02")]);
    let mut after = serde_json::to_value(&held).unwrap();
    let new = after["nodes"].as_object_mut().unwrap().remove("compute02").unwrap();
    assert_eq!(after, before);
    assert_eq!(new["node"]["names"], serde_json::json!(["compute02"]));
    assert!(held.get(Some("compute01"), "node") != held.get(Some("compute02"), "node"));
}

#[test]
fn a_kind_that_changed_is_not_drawn_over_silently() {
    let mut held = drawn(&[wanted("nova", SecretKind::Password)]);
    assert_eq!(
        missing(&mut held, &[wanted("nova", SecretKind::Fernet)]).err().unwrap().to_string(),
        "the secret nova was drawn as another kind than is declared now\n  next: run: ostack-image secrets rotate nova"
    );
}

#[test]
fn a_certificate_for_no_name_is_refused() {
    let mut held = Held::new("guide");
    let all = [wanted("site-ca", SecretKind::Ca), signed("vip", SecretKind::Certificate, "site-ca", &[])];
    assert_eq!(
        missing(&mut held, &all).err().unwrap().to_string(),
        "drawing the secret vip: it is for no name\n  next: give it a name that is there for this site: names = [\"…\"] in the overlay"
    );
}

#[test]
fn dummy_values_fill_every_placeholder_and_certificates_fit_their_authority() {
    let overlay = r#"
description = "x"
secret = [
    { name = "nova" },
    { name = "site-ca", kind = "ca" },
    { name = "node", kind = "certificate", per = "node", ca = "site-ca", names = ["{{ node.name }}"] },
]
"#;
    let source = crate::model::Source { file: Path::new("overlay.toml"), text: overlay };
    let overlay = source.toml::<crate::model::overlay::Overlay>().unwrap();
    let declared = |entry: &crate::model::secret::SecretEntry| {
        let one = crate::plan::secrets::Declared { entry: entry.clone(), file: "overlay.toml".into(), line: 1 };
        (entry.name.get_ref().clone(), one)
    };
    let declared: Secrets = overlay.secrets.iter().map(declared).collect();
    let file = b"@ostack-secret:nova:value@\n@ostack-secret:node:bundle@\n@ostack-secret:site-ca:certificate@\n";
    let values = dummy(&declared, &placeholder::references(file)).unwrap();
    let filled = String::from_utf8(placeholder::fill(file, &values).unwrap()).unwrap();
    assert!(!filled.contains("ostack-secret"), "{filled}");

    let folder = tempfile::tempdir().unwrap();
    let pem: Vec<&str> = filled.split_inclusive("-----END CERTIFICATE-----\n").collect();
    let (node, ca) = (folder.path().join("node"), folder.path().join("ca"));
    std::fs::write(&node, pem[0]).unwrap();
    std::fs::write(&ca, pem[1]).unwrap();
    Tool::new("openssl").args(["verify", "-verify_hostname", "localhost", "-CAfile"]).arg(&ca).arg(&node).run().unwrap();
}
