//! X.509: authorities and the certificates that they sign. ECDSA on P-256, which every TLS library of the releases knows and
//! which thousands of nodes can have drawn in seconds.

use super::draw::{text, time};
use crate::base::error::{Error, Result};
use crate::model::placeholder::Fields;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use std::net::IpAddr;
use std::time::{Duration, UNIX_EPOCH};

/// An authority, ready to sign.
pub struct Authority(Issuer<'static, KeyPair>);

/// Draws an authority that signs itself.
///
/// # Errors
/// The library refuses.
pub fn authority(name: &str) -> Result<Fields> {
    let mut params = params(name, time::AUTHORITY_DAYS)?;
    // It signs certificates, and no further authorities.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let certificate = params.self_signed(&key).map_err(failed)?;
    Ok(fields(&certificate.pem(), &key))
}

impl Authority {
    /// Takes up an authority that was drawn before.
    ///
    /// # Errors
    /// The fields are no authority's.
    pub fn load(fields: &Fields) -> Result<Self> {
        let key = KeyPair::from_pem(text(fields, "key")?).map_err(failed)?;
        Issuer::from_ca_cert_pem(text(fields, "certificate")?, key).map(Self).map_err(failed)
    }

    /// Draws a key and signs its certificate for these names and addresses, as server and as client.
    ///
    /// # Errors
    /// There is no name, or one that no certificate can have.
    pub fn sign(&self, names: &[String]) -> Result<Fields> {
        let first = names.first().ok_or_else(|| {
            Error::new("it is for no name").next("give it a name that is there for this site: names = [\"…\"] in the overlay")
        })?;
        let mut params = params(first, time::CERTIFICATE_DAYS)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        for name in names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(name.as_str().try_into().map_err(|_| {
                    Error::new(format!("`{name}` is neither an address nor a host name"))
                        .next("correct names = […] in the overlay")
                })?),
            });
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let certificate = params.signed_by(&key, &self.0).map_err(failed)?;
        Ok(fields(&certificate.pem(), &key))
    }
}

fn params(name: &str, days: u64) -> Result<CertificateParams> {
    let (from, until) = time::validity(days)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = (UNIX_EPOCH + Duration::from_secs(from)).into();
    params.not_after = (UNIX_EPOCH + Duration::from_secs(until)).into();
    Ok(params)
}

/// Without the last newline, which is the file's that they are put into.
fn fields(certificate: &str, key: &KeyPair) -> Fields {
    let pem = |text: &str| text.trim_end().to_string();
    Fields::from([("certificate".to_string(), pem(certificate)), ("key".to_string(), pem(&key.serialize_pem()))])
}

fn failed(error: rcgen::Error) -> Error {
    Error::new(error).next("rotate the authority: ostack-image secrets rotate NAME")
}
