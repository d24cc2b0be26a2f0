use std::path::Path;

use rcgen::{CertifiedKey as Made, KeyPair, generate_simple_self_signed};

use super::*;

fn make(name: &str) -> Made<KeyPair> {
    generate_simple_self_signed([name.to_owned()]).unwrap()
}

/// The PEM as a text and as a file.
fn both(folder: &Path, text: &str) -> [Pem; 2] {
    let path = folder.join("file.pem");
    std::fs::write(&path, text).unwrap();
    [Pem::Text(text.to_owned()), Pem::File(path)]
}

#[test]
fn certificates_are_read_and_invalid_ones_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let made = ["a", "b"].map(make);
    let text = made.each_ref().map(|made| made.cert.pem()).concat();
    for pem in both(folder.path(), &text) {
        assert_eq!(authorities(&pem).unwrap(), made.each_ref().map(|made| made.cert.der().clone()));
    }
    let key = made[0].signing_key.serialize_pem();
    for (content, says) in [
        ("", "contains no certificate"),
        ("text", "contains no certificate"),
        (&*key, "contains no certificate"),
        ("-----BEGIN CERTIFICATE-----\n", "has no -----END line"),
        ("-----BEGIN CERTIFICATE-----\n*\n-----END CERTIFICATE-----\n", "is not base64"),
    ] {
        for pem in both(folder.path(), content) {
            let error = authorities(&pem).unwrap_err().to_string();
            assert!(
                error.starts_with("WEBHOOK_CA_FILE ") && error.contains(says),
                "{content}: {error}"
            );
        }
    }
}

/// Each error names its variable and its file.
#[test]
fn a_missing_file_is_reported_with_its_variable() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("none");
    let missing = || Pem::File(path.clone());
    let ours = make("ours");
    let certificate = Pem::Text(ours.cert.pem());
    let client = |certificate, key| identity(&ClientCertificate { certificate, key });
    for (error, variable) in [
        (authorities(&missing()).unwrap_err(), "WEBHOOK_CA_FILE"),
        (client(missing(), missing()).unwrap_err(), "WEBHOOK_CLIENT_CERT_FILE"),
        (client(certificate, missing()).unwrap_err(), "WEBHOOK_CLIENT_KEY_FILE"),
    ] {
        let error = error.to_string();
        let says = format!("{variable} is '{}', which cannot be read", path.display());
        assert!(error.starts_with(&says), "{error}");
    }
}

#[test]
fn a_certificate_and_its_key_belong_together() {
    let (ours, other) = (make("ours"), make("other"));
    let of = |certificate: &str, key: &str| {
        let [certificate, key] = [certificate, key].map(|text| Pem::Text(text.to_owned()));
        identity(&ClientCertificate { certificate, key })
    };
    let (certificate, key) = (ours.cert.pem(), ours.signing_key.serialize_pem());
    let found = of(&format!("{certificate}{}", other.cert.pem()), &key).unwrap();
    assert_eq!(found.cert, [ours.cert.der().clone(), other.cert.der().clone()]);
    // One file can contain both.
    let one_file = format!("{key}{certificate}");
    assert!(of(&one_file, &one_file).is_ok());

    let on_p521 = std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/sender/certificates/P-521-sha512.key"
    ))
    .unwrap();
    let encrypted = key.replace(" PRIVATE", " ENCRYPTED PRIVATE");
    for (certificate, key, variable, says) in [
        (
            &*certificate,
            &*other.signing_key.serialize_pem(),
            KEY,
            "is not the key of the first certificate",
        ),
        (&certificate, "", KEY, "contains no private key"),
        (&certificate, &certificate, KEY, "contains no private key"),
        (&certificate, &encrypted, KEY, "encrypted"),
        (&certificate, &on_p521, KEY, "is not a supported key"),
        (
            &certificate,
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            KEY,
            "is not a supported key",
        ),
        (&key, &key, CERTIFICATE, "contains no certificate"),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            &key,
            CERTIFICATE,
            "cannot be parsed",
        ),
    ] {
        let error = of(certificate, key).unwrap_err();
        assert!(error.variable == variable && error.fault.contains(says), "{error}");
        assert!(!error.to_string().contains("MII"), "quotes the file: {error}");
    }
}
