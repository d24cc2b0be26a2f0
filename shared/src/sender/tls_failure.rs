//! The messages of TLS errors. None contains debug output of the library.
//!
//! A message quotes names from the certificate, with a length limit.

use rustls::{
    AlertDescription, CertificateError, Error, InvalidMessage, OtherError, PeerIncompatible,
    pki_types::UnixTime,
};

use super::trust::Untrusted;
use crate::model::truncated;

/// The maximum number of quoted names.
const MAX_NAMES: usize = 3;

/// The maximum length of a quoted name.
const MAX_NAME_BYTES: usize = 60;

/// The message of a TLS error.
pub(super) fn describe(error: &Error) -> String {
    let sentence = match error {
        Error::InvalidCertificate(fault) => of_certificate(fault),
        Error::InvalidMessage(
            InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
        ) => "the destination does not speak TLS on this port".to_owned(),
        Error::AlertReceived(alert) => of_alert(*alert),
        Error::PeerIncompatible(reason) => of_incompatible(reason).to_owned(),
        Error::NoCertificatesPresented => "the server sent no certificate".to_owned(),
        Error::InvalidMessage(_) | Error::PeerSentOversizedRecord => {
            "the server sent an invalid TLS message".to_owned()
        }
        Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. }
        | Error::PeerMisbehaved(_) => "the server violated the TLS protocol".to_owned(),
        Error::DecryptError => "a message from the server could not be decrypted".to_owned(),
        Error::NoApplicationProtocol => NO_HTTP.to_owned(),
        _ => "the handshake failed".to_owned(),
    };
    format!("TLS: {sentence}")
}

const NO_HTTP: &str = "the server does not offer HTTP/1.1 (ALPN)";

fn of_incompatible(reason: &PeerIncompatible) -> &'static str {
    use PeerIncompatible::{
        NoCertificateRequestSignatureSchemesInCommon, NoCipherSuitesInCommon, NoKxGroupsInCommon,
        ServerDoesNotSupportTls12Or13, ServerTlsVersionIsDisabledByOurConfig,
    };
    match reason {
        ServerDoesNotSupportTls12Or13 | ServerTlsVersionIsDisabledByOurConfig => NO_VERSION,
        NoCipherSuitesInCommon | NoKxGroupsInCommon => NO_CIPHER,
        NoCertificateRequestSignatureSchemesInCommon => {
            "the server supports no signature algorithm of the key in WEBHOOK_CLIENT_KEY_FILE"
        }
        _ => "the server and Posthaste have no TLS parameters in common",
    }
}

const NO_VERSION: &str = "no protocol version in common: the server must support TLS 1.2 or 1.3";
const NO_CIPHER: &str = "no cipher suite or key exchange in common with the server";

fn of_alert(alert: AlertDescription) -> String {
    use AlertDescription::{
        AccessDenied, BadCertificate, CertificateExpired, CertificateRequired, CertificateRevoked,
        CertificateUnknown, HandshakeFailure, InsufficientSecurity, InternalError,
        NoApplicationProtocol, NoCertificate, ProtocolVersion, UnknownCA, UnrecognisedName,
        UnsupportedCertificate,
    };
    let refused = |why| {
        format!(
            "the server rejected the client certificate ({why}). Check \
            WEBHOOK_CLIENT_CERT_FILE"
        )
    };
    match alert {
        CertificateRequired | NoCertificate => "the server requires a client certificate. Set \
            WEBHOOK_CLIENT_CERT_FILE and WEBHOOK_CLIENT_KEY_FILE"
            .to_owned(),
        BadCertificate => refused("invalid or missing"),
        CertificateExpired => refused("expired"),
        CertificateRevoked => refused("revoked"),
        CertificateUnknown => refused("not accepted"),
        UnsupportedCertificate => refused("unsupported type"),
        UnknownCA => refused("unknown issuer"),
        AccessDenied => refused("access denied"),
        ProtocolVersion => NO_VERSION.to_owned(),
        InsufficientSecurity => NO_CIPHER.to_owned(),
        HandshakeFailure => "the server rejected the handshake: it shares no cipher suite with \
            Posthaste, or requires a client certificate"
            .to_owned(),
        UnrecognisedName => "the server does not serve the host name of the URL".to_owned(),
        NoApplicationProtocol => NO_HTTP.to_owned(),
        InternalError => "the server had an internal error during the handshake".to_owned(),
        other => format!("the server rejected the handshake (TLS alert {})", u8::from(other)),
    }
}

fn of_certificate(fault: &CertificateError) -> String {
    use CertificateError::{
        BadEncoding, BadSignature, Expired, ExpiredContext, InvalidPurpose, InvalidPurposeContext,
        NotValidForName, NotValidForNameContext, NotValidYet, NotValidYetContext, Other, Revoked,
        UnhandledCriticalExtension, UnknownIssuer, UnsupportedSignatureAlgorithmContext,
        UnsupportedSignatureAlgorithmForPublicKeyContext,
    };
    match fault {
        ExpiredContext { not_after, .. } => {
            format!("the certificate expired on {}", date(*not_after))
        }
        Expired => "the certificate has expired".to_owned(),
        NotValidYetContext { not_before, .. } => {
            format!("the certificate is not valid before {}", date(*not_before))
        }
        NotValidYet => "the certificate is not valid yet".to_owned(),
        NotValidForNameContext { presented, .. } => of_names(presented),
        NotValidForName => "the certificate is for a different name".to_owned(),
        UnknownIssuer => "the certificate's issuer is not trusted".to_owned(),
        Revoked => "the certificate was revoked".to_owned(),
        BadEncoding => "the certificate cannot be parsed".to_owned(),
        BadSignature => "a signature does not match the key of the certificate or of its issuer \
            (a different key with the same name, or an RSA key of less than 2048 bits)"
            .to_owned(),
        UnhandledCriticalExtension => CRITICAL.to_owned(),
        InvalidPurpose | InvalidPurposeContext { .. } => {
            "the certificate is not valid for servers (extended key usage)".to_owned()
        }
        UnsupportedSignatureAlgorithmContext { signature_algorithm_id, .. } => {
            let algorithm = algorithm(signature_algorithm_id);
            format!("the certificate is signed with an unsupported algorithm ({algorithm})")
        }
        UnsupportedSignatureAlgorithmForPublicKeyContext { public_key_algorithm_id, .. } => {
            let key = algorithm(public_key_algorithm_id);
            format!("the certificate has an unsupported type of key ({key})")
        }
        Other(other) => of_other(other),
        _ => NOT_VALID.to_owned(),
    }
}

const NOT_VALID: &str = "the certificate is not valid";
const CRITICAL: &str = "the certificate has an unsupported critical extension";

fn of_other(OtherError(error): &OtherError) -> String {
    use webpki::Error::{
        CaUsedAsEndEntity, EndEntityUsedAsCa, MalformedDnsIdentifier, MalformedExtensions,
        MaximumNameConstraintComparisonsExceeded, MaximumPathBuildCallsExceeded,
        MaximumPathDepthExceeded, MaximumSignatureChecksExceeded, NameConstraintViolation,
        PathLenConstraintViolated, UnsupportedCertVersion, UnsupportedCriticalExtension,
    };
    if let Some(reason) = error.downcast_ref() {
        return of_untrusted(reason);
    }
    let sentence = match error.downcast_ref::<webpki::Error>() {
        Some(CaUsedAsEndEntity) => "the certificate is a CA certificate, not a server certificate",
        Some(EndEntityUsedAsCa) => "the certificate's issuer is not a CA",
        Some(NameConstraintViolation) => {
            "the certificate's issuer is not allowed to sign for \
            this name"
        }
        Some(PathLenConstraintViolated | MaximumPathDepthExceeded) => {
            "the certificate chain is too long"
        }
        Some(
            MaximumNameConstraintComparisonsExceeded
            | MaximumPathBuildCallsExceeded
            | MaximumSignatureChecksExceeded,
        ) => "the certificate chain is too complex",
        Some(MalformedDnsIdentifier | MalformedExtensions) => "the certificate is malformed",
        Some(UnsupportedCertVersion) => "the certificate is not X.509 version 3",
        Some(UnsupportedCriticalExtension) => CRITICAL,
        _ => NOT_VALID,
    };
    sentence.to_owned()
}

fn of_untrusted(reason: &Untrusted) -> String {
    let quoted = |name: &Option<String>| match name {
        Some(name) => format!(" \"{}\"", truncated(name, MAX_NAME_BYTES)),
        None => String::new(),
    };
    match reason {
        Untrusted::SelfSigned => {
            "the certificate is self-signed. To trust it, add it to WEBHOOK_CA_FILE".to_owned()
        }
        Untrusted::IntermediateMissing(issuer) => format!(
            "the server did not send its intermediate certificate, and the issuer{} is not a \
             trusted CA. To trust it, add it to WEBHOOK_CA_FILE",
            quoted(issuer)
        ),
        Untrusted::UnknownAuthority(authority) => {
            format!(
                "the certificate's CA{} is not trusted. To trust it, add it to WEBHOOK_CA_FILE",
                quoted(authority)
            )
        }
        Untrusted::IntermediateExpired(not_after) => {
            format!("an intermediate certificate from the server expired on {}", date(*not_after))
        }
    }
}

/// The message for a wrong name, with the names in the certificate. The library formats them as
/// `DnsName("a.example")` and `IpAddress(192.0.2.1)`.
fn of_names(presented: &[String]) -> String {
    if presented.is_empty() {
        return "the certificate contains no host name (no subjectAltName)".to_owned();
    }
    let plain = presented.iter().map(|name| {
        let inner = name.split_once('(').map_or(name.as_str(), |(_, inner)| inner);
        truncated(inner.trim_end_matches(')').trim_matches('"'), MAX_NAME_BYTES)
    });
    let mut names = plain.take(MAX_NAMES).collect::<Vec<_>>().join(", ");
    if presented.len() > MAX_NAMES {
        names = format!("{names} and {} more", presented.len() - MAX_NAMES);
    }
    format!("the certificate is for a different name: {names}")
}

/// Formats a date and time.
fn date(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    match jiff::Timestamp::from_second(seconds) {
        Ok(time) => time.strftime("%Y-%m-%d at %H:%M:%S UTC").to_string(),
        Err(_) => "an unknown date".to_owned(),
    }
}

/// The name of an algorithm, or its object identifier (OID). `id` begins with the OID in DER.
fn algorithm(id: &[u8]) -> String {
    let Some(oid) = oid(id) else { return "unknown".to_owned() };
    let name = match oid.as_str() {
        "1.2.840.113549.1.1.4" => "RSA with MD5",
        "1.2.840.113549.1.1.5" => "RSA with SHA-1",
        "1.2.840.113549.1.1.10" => "RSA-PSS",
        "1.2.840.10045.4.1" => "ECDSA with SHA-1",
        "1.2.840.10045.2.1" => "an elliptic curve other than P-256, P-384 and P-521",
        "1.2.840.10040.4.1" | "1.2.840.10040.4.3" | "2.16.840.1.101.3.4.3.2" => "DSA",
        "1.3.101.113" => "Ed448",
        _ => return format!("OID {}", truncated(&oid, MAX_NAME_BYTES)),
    };
    name.to_owned()
}

/// Reads an object identifier (X.690, 8.19).
fn oid(der: &[u8]) -> Option<String> {
    let [6, length, rest @ ..] = der else { return None };
    let mut arcs: Vec<u64> = Vec::new();
    let mut arc = 0_u64;
    for byte in rest.get(..usize::from(*length))? {
        arc = arc.checked_mul(128)? | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            arcs.push(arc);
            arc = 0;
        }
    }
    // The first number encodes two arcs.
    let first = *arcs.first()?;
    let root = (first / 40).min(2);
    let mut text = format!("{root}.{}", first - root * 40);
    for arc in &arcs[1..] {
        text.extend([".", &arc.to_string()]);
    }
    Some(text)
}

#[cfg(test)]
mod tests;
