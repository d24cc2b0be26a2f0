//! The TLS configuration: trusted certificates, and the client certificate.
//!
//! The sender trusts the web's root certificates, and every certificate of `WEBHOOK_CA_FILE` in two
//! ways: as a CA that signs other certificates, and as the certificate of a server. The second way
//! is for self-signed certificates, which are often marked as CA certificates and would otherwise
//! be invalid for servers. Name and validity are checked in both cases.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore,
    SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
    sign::{CertifiedKey, SingleCertAndKey},
};

use super::curves;
use crate::tls::{self, InvalidTls};

/// The client configuration for HTTP/1.1 over TLS 1.2 and 1.3.
pub(super) fn client(
    listed: Vec<CertificateDer<'static>>,
    identity: Option<Arc<CertifiedKey>>,
) -> Result<ClientConfig, InvalidTls> {
    let provider = Arc::new(CryptoProvider {
        signature_verification_algorithms: curves::supported(),
        ..ring::default_provider()
    });
    let verifier = Arc::new(Verifier::new(listed, &provider)?);
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(tls::VERSIONS)
        .map_err(InvalidTls::Settings)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity)))
        }
    };
    config.alpn_protocols = tls::alpn();
    Ok(config)
}

/// Wraps the verifier of rustls. Accepts listed certificates and adds reasons to errors.
#[derive(Debug)]
struct Verifier {
    authorities: Arc<WebPkiServerVerifier>,
    listed: Vec<CertificateDer<'static>>,
}

impl Verifier {
    fn new(
        listed: Vec<CertificateDer<'static>>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, InvalidTls> {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        for certificate in &listed {
            roots.add(certificate.clone()).map_err(InvalidTls::RootCertificate)?;
        }
        let authorities =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
                .build()
                .map_err(|error| InvalidTls::Settings(Error::General(error.to_string())))?;
        Ok(Self { authorities, listed })
    }

    /// Verifies a certificate that is listed itself. Its issuer does not matter.
    fn verify_listed(
        &self,
        certificate: &CertificateDer<'_>,
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.authorities.verify_server_cert(certificate, &[], name, &[], now) {
            // rustls checks the validity before it reports these errors of the issuer.
            Err(Error::InvalidCertificate(fault)) if is_of_signer(&fault) => {
                verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }
}

/// Whether the only error is an untrusted issuer.
fn is_of_signer(fault: &CertificateError) -> bool {
    match fault {
        CertificateError::UnknownIssuer
        | CertificateError::BadSignature
        | CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => true,
        CertificateError::Other(other) => marks_authority(other),
        _ => false,
    }
}

/// Whether the error is that the certificate is marked as a CA certificate.
fn marks_authority(OtherError(error): &OtherError) -> bool {
    matches!(error.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.listed.contains(end_entity) {
            return self.verify_listed(end_entity, server_name, now);
        }
        let verify = |intermediates| {
            let verifier = &self.authorities;
            verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        };
        let Err(error) = verify(intermediates) else {
            return Ok(ServerCertVerified::assertion());
        };
        let Error::InvalidCertificate(fault) = &error else { return Err(error) };
        let explained = match fault {
            CertificateError::UnknownIssuer => explain(end_entity, intermediates),
            // A different certificate with the same name can be listed.
            fault if is_of_signer(fault) => {
                explain(end_entity, intermediates).filter(|it| *it == Untrusted::SelfSigned)
            }
            CertificateError::ExpiredContext { not_after, .. } => {
                // Without the intermediates, the same error comes from the end entity.
                let own = verify(&[]);
                let is_own = matches!(own, Err(Error::InvalidCertificate(own)) if own == *fault);
                (!is_own).then_some(Untrusted::IntermediateExpired(*not_after))
            }
            _ => None,
        };
        Err(match explained {
            Some(reason) => CertificateError::Other(OtherError(Arc::new(reason))).into(),
            None => error,
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.supported_verify_schemes()
    }
}

/// Why a certificate is not trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the certificate is not trusted")]
pub(super) enum Untrusted {
    /// The certificate is its own issuer.
    SelfSigned,
    /// The server did not send the certificate of the issuer, which has this name.
    IntermediateMissing(Option<String>),
    /// The chain ends at this CA, which is not trusted.
    UnknownAuthority(Option<String>),
    /// The certificate is valid, but an intermediate certificate expired at this time.
    IntermediateExpired(UnixTime),
}

/// Follows the chain that the server sent. `None` if a certificate cannot be parsed.
fn explain(
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> Option<Untrusted> {
    let leaf = webpki::EndEntityCert::try_from(end_entity).ok()?;
    if leaf.issuer() == leaf.subject() {
        return Some(Untrusted::SelfSigned);
    }
    // The issuer and the subject of each certificate.
    let sent: Vec<(Vec<u8>, Vec<u8>)> = intermediates
        .iter()
        .filter_map(|sent| webpki::EndEntityCert::try_from(sent).ok())
        .map(|sent| (sent.issuer().to_vec(), sent.subject().to_vec()))
        .collect();
    let mut issuer = leaf.issuer();
    for depth in 0..=sent.len() {
        let next = sent.iter().find(|(_, subject)| subject == issuer);
        match next {
            Some((above, subject)) if above != subject => issuer = above,
            None if depth == 0 => return Some(Untrusted::IntermediateMissing(common_name(issuer))),
            _ => break,
        }
    }
    Some(Untrusted::UnknownAuthority(common_name(issuer)))
}

/// The common name, or else the organisation, from the DER encoding of a name.
fn common_name(name: &[u8]) -> Option<String> {
    const ATTRIBUTES: [[u8; 5]; 2] = [[6, 3, 0x55, 4, 3], [6, 3, 0x55, 4, 10]];
    // UTF8String, PrintableString, T61String, and IA5String.
    const TEXTS: [u8; 4] = [0x0c, 0x13, 0x14, 0x16];
    ATTRIBUTES.iter().find_map(|attribute| {
        let at = name.windows(attribute.len()).position(|window| window == attribute)?;
        let [tag, length, rest @ ..] = &name[at + attribute.len()..] else { return None };
        let text = rest.get(..usize::from(*length))?;
        // Names have at most 64 characters (RFC 5280). Lengths from 128 use another encoding.
        (TEXTS.contains(tag) && *length < 0x80).then(|| String::from_utf8_lossy(text).into_owned())
    })
}
