//! OpenSSH: authorities, and host keys with their certificates. Ed25519, which is in every OpenSSH since 6.5.

use super::draw::{text, time};
use crate::base::error::{Error, Result};
use crate::model::placeholder::Fields;
use ssh_key::certificate::{Builder, CertType};
use ssh_key::rand_core::OsRng;
use ssh_key::{Algorithm, LineEnding, PrivateKey};

/// An authority, ready to sign.
pub struct Authority(PrivateKey);

/// Draws an authority; its name is a comment in the public key.
///
/// # Errors
/// The library refuses.
pub fn authority(name: &str) -> Result<Fields> {
    fields(&draw(name)?)
}

impl Authority {
    /// Takes up an authority that was drawn before.
    ///
    /// # Errors
    /// The fields are no authority's.
    pub fn load(fields: &Fields) -> Result<Self> {
        PrivateKey::from_openssh(text(fields, "key")?).map(Self).map_err(failed)
    }

    /// Draws a host key and signs its certificate for these names and addresses.
    ///
    /// # Errors
    /// There is no name.
    pub fn sign(&self, names: &[String]) -> Result<Fields> {
        let first = names.first().ok_or_else(|| {
            // A certificate without names would be good for every host.
            Error::new("it is for no name").next("give it a name that is there for this site: names = [\"…\"] in the overlay")
        })?;
        let key = draw(first)?;
        let (from, until) = time::validity(time::CERTIFICATE_DAYS)?;
        let certificate = || {
            let mut builder = Builder::new_with_random_nonce(&mut OsRng, key.public_key(), from, until)?;
            builder.cert_type(CertType::Host)?.key_id(first)?.comment(first)?;
            for name in names {
                builder.valid_principal(name)?;
            }
            builder.sign(&self.0)?.to_openssh()
        };
        let mut fields = fields(&key)?;
        fields.insert("certificate".to_string(), certificate().map_err(failed)?.trim_end().to_string());
        Ok(fields)
    }
}

fn draw(comment: &str) -> Result<PrivateKey> {
    let mut key = PrivateKey::random(&mut OsRng, Algorithm::Ed25519).map_err(failed)?;
    key.set_comment(comment);
    Ok(key)
}

/// Without the last newline, which is the file's that they are put into.
fn fields(key: &PrivateKey) -> Result<Fields> {
    let public = key.public_key().to_openssh().map_err(failed)?;
    let private = key.to_openssh(LineEnding::LF).map_err(failed)?;
    let field = |name: &str, text: &str| (name.to_string(), text.trim_end().to_string());
    Ok(Fields::from([field("public", &public), field("key", &private)]))
}

fn failed(error: ssh_key::Error) -> Error {
    Error::new(error).next("rotate the authority: ostack-image secrets rotate NAME")
}
