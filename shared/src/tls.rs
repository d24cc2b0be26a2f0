//! The TLS configuration of every client in the process: rustls on ring, with the web's root
//! certificates compiled in.
//!
//! Root certificates of the system would add milliseconds to each cold start and differ from
//! machine to machine.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};

/// The supported versions.
pub(crate) const VERSIONS: &[&SupportedProtocolVersion] =
    &[&rustls::version::TLS13, &rustls::version::TLS12];

/// Why TLS cannot be configured.
#[derive(Debug, thiserror::Error)]
pub enum InvalidTls {
    /// An extra root certificate is invalid.
    #[error("a root certificate cannot be read")]
    RootCertificate(#[source] rustls::Error),
    /// The TLS library rejects its settings.
    #[error("TLS cannot be set up")]
    Settings(#[source] rustls::Error),
}

/// HTTP/1.1 over TLS 1.2 and 1.3 with the web's root certificates, for services. `sender/trust.rs`
/// configures TLS for webhooks.
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

/// Offers only HTTP/1.1.
pub(crate) fn alpn() -> Vec<Vec<u8>> {
    vec![b"http/1.1".to_vec()]
}
