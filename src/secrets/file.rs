//! The file that keeps a site's secrets: JSON inside age (age-encryption.org/v1), which other age programs open too.
//!
//! ```text
//! age header      scrypt, or one X25519 stanza for each recipient
//! age payload     {"format":1,"site":"guide","recipients":[…],"shared":{NAME:{"kind":…,"fields":{…}}},"nodes":{NODE:{NAME:…}}}
//! ```
//!
//! Nothing is written that is not encrypted, not even for a moment: mode 0600, whole or not at all. Recipients are kept inside, so
//! that whoever can open the file can write it again for all of them.

use super::{FORMAT, Held};
use crate::base::error::{Context, Error, Result};
use crate::base::fs;
use age::secrecy::SecretString;
use age::{DecryptError, Decryptor, Encryptor, Identity, IdentityFile, Recipient, scrypt, x25519};
use std::io::{Read, Write};
use std::path::Path;

/// The file's name beside `site.toml`.
pub const NAME: &str = "secrets.age";
/// scrypt's work for a passphrase, as a power of two: a second and 256 MiB, as age's own program takes it.
const WORK: u8 = 18;
/// The most work that a file may ask for: 1 GiB.
const MAX_WORK: u8 = 20;
/// Characters of the shortest passphrase that a new file takes: the file may lie where many can read it.
pub const SHORTEST_PASSPHRASE: usize = 12;

/// What opens a file.
pub enum Key {
    /// A passphrase.
    Passphrase(SecretString),
    /// Identities of recipients.
    Identities(Vec<Box<dyn Identity + Send + Sync>>),
}

/// What a file is encrypted to.
pub enum Lock {
    /// A passphrase.
    Passphrase(SecretString),
    /// Recipients, `age1…` each; they are noted in [`Held::recipients`].
    Recipients(Vec<String>),
}

/// A file that is there and still encrypted.
pub struct Closed {
    bytes: Vec<u8>,
    name: String,
    /// Whether a passphrase opens it; else an identity does.
    pub by_passphrase: bool,
}

/// Reads a file without opening it.
///
/// # Errors
/// It cannot be read, or is no age file.
pub fn read(path: &Path) -> Result<Closed> {
    let bytes = fs::read(path)?;
    let by_passphrase = decryptor(&bytes).map_err(|error| error.at(path, None))?.is_scrypt();
    Ok(Closed { bytes, by_passphrase, name: path.display().to_string() })
}

fn decryptor(bytes: &[u8]) -> Result<Decryptor<&[u8]>> {
    Decryptor::new_buffered(bytes).map_err(|_| {
        Error::new("this is no file of secrets: it is not encrypted by age").next("name another one with --secrets FILE")
    })
}

impl Closed {
    /// Opens the file.
    ///
    /// # Errors
    /// The key is another one's, or what is inside is damaged or of a later version.
    pub fn open(&self, key: &Key) -> Result<Held> {
        self.decrypted(key).map_err(|error| error.at(&self.name, None))
    }

    fn decrypted(&self, key: &Key) -> Result<Held> {
        let decryptor = decryptor(&self.bytes)?;
        let opened = match key {
            Key::Passphrase(passphrase) => {
                let mut identity = scrypt::Identity::new(passphrase.clone());
                identity.set_max_work_factor(MAX_WORK);
                decryptor.decrypt(std::iter::once(&identity as &dyn Identity))
            }
            Key::Identities(identities) => {
                decryptor.decrypt(identities.iter().map(|identity| identity.as_ref() as &dyn Identity))
            }
        };
        let mut reader = opened.map_err(|error| refused(&error, key))?;
        let mut text = Vec::new();
        reader.read_to_end(&mut text).map_err(|_| {
            Error::new("it was changed after it was encrypted")
                .next("take a copy that is whole, from your version control or backup")
        })?;
        // serde's message could quote what it read.
        let held: Held = serde_json::from_slice(&text).map_err(|error| {
            Error::new(format!("what it encrypts is no list of secrets (line {}, column {})", error.line(), error.column()))
        })?;
        if held.format != FORMAT {
            return Err(Error::new(format!("it has the format {}, and this program knows {FORMAT}", held.format))
                .next("use the version of ostack-image that wrote it"));
        }
        Ok(held)
    }
}

fn refused(error: &DecryptError, key: &Key) -> Error {
    match (error, key) {
        (DecryptError::ExcessiveWork { required, .. }, _) => {
            Error::new(format!("it asks for 2^{required} of scrypt's work, more than 2^{MAX_WORK}"))
                .next("encrypt it anew with less")
        }
        (DecryptError::DecryptionFailed | DecryptError::NoMatchingKeys, Key::Passphrase(_)) => {
            Error::new("the passphrase does not open it").next("give the one that it was made with")
        }
        (DecryptError::NoMatchingKeys | DecryptError::DecryptionFailed, Key::Identities(_)) => {
            Error::new("no identity opens it").next("name the identity of one of its recipients with --identity FILE")
        }
        _ => Error::new("it is damaged").next("take a copy that is whole, from your version control or backup"),
    }
}

/// The identities in a file that `age-keygen` wrote.
///
/// # Errors
/// It cannot be read, or has none.
pub fn identities(path: &Path) -> Result<Vec<Box<dyn Identity + Send + Sync>>> {
    let bytes = fs::read(path)?;
    let parsed = IdentityFile::from_buffer(bytes.as_slice()).ok().and_then(|file| file.into_identities().ok());
    parsed.filter(|identities| !identities.is_empty()).ok_or_else(|| {
        Error::new("this is no file of age identities")
            .at(path, None)
            .next("name one that age-keygen wrote; it has a line AGE-SECRET-KEY-1…")
    })
}

/// Encrypts `held` and writes it.
///
/// # Errors
/// A recipient is none; the file cannot be written, and the old one is then untouched.
pub fn write(path: &Path, held: &mut Held, lock: &Lock) -> Result<()> {
    let encryptor = match lock {
        Lock::Passphrase(passphrase) => {
            held.recipients.clear();
            let mut recipient = scrypt::Recipient::new(passphrase.clone());
            recipient.set_work_factor(WORK);
            Encryptor::with_recipients(std::iter::once(&recipient as &dyn Recipient))
        }
        Lock::Recipients(names) => {
            let recipients = names.iter().map(|name| recipient(name)).collect::<Result<Vec<_>>>()?;
            held.recipients.clone_from(names);
            Encryptor::with_recipients(recipients.iter().map(|recipient| recipient as &dyn Recipient))
        }
    };
    let what = || format!("encrypting {}", path.display());
    let encryptor = encryptor.map_err(|error| Error::new(error).doing(what()))?;
    let mut file = fs::temporary_beside(path)?;
    let mut writer = encryptor.wrap_output(&mut file).doing(what)?;
    let text = serde_json::to_vec(held).map_err(|_| Error::new("the secrets are no JSON").doing(what()))?;
    writer.write_all(&text).doing(what)?;
    writer.finish().doing(what)?;
    fs::persist(file, path, 0o600)
}

fn recipient(name: &str) -> Result<x25519::Recipient> {
    name.parse().map_err(|error: &str| {
        Error::new(format!("`{name}` is no recipient: {error}")).next("write the public key that age-keygen printed: age1…")
    })
}
