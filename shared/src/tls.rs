//! TLS as every client of a process speaks it: rustls on ring, the web's root certificates compiled in.
//!
//! Roots from the system would be read at each start (milliseconds of a cold start), and differ from machine to machine.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer};

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

/// HTTP/1.1 over TLS 1.2 and 1.3, trusting the web's roots and these.
pub fn http_client(extra_roots: Vec<CertificateDer<'static>>) -> Result<ClientConfig, InvalidTls> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    for root in extra_roots {
        roots.add(root).map_err(InvalidTls::RootCertificate)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(InvalidTls::Settings)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
