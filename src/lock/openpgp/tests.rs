//! Debian's own keys, and the messages of the tiny archives in `tests/fixtures/archive`.

use super::*;
use std::path::{Path, PathBuf};

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn keyring(path: &str) -> Keyring {
    Keyring::read(&std::fs::read(file(path)).unwrap()).unwrap()
}

fn archive() -> Keyring {
    keyring("tests/fixtures/archive/archive.gpg")
}

fn message() -> String {
    std::fs::read_to_string(file("tests/fixtures/archive/debian/dists/stable/InRelease")).unwrap()
}

fn now() -> Moment {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn refused(keyring: &Keyring, message: &str) -> String {
    keyring.cleartext(message, now()).unwrap_err().to_string()
}

#[test]
fn the_keys_that_ship_sign_by_themselves_or_by_a_subkey_and_expire() {
    let said = |key: &Key| {
        let kind = match &key.public {
            Public::Rsa { n, .. } => format!("RSA {}", n.len() * 8),
            Public::Ed25519(_) => "Ed25519".to_string(),
            Public::Other(number) => number.to_string(),
        };
        let expires = key.expires.map(|at| Moment::at(at).to_string()).unwrap_or_default();
        format!("{} {kind} {}", shown(&key.id), &expires[..10])
    };
    let keys = keyring("recipes/keyrings/debian13.asc").keys;
    assert_eq!(
        keys.iter().map(said).collect::<Vec<_>>(),
        [
            "78DBA3BC47EF2265 RSA 4096 2035-03-28",
            "225629DF75B188BD RSA 4096 2035-03-28",
            "8E9F831205B4BA95 RSA 4096 2035-03-28",
            "9904613D4CCE68C6 RSA 4096 2035-03-28",
            "762F67A0B2C39DE4 Ed25519 2033-03-22",
        ]
    );
}

#[test]
fn a_text_that_was_signed_is_given_without_what_stands_around_it() {
    let text = archive().cleartext(&message(), now()).unwrap();
    assert!(text.starts_with("Suite: stable\nCodename: stable\nDate: "), "{text}");
    assert!(text.ends_with("main/binary-amd64/Packages\n"), "{text}");
    let followed = message() + "Suite: evil\n";
    assert_eq!(archive().cleartext(&followed, now()).unwrap(), text);
    let spaced = message().replace("Suite: stable\n", "Suite: stable \t\r\n");
    assert_eq!(archive().cleartext(&spaced, now()).unwrap(), text);
}

#[test]
fn a_text_that_was_changed_is_refused() {
    let changed = "the signature of the key 36A80EE219147E53 does not fit: it was changed after it was signed";
    assert_eq!(refused(&archive(), &message().replace("10:00:00", "10:00:01")), changed);
    assert_eq!(refused(&archive(), &message().replace("Suite: stable\n", "Suite: stable\n\n")), changed);
}

#[test]
fn a_text_by_strange_keys_is_refused_naming_them() {
    let stranger = keyring("tests/fixtures/archive/stranger.gpg");
    assert_eq!(refused(&stranger, &message()), "it is signed by the key 36A80EE219147E53, which is not in it");
    Keyring::joined([stranger, archive()]).cleartext(&message(), now()).unwrap();
}

#[test]
fn what_nobody_signed_is_refused() {
    let text = message();
    let (_, unsigned) = text.split_once("\n\n").unwrap();
    let (unsigned, _) = unsigned.split_once("-----BEGIN PGP SIGNATURE").unwrap();
    for text in [unsigned.to_string(), format!("evil\n{text}"), text.replace("Hash: ", "NotDashEscaped: ")] {
        assert_eq!(refused(&archive(), &text), "it is not signed");
    }
}

#[test]
fn a_key_that_has_expired_or_was_revoked_counts_no_more() {
    let mut keyring = archive();
    keyring.keys[0].expires = Some(now().unix());
    let words = "the key 36A80EE219147E53 that signed it counts no more since 2026-01-01T00:00:00Z";
    assert_eq!(refused(&keyring, &message()), words);
    keyring.keys[0].revoked = true;
    assert_eq!(refused(&keyring, &message()), "the key 36A80EE219147E53 that signed it was revoked");
}

#[test]
fn a_key_that_was_changed_is_no_key() {
    let mut bytes = std::fs::read(file("tests/fixtures/archive/archive.gpg")).unwrap();
    assert!(Keyring::read(&bytes[..bytes.len() - 1]).is_err());
    // The last byte of its name, which it certifies.
    let at = bytes.windows(7).position(|window| window == b"archive").unwrap() + 6;
    bytes[at] ^= 1;
    assert_eq!(Keyring::read(&bytes).unwrap_err().to_string(), "it has no public key that can sign");
    assert_eq!(Keyring::read(b"no key").unwrap_err().to_string(), "it is no OpenPGP");
}
