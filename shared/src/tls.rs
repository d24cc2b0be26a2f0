//! TLS as every client of a process speaks it: rustls on ring, the web's root certificates compiled
//! in.
//!
//! Roots from the system would be read at each start (milliseconds of a cold start), and differ
//! from machine to machine.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};

/// The versions that are spoken.
pub(crate) const VERSIONS: &[&SupportedProtocolVersion] =
    &[&rustls::version::TLS13, &rustls::version::TLS12];

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum InvalidTls {
    /// One of the extra root certificates cannot be read.
    #[error("a root certificate cannot be read")]
    RootCertificate(#[source] rustls::Error),
    /// The TLS library refuses its settings.
    #[error("TLS cannot be set up")]
    Settings(#[source] rustls::Error),
}

/// HTTP/1.1 over TLS 1.2 and 1.3, trusting the web's roots. For services; webhooks have more to say
/// (`sender/trust.rs`).
pub fn http_client() -> Result<ClientConfig, InvalidTls> {
    let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(VERSIONS)
        .map_err(InvalidTls::Settings)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn();
    Ok(config)
}

/// HTTP/1.1 and nothing else.
pub(crate) fn alpn() -> Vec<Vec<u8>> {
    vec![b"http/1.1".to_vec()]
}
