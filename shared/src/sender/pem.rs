//! Reads certificates and keys in PEM: authorities of the operator's own, and the certificate that
//! receivers are shown.

use std::sync::Arc;

use rustls::{
    InconsistentKeys,
    crypto::ring,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    sign::CertifiedKey,
};

use crate::config::{ClientCertificate, Pem};

const CA: &str = "WEBHOOK_CA_FILE";
const CERTIFICATE: &str = "WEBHOOK_CLIENT_CERT_FILE";
const KEY: &str = "WEBHOOK_CLIENT_KEY_FILE";

/// A setting whose PEM is of no use. Quotes the path, and nothing of the content.
#[derive(Debug, thiserror::Error)]
#[error("{variable} {fault}")]
pub struct InvalidPem {
    variable: &'static str,
    fault: String,
}

/// The certificates of `WEBHOOK_CA_FILE`. At least one.
pub(crate) fn authorities(pem: &Pem) -> Result<Vec<CertificateDer<'static>>, InvalidPem> {
    certificates(CA, pem)
}

/// What `WEBHOOK_CLIENT_CERT_FILE` and `WEBHOOK_CLIENT_KEY_FILE` are together.
pub(crate) fn identity(client: &ClientCertificate) -> Result<Arc<CertifiedKey>, InvalidPem> {
    let chain = certificates(CERTIFICATE, &client.certificate)?;
    let key = private_key(&client.key)?;
    let invalid = |variable, fault: &str| InvalidPem { variable, fault: fault.to_owned() };
    match CertifiedKey::from_der(chain, key, &ring::default_provider()) {
        Ok(identity) => Ok(Arc::new(identity)),
        Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            let fault = format!("is not the key of the first certificate in {CERTIFICATE}");
            Err(invalid(KEY, &fault))
        }
        Err(rustls::Error::InvalidCertificate(_)) => {
            Err(invalid(CERTIFICATE, "begins with a certificate that cannot be read"))
        }
        Err(_) => Err(invalid(
            KEY,
            "is not a key that can be used: it must be RSA of 2048 to 4096 bits, ECDSA on P-256 or \
             P-384, or Ed25519",
        )),
    }
}

fn certificates(
    variable: &'static str,
    pem: &Pem,
) -> Result<Vec<CertificateDer<'static>>, InvalidPem> {
    let text = read(variable, pem)?;
    let found = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    let fault = match found {
        Ok(found) if !found.is_empty() => return Ok(found),
        Ok(_) => "holds no certificate".to_owned(),
        Err(error) => format!("is not PEM: {}", describe(&error)),
    };
    let fault = format!(
        "{fault}{}; it must hold certificates, each from -----BEGIN CERTIFICATE----- on",
        place(pem)
    );
    Err(InvalidPem { variable, fault })
}

fn private_key(pem: &Pem) -> Result<PrivateKeyDer<'static>, InvalidPem> {
    let text = read(KEY, pem)?;
    let fault = match PrivateKeyDer::from_pem_slice(&text) {
        Ok(key) => return Ok(key),
        Err(_) if is_encrypted(&text) => {
            "holds an encrypted key; store it without its passphrase (openssl pkey -in FILE)"
                .to_owned()
        }
        Err(pem::Error::NoItemsFound) => {
            "holds no private key; it must hold one, from -----BEGIN PRIVATE KEY----- on".to_owned()
        }
        Err(error) => format!("is not PEM: {}", describe(&error)),
    };
    Err(InvalidPem { variable: KEY, fault: format!("{fault}{}", place(pem)) })
}

fn is_encrypted(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED")
}

fn read(variable: &'static str, pem: &Pem) -> Result<Vec<u8>, InvalidPem> {
    match pem {
        Pem::Text(text) => Ok(text.as_bytes().to_vec()),
        Pem::File(path) => std::fs::read(path).map_err(|error| {
            let fault = format!(
                "is '{}', which cannot be read ({error}); it must be the path of a file in PEM",
                path.display()
            );
            InvalidPem { variable, fault }
        }),
    }
}

/// Where the text stands, for a message.
fn place(pem: &Pem) -> String {
    match pem {
        Pem::Text(_) => String::new(),
        Pem::File(path) => format!(" (file '{}')", path.display()),
    }
}

/// What is wrong, without a quotation: the file may be a key.
fn describe(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a section has no -----END line",
        pem::Error::IllegalSectionStart { .. } => "a section's -----BEGIN line is malformed",
        pem::Error::Base64Decode(_) => "a section is not base64",
        _ => "it cannot be read",
    }
}

#[cfg(test)]
mod tests;
