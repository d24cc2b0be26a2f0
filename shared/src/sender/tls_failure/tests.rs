use std::sync::Arc;

use rustls::pki_types::alg_id;

use super::*;

/// Every alert has a message without debug output.
#[test]
fn every_alert_has_a_message() {
    for number in 0..=u8::MAX {
        let sentence = describe(&Error::AlertReceived(AlertDescription::from(number)));
        assert!(
            sentence.starts_with("TLS: ")
                && sentence.contains(' ')
                && !sentence.contains("Unknown("),
            "{number}: {sentence}"
        );
        assert!(sentence.len() <= crate::model::MAX_ERROR_BYTES, "{sentence}");
    }
}

#[test]
fn an_algorithm_is_named_or_shown_as_an_oid() {
    let with = |bytes: &[u8]| {
        describe(&Error::InvalidCertificate(
            CertificateError::UnsupportedSignatureAlgorithmContext {
                signature_algorithm_id: bytes.to_vec(),
                supported_algorithms: vec![alg_id::ED25519],
            },
        ))
    };
    let sentence = |name: &str| {
        format!("TLS: the certificate is signed with an unsupported algorithm ({name})")
    };
    let sha1 = [6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 5, 5, 0];
    assert_eq!(with(&sha1), sentence("RSA with SHA-1"));
    assert_eq!(with(&[6, 3, 0x2b, 0x65, 0x71]), sentence("Ed448"));
    assert_eq!(with(&[6, 3, 0x88, 0x37, 3]), sentence("OID 2.999.3"));
    // Not an OID, an incomplete one, and a number that is too large.
    for bytes in [&[][..], &[6], &[6, 0], &[6, 9, 1], &[6, 2, 0xff, 0xff], &[5, 0]] {
        assert_eq!(with(bytes), sentence("unknown"), "{bytes:?}");
    }
    assert_eq!(with(&[&[6, 12][..], &[0xff; 11], &[1]].concat()), sentence("unknown"));
    let key = Error::InvalidCertificate(
        CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext {
            signature_algorithm_id: alg_id::ECDSA_SHA256.to_vec(),
            public_key_algorithm_id: [
                &[6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 5][..],
                &[0x2b, 0x81, 4, 0, 10],
            ]
            .concat(),
        },
    );
    let message = "TLS: the certificate has an unsupported type of key (an elliptic curve \
        other than P-256, P-384 and P-521)";
    assert_eq!(describe(&key), message);
}

/// Every certificate error of rustls has a message without debug output, such as words in camel
/// case.
#[test]
fn every_certificate_error_has_a_message() {
    let other = |error: webpki::Error| CertificateError::Other(OtherError(Arc::new(error)));
    for fault in [
        CertificateError::BadEncoding,
        CertificateError::Expired,
        CertificateError::NotValidYet,
        CertificateError::Revoked,
        CertificateError::UnhandledCriticalExtension,
        CertificateError::UnknownIssuer,
        CertificateError::UnknownRevocationStatus,
        CertificateError::BadSignature,
        CertificateError::NotValidForName,
        CertificateError::InvalidPurpose,
        CertificateError::ApplicationVerificationFailure,
        CertificateError::ExpiredContext {
            time: UnixTime::now(),
            not_after: UnixTime::since_unix_epoch(std::time::Duration::MAX),
        },
        CertificateError::NotValidForNameContext {
            expected: "a.example".try_into().unwrap(),
            presented: vec!["DirectoryName".to_owned(), "DnsName(\"".to_owned(), String::new()],
        },
        other(webpki::Error::CaUsedAsEndEntity),
        other(webpki::Error::EndEntityUsedAsCa),
        other(webpki::Error::NameConstraintViolation),
        other(webpki::Error::PathLenConstraintViolated),
        other(webpki::Error::MaximumSignatureChecksExceeded),
        other(webpki::Error::MalformedExtensions),
        other(webpki::Error::UnsupportedCertVersion),
        other(webpki::Error::InvalidSerialNumber),
        CertificateError::Other(OtherError(Arc::new(std::fmt::Error))),
    ] {
        let sentence = describe(&Error::InvalidCertificate(fault.clone()));
        let debug = format!("{fault:?}");
        let first = debug.split(|c: char| !c.is_alphanumeric()).next().unwrap();
        assert!(
            !sentence.contains(first) && !sentence.contains("Error") && sentence.len() > 20,
            "{sentence}"
        );
    }
}
