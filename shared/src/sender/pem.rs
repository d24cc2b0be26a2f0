//! Reads certificates and keys in PEM: additional CAs, and the client certificate.

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

/// A setting with invalid PEM. The message contains the path, but no content.
#[derive(Debug, thiserror::Error)]
#[error("{variable} {fault}")]
pub struct InvalidPem {
    variable: &'static str,
    fault: String,
}

/// The certificates of `WEBHOOK_CA_FILE`, at least one.
pub(crate) fn authorities(pem: &Pem) -> Result<Vec<CertificateDer<'static>>, InvalidPem> {
    certificates(CA, pem)
}

/// The client certificate of `WEBHOOK_CLIENT_CERT_FILE` and `WEBHOOK_CLIENT_KEY_FILE`.
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
            Err(invalid(CERTIFICATE, "begins with a certificate that cannot be parsed"))
        }
        Err(_) => Err(invalid(
            KEY,
            "is not a supported key. Use RSA with 2048 to 4096 bits, ECDSA on P-256 or P-384, or \
             Ed25519",
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
        Ok(_) => "contains no certificate".to_owned(),
        Err(error) => format!("is not PEM: {}", describe(&error)),
    };
    let fault = format!(
        "{fault}{}. It must contain certificates that begin with -----BEGIN CERTIFICATE-----",
        place(pem)
    );
    Err(InvalidPem { variable, fault })
}

fn private_key(pem: &Pem) -> Result<PrivateKeyDer<'static>, InvalidPem> {
    let text = read(KEY, pem)?;
    let fault = match PrivateKeyDer::from_pem_slice(&text) {
        Ok(key) => return Ok(key),
        Err(_) if is_encrypted(&text) => {
            "contains an encrypted key. Store the key without a passphrase (openssl pkey -in FILE)"
                .to_owned()
        }
        Err(pem::Error::NoItemsFound) => {
            "contains no private key. The key must begin with -----BEGIN PRIVATE \
             KEY-----"
                .to_owned()
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
                "is '{}', which cannot be read ({error}). Set it to the path of a PEM file",
                path.display()
            );
            InvalidPem { variable, fault }
        }),
    }
}

/// The file name for a message.
fn place(pem: &Pem) -> String {
    match pem {
        Pem::Text(_) => String::new(),
        Pem::File(path) => format!(" (file '{}')", path.display()),
    }
}

/// The error without a quotation, since the file can contain a key.
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
