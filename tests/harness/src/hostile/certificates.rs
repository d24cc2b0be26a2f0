//! A certificate authority, with valid and invalid certificates for 127.0.0.1.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::{
    RootCertStore, ServerConfig, SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tokio_rustls::TlsAcceptor;

/// The subject name of valid certificates.
const NAME: &str = "127.0.0.1";

/// The flaw of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// No flaw.
    None,
    /// It expired in 2001.
    Expired,
    /// It is valid from 2999.
    NotYetValid,
    /// It is for another name.
    OtherName,
    /// It is self-signed.
    SelfSigned,
    /// An untrusted authority signed it.
    OtherAuthority,
}

/// A certificate authority, for `WEBHOOK_CA_FILE`.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate with its key.
#[derive(Clone, Debug)]
pub struct Certificate {
    der: CertificateDer<'static>,
    pem: String,
    key: Arc<[u8]>,
    key_pem: String,
    /// Verifies client certificates, if they are required.
    client_verifier: Option<Arc<dyn ClientCertVerifier>>,
    versions: &'static [&'static SupportedProtocolVersion],
}

impl Authority {
    /// Creates an authority.
    pub fn new() -> Result<Self, rcgen::Error> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// Its certificate as PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Issues a certificate for 127.0.0.1 with this flaw.
    pub fn issue(&self, flaw: Flaw) -> Result<Certificate, rcgen::Error> {
        let name = if flaw == Flaw::OtherName { "other.example" } else { NAME };
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        match flaw {
            Flaw::Expired => params.not_after = date_time_ymd(2001, 1, 1),
            Flaw::NotYetValid => {
                (params.not_before, params.not_after) =
                    (date_time_ymd(2999, 1, 1), date_time_ymd(3000, 1, 1));
            }
            _ => {}
        }
        let key = KeyPair::generate()?;
        let certificate = match flaw {
            Flaw::SelfSigned => params.self_signed(&key)?,
            Flaw::OtherAuthority => params.signed_by(&key, &Self::new()?.issuer)?,
            _ => params.signed_by(&key, &self.issuer)?,
        };
        Ok(Certificate {
            der: certificate.der().clone(),
            pem: certificate.pem(),
            key: key.serialize_der().into(),
            key_pem: key.serialize_pem(),
            client_verifier: None,
            versions: rustls::DEFAULT_VERSIONS,
        })
    }
}

impl Certificate {
    /// Restricts servers with this certificate to TLS 1.2.
    #[must_use]
    pub fn only_tls12(self) -> Self {
        static ONLY: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS12];
        Self { versions: &ONLY, ..self }
    }

    /// Makes servers with this certificate require client certificates of this authority.
    pub fn asking_for(self, authority: &Authority) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(authority.pem().as_bytes())
            .map_err(|error| error.to_string())?;
        roots.add(root).map_err(|error| error.to_string())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
        Ok(Self { client_verifier: Some(verifier.map_err(|error| error.to_string())?), ..self })
    }

    /// The certificate as PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The private key as PEM.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// The acceptor of TLS connections with this certificate.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = PrivateKeyDer::Pkcs8(self.key.to_vec().into());
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(self.versions)
            .map(|builder| match &self.client_verifier {
                None => builder.with_no_client_auth(),
                Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
            })
            .and_then(|builder| builder.with_single_cert(vec![self.der.clone()], key));
        // Certificate and key are a valid pair.
        match config {
            Ok(config) => TlsAcceptor::from(Arc::new(config)),
            Err(error) => unreachable!("the certificate is not usable: {error}"),
        }
    }
}
