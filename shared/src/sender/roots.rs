//! Further root certificates from a file, for destinations with a certification authority of their own.

use std::path::{Path, PathBuf};

use rustls::pki_types::{
    CertificateDer,
    pem::{self, PemObject},
};

/// The file of `WEBHOOK_CA_FILE` is of no use.
#[derive(Debug, thiserror::Error)]
#[error(
    "WEBHOOK_CA_FILE is '{}', but {fault}; it must be a file of certificates in PEM, each from -----BEGIN CERTIFICATE----- on",
    path.display()
)]
pub struct InvalidRoots {
    path: PathBuf,
    fault: String,
}

/// All certificates of the file; at least one.
pub(crate) fn read(path: &Path) -> Result<Vec<CertificateDer<'static>>, InvalidRoots> {
    let invalid = |fault: String| InvalidRoots { path: path.to_owned(), fault };
    let unreadable = |error: pem::Error| invalid(format!("it cannot be read: {error}"));
    let roots = CertificateDer::pem_file_iter(path).map_err(unreadable)?.collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
    if roots.is_empty() { Err(invalid("there is no certificate in it".to_owned())) } else { Ok(roots) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_read_and_what_is_none_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let certificates = ["a", "b"].map(|name| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap().cert);
        std::fs::write(&path, certificates.each_ref().map(rcgen::Certificate::pem).concat()).unwrap();
        assert_eq!(read(&path).unwrap(), certificates.each_ref().map(|certificate| certificate.der().clone()));

        for (content, says) in
            [("", "no certificate"), ("text", "no certificate"), ("-----BEGIN CERTIFICATE-----\n", "cannot be read")]
        {
            std::fs::write(&path, content).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains("WEBHOOK_CA_FILE") && error.contains(says), "{content}: {error}");
        }
        assert!(read(&folder.path().join("none")).unwrap_err().to_string().contains("cannot be read"));
    }
}
