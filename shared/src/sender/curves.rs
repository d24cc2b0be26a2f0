//! Verifies ECDSA signatures that ring does not support: with P-521 keys, and with SHA-512.
//!
//! It is slower than ring, and is used only for certificates that require it.

use std::sync::LazyLock;

use rustls::{
    SignatureScheme,
    crypto::{WebPkiSupportedAlgorithms, ring},
    pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, alg_id},
};
use sha2::{Digest, Sha256, Sha384, Sha512};

type Algorithm = &'static dyn SignatureVerificationAlgorithm;

/// The algorithms of ring and of this module.
pub(super) fn supported() -> WebPkiSupportedAlgorithms {
    static ALL: LazyLock<Vec<Algorithm>> = LazyLock::new(|| {
        let of_ring = ring::default_provider().signature_verification_algorithms.all;
        [of_ring, &[P256_SHA512, P384_SHA512, P521_SHA256, P521_SHA384, P521_SHA512]].concat()
    });
    static MAPPING: LazyLock<Vec<(SignatureScheme, &'static [Algorithm])>> = LazyLock::new(|| {
        let mut mapping =
            ring::default_provider().signature_verification_algorithms.mapping.to_vec();
        // TLS 1.3 uses the first algorithm of a scheme. In TLS 1.2, a scheme does not specify the
        // curve.
        mapping.push((
            SignatureScheme::ECDSA_NISTP521_SHA512,
            &[P521_SHA512, P384_SHA512, P256_SHA512],
        ));
        mapping
    });
    WebPkiSupportedAlgorithms { all: &ALL, mapping: &MAPPING }
}

const P256_SHA512: Algorithm =
    &Ecdsa { key: alg_id::ECDSA_P256, signature: alg_id::ECDSA_SHA512, verify: p256 };
const P384_SHA512: Algorithm =
    &Ecdsa { key: alg_id::ECDSA_P384, signature: alg_id::ECDSA_SHA512, verify: p384 };
const P521_SHA256: Algorithm =
    &Ecdsa { key: alg_id::ECDSA_P521, signature: alg_id::ECDSA_SHA256, verify: p521 };
const P521_SHA384: Algorithm =
    &Ecdsa { key: alg_id::ECDSA_P521, signature: alg_id::ECDSA_SHA384, verify: p521 };
const P521_SHA512: Algorithm =
    &Ecdsa { key: alg_id::ECDSA_P521, signature: alg_id::ECDSA_SHA512, verify: p521 };

/// Verifies the signature (DER) of a hash with a public key (SEC 1). `None` if it is invalid.
type Verify = fn(public_key: &[u8], hash: &[u8], signature: &[u8]) -> Option<()>;

#[derive(Debug)]
struct Ecdsa {
    key: AlgorithmIdentifier,
    signature: AlgorithmIdentifier,
    verify: Verify,
}

impl SignatureVerificationAlgorithm for Ecdsa {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let hash = if self.signature == alg_id::ECDSA_SHA256 {
            Sha256::digest(message).to_vec()
        } else if self.signature == alg_id::ECDSA_SHA384 {
            Sha384::digest(message).to_vec()
        } else {
            Sha512::digest(message).to_vec()
        };
        (self.verify)(public_key, &hash, signature).ok_or(InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.key
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.signature
    }
}

fn p256(public_key: &[u8], hash: &[u8], signature: &[u8]) -> Option<()> {
    use p256::ecdsa::{Signature, VerifyingKey, signature::hazmat::PrehashVerifier};
    let key = VerifyingKey::from_sec1_bytes(public_key).ok()?;
    key.verify_prehash(hash, &Signature::from_der(signature).ok()?).ok()
}

fn p384(public_key: &[u8], hash: &[u8], signature: &[u8]) -> Option<()> {
    use p384::ecdsa::{Signature, VerifyingKey, signature::hazmat::PrehashVerifier};
    let key = VerifyingKey::from_sec1_bytes(public_key).ok()?;
    key.verify_prehash(hash, &Signature::from_der(signature).ok()?).ok()
}

fn p521(public_key: &[u8], hash: &[u8], signature: &[u8]) -> Option<()> {
    use p521::ecdsa::{Signature, VerifyingKey, signature::hazmat::PrehashVerifier};
    /// Bytes of a field element.
    const FIELD_BYTES: usize = 66;
    // The library refuses hashes that are shorter than half the field. Leading zeros do not change
    // the number.
    let mut padded = [0; FIELD_BYTES];
    padded.get_mut(FIELD_BYTES.checked_sub(hash.len())?..)?.copy_from_slice(hash);
    let key = VerifyingKey::from_sec1_bytes(public_key).ok()?;
    key.verify_prehash(&padded, &Signature::from_der(signature).ok()?).ok()
}
