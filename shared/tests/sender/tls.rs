//! TLS with real servers: trusted certificates, client certificates, and error messages.

use std::sync::Arc;

use p521::ecdsa::signature::Signer as _;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use rustls::{
    RootCertStore, ServerConfig, SignatureAlgorithm, SignatureScheme, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
    sign::{CertifiedKey, Signer, SigningKey, SingleCertAndKey},
    version::{TLS12, TLS13},
};
use shared::{
    model::{ErrorKind, MAX_ERROR_BYTES},
    sender::{Answer, HttpSender, SenderConfig},
};
use tokio::{io::AsyncWriteExt, net::TcpListener};

use super::{Reply, Server, assert_delivered, assert_failed, config, send, sender};

const NAME: &str = "hooks.example";

const BAD_SIGNATURE: &str = "a signature does not match the key of the certificate or of its \
    issuer (a different key with the same name, or an RSA key of less than 2048 bits)";

/// A certificate, its key, and the certificates sent with it.
struct Chain {
    certificates: Vec<CertificateDer<'static>>,
    key: KeyPair,
}

impl Chain {
    fn leaf(&self) -> CertificateDer<'static> {
        self.certificates[0].clone()
    }

    /// The same chain with additional certificates.
    fn with(mut self, further: &[&CertificateDer<'static>]) -> Self {
        self.certificates.extend(further.iter().map(|&it| it.clone()));
        self
    }

    fn certified(&self) -> CertifiedKey {
        let key = PrivateKeyDer::Pkcs8(self.key.serialize_der().into());
        CertifiedKey::new(self.certificates.clone(), ring::sign::any_supported_type(&key).unwrap())
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, format!("server {name}"));
    params
}

fn self_signed(params: &CertificateParams) -> Chain {
    let key = KeyPair::generate().unwrap();
    Chain { certificates: vec![params.self_signed(&key).unwrap().der().clone()], key }
}

/// A root or intermediate CA.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Authority {
    fn new(name: &str) -> Self {
        Self::make(name, None, |_| ())
    }

    fn make(name: &str, above: Option<&Self>, change: impl Fn(&mut CertificateParams)) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = match above {
            None => params.self_signed(&key),
            Some(above) => params.signed_by(&key, &above.issuer),
        };
        let certificate = certificate.unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    fn issue(&self, params: &CertificateParams) -> Chain {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Chain { certificates: vec![certificate.der().clone()], key }
    }
}

fn server_config(
    certified: CertifiedKey,
    versions: &[&'static SupportedProtocolVersion],
) -> ServerConfig {
    ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
}

async fn send_to(server: ServerConfig, sender: SenderConfig) -> Answer {
    let server = Server::start_tls(vec![Reply::status(200)], server).await;
    send(&HttpSender::new(sender).unwrap(), &format!("https://{NAME}:{}/", server.address.port()))
        .await
}

/// The result of an attempt at a server with this chain. `listed` are the certificates of
/// `WEBHOOK_CA_FILE`.
async fn send_tls(chain: &Chain, listed: &[&CertificateDer<'static>]) -> Answer {
    let mut config = config(true);
    config.extra_roots = listed.iter().map(|&certificate| certificate.clone()).collect();
    send_to(server_config(chain.certified(), rustls::DEFAULT_VERSIONS), config).await
}

#[track_caller]
fn assert_refused(answer: &Answer, message: &str) {
    assert_failed(answer, ErrorKind::Tls, &format!("TLS: {message}"));
    assert!(answer.message.as_ref().unwrap().len() < MAX_ERROR_BYTES, "cut off: {answer:?}");
}

/// `openssl req -x509` marks a self-signed certificate as a CA certificate. Other tools do not.
#[tokio::test]
async fn a_listed_certificate_is_trusted_as_itself() {
    let mut as_authority = params(NAME);
    as_authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let mut as_none = params(NAME);
    as_none.is_ca = IsCa::ExplicitNoCa;
    let unknown = Authority::new("Unknown");
    let mut as_intermediate = as_authority.clone();
    as_intermediate.not_before = date_time_ymd(2020, 1, 1);
    for chain in [
        self_signed(&as_authority),
        self_signed(&as_none),
        self_signed(&params(NAME)),
        unknown.issue(&params(NAME)),
        unknown.issue(&as_intermediate),
    ] {
        assert_delivered(&send_tls(&chain, &[&chain.leaf()]).await, 200);
    }
    // Only exactly the listed one: the other has its names, and another key.
    for params in [as_authority, as_none, params(NAME)] {
        let (listed, other) = (self_signed(&params), self_signed(&params));
        let message = "the certificate is self-signed. To trust it, add it to WEBHOOK_CA_FILE";
        assert_refused(&send_tls(&other, &[&listed.leaf()]).await, message);
    }
    // The same of an authority: this one has the name of the listed one.
    let chain = Authority::new("Root").issue(&params(NAME));
    assert_refused(&send_tls(&chain, &[&Authority::new("Root").certificate]).await, BAD_SIGNATURE);
}

#[tokio::test]
async fn of_a_listed_certificate_name_and_validity_are_checked() {
    for is_ca in [IsCa::Ca(BasicConstraints::Unconstrained), IsCa::ExplicitNoCa] {
        let of = |name: &str, change: fn(&mut CertificateParams)| {
            let mut params = params(name);
            params.is_ca = is_ca;
            change(&mut params);
            self_signed(&params)
        };
        let other = of("other.example", |_| ());
        let message = "the certificate is for a different name: other.example";
        assert_refused(&send_tls(&other, &[&other.leaf()]).await, message);
        let expired = of(NAME, |params| params.not_after = date_time_ymd(2001, 2, 3));
        let message = "the certificate expired on 2001-02-03 at 00:00:00 UTC";
        assert_refused(&send_tls(&expired, &[&expired.leaf()]).await, message);
        let early = of(NAME, |params| {
            (params.not_before, params.not_after) =
                (date_time_ymd(2999, 1, 1), date_time_ymd(3000, 1, 1));
        });
        let message = "the certificate is not valid before 2999-01-01 at 00:00:00 UTC";
        assert_refused(&send_tls(&early, &[&early.leaf()]).await, message);
    }
}

#[tokio::test]
async fn a_listed_authority_signs_for_others() {
    let root = Authority::new("Root");
    let intermediate = Authority::make("Intermediate", Some(&root), |_| ());
    let chain = intermediate.issue(&params(NAME)).with(&[&intermediate.certificate]);
    assert_delivered(&send_tls(&chain, &[&root.certificate]).await, 200);
    // An intermediate that is listed is an authority, too.
    assert_delivered(
        &send_tls(&intermediate.issue(&params(NAME)), &[&intermediate.certificate]).await,
        200,
    );
}

#[tokio::test]
async fn a_missing_intermediate_certificate_is_reported() {
    let root = Authority::new("Root");
    let intermediate = Authority::make("Intermediate R7", Some(&root), |_| ());
    let alone = intermediate.issue(&params(NAME));
    let message = "the server did not send its intermediate certificate, and the \
        issuer \"Intermediate R7\" is not a trusted CA. To trust it, add it to WEBHOOK_CA_FILE";
    assert_refused(&send_tls(&alone, &[&root.certificate]).await, message);
    assert_refused(
        &send_tls(&alone.with(&[&root.certificate]), &[&root.certificate]).await,
        message,
    );

    let whole = intermediate.issue(&params(NAME)).with(&[&intermediate.certificate]);
    let message =
        "the certificate's CA \"Root\" is not trusted. To trust it, add it to WEBHOOK_CA_FILE";
    assert_refused(&send_tls(&whole, &[]).await, message);
    assert_refused(&send_tls(&whole.with(&[&root.certificate]), &[]).await, message);
    assert_refused(
        &send_tls(&root.issue(&params(NAME)).with(&[&root.certificate]), &[]).await,
        message,
    );
}

/// The name of a CA can be any text that the operator of the server, or an attacker, chose.
#[tokio::test]
async fn names_in_a_certificate_are_truncated() {
    let authority = Authority::new(&format!("\u{1b}[31m{}", "€".repeat(40)));
    let answer =
        send_tls(&authority.issue(&params(NAME)).with(&[&authority.certificate]), &[]).await;
    let message = answer.message.clone().unwrap();
    let quoted = format!("CA \" [31m{}\" is", "€".repeat(18));
    assert!(message.contains(&quoted) && message.len() < MAX_ERROR_BYTES, "{message}");

    let mut names = params(NAME);
    let many = (0..50).map(|index| format!("{}.{index}.example", "a".repeat(60)));
    names.subject_alt_names =
        many.map(|name| rcgen::SanType::DnsName(name.try_into().unwrap())).collect();
    let many = self_signed(&names);
    let answer = send_tls(&many, &[&many.leaf()]).await;
    let cut = "a".repeat(60);
    assert_refused(
        &answer,
        &format!("the certificate is for a different name: {cut}, {cut}, {cut} and 47 more"),
    );
}

#[tokio::test]
async fn each_certificate_error_has_its_message() {
    let root = Authority::new("Root");
    let old =
        Authority::make("Old", Some(&root), |params| params.not_after = date_time_ymd(2021, 9, 30));
    let of = |change: fn(&mut CertificateParams)| {
        let mut params = params(NAME);
        change(&mut params);
        root.issue(&params)
    };
    for (chain, message) in [
        (
            of(|it| it.not_after = date_time_ymd(2001, 1, 1)),
            "the certificate expired on 2001-01-01 at 00:00:00 UTC",
        ),
        (
            of(|it| {
                (it.not_before, it.not_after) =
                    (date_time_ymd(2999, 1, 1), date_time_ymd(3000, 1, 1));
            }),
            "the certificate is not valid before 2999-01-01 at 00:00:00 UTC",
        ),
        (
            old.issue(&params(NAME)).with(&[&old.certificate]),
            "an intermediate certificate from the server expired on 2021-09-30 at 00:00:00 \
             UTC",
        ),
        (
            of(|it| {
                it.subject_alt_names = ["a.example", "*.b.example"]
                    .map(|name| rcgen::SanType::DnsName(name.try_into().unwrap()))
                    .into();
            }),
            "the certificate is for a different name: a.example, *.b.example",
        ),
        (
            of(|it| it.subject_alt_names = vec![rcgen::SanType::IpAddress([192, 0, 2, 1].into())]),
            "the certificate is for a different name: 192.0.2.1",
        ),
        (
            of(|it| it.subject_alt_names.clear()),
            "the certificate contains no host name (no subjectAltName)",
        ),
        (
            of(|it| it.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
            "the certificate is not valid for servers (extended key usage)",
        ),
        (
            of(|it| it.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
            "the certificate is a CA certificate, not a server certificate",
        ),
        (
            of(|it| {
                let mut extension =
                    rcgen::CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
                extension.set_criticality(true);
                it.custom_extensions = vec![extension];
            }),
            "the certificate has an unsupported critical extension",
        ),
    ] {
        assert_refused(&send_tls(&chain, &[&root.certificate]).await, message);
    }
}

/// A P-521 key for servers. In the DER of the key, the number follows its tag and its length, 66.
#[derive(Debug)]
struct P521(Arc<p521::ecdsa::SigningKey>);

impl P521 {
    fn of(key: &PrivateKeyDer<'_>) -> Self {
        let der = key.secret_der();
        let at = der.windows(2).position(|window| window == [4, 66]).unwrap() + 2;
        Self(Arc::new(p521::ecdsa::SigningKey::from_slice(&der[at..at + 66]).unwrap()))
    }
}

impl SigningKey for P521 {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let signer = || Box::new(Self(Arc::clone(&self.0))) as Box<dyn Signer>;
        offered.contains(&SignatureScheme::ECDSA_NISTP521_SHA512).then(signer)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for P521 {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let signature: p521::ecdsa::Signature = self.0.sign(message);
        Ok(signature.to_der().as_bytes().to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP521_SHA512
    }
}

/// Signatures that ring cannot verify, in certificates and in handshakes. OpenSSL made the files
/// (`certificates/make`).
#[tokio::test]
async fn p_521_and_ecdsa_with_sha_512_are_verified() {
    for name in ["P-256-sha512", "P-384-sha512", "P-521-sha256", "P-521-sha384", "P-521-sha512"] {
        let path = |end: &str| {
            format!("{}/tests/sender/certificates/{name}{end}", env!("CARGO_MANIFEST_DIR"))
        };
        let certificate = CertificateDer::from_pem_file(path(".pem")).unwrap();
        let authority = CertificateDer::from_pem_file(path("-authority.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(path(".key")).unwrap();
        for version in [&TLS13, &TLS12] {
            let key: Arc<dyn SigningKey> = if name.starts_with("P-521") {
                Arc::new(P521::of(&key))
            } else {
                ring::sign::any_ecdsa_type(&key).unwrap()
            };
            let server = || {
                server_config(
                    CertifiedKey::new(vec![certificate.clone()], Arc::clone(&key)),
                    &[version],
                )
            };
            let mut config = config(true);
            config.extra_roots = vec![authority.clone()];
            assert_delivered(&send_to(server(), config).await, 200);

            // One bit of the signature, which is at the end, is another.
            let mut forged = certificate.to_vec();
            *forged.last_mut().unwrap() ^= 1;
            let server = server_config(CertifiedKey::new(vec![forged.into()], key), &[version]);
            let mut config = super::config(true);
            config.extra_roots = vec![authority.clone()];
            let answer = send_to(server, config).await;
            assert_refused(&answer, BAD_SIGNATURE);
        }
    }
}

/// A server that requires a client certificate of `authority`.
fn asking(
    authority: &Authority,
    chain: &Chain,
    version: &'static SupportedProtocolVersion,
) -> ServerConfig {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate.clone()).unwrap();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .unwrap();
    ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(chain.certified())))
}

#[tokio::test]
async fn a_server_that_requests_a_client_certificate_receives_it() {
    let authority = Authority::new("Both");
    let server = authority.issue(&params(NAME));
    let ours = authority.issue(&params("client.example"));
    let foreign = Authority::new("Foreign").issue(&params("client.example"));
    let with = |identity: Option<&Chain>| {
        let mut config = config(true);
        config.extra_roots = vec![authority.certificate.clone()];
        config.identity = identity.map(|chain| Arc::new(chain.certified()));
        config
    };
    for version in [&TLS13, &TLS12] {
        let asking = || asking(&authority, &server, version);
        assert_delivered(&send_to(asking(), with(Some(&ours))).await, 200);
        let none = "the server requires a client certificate. Set WEBHOOK_CLIENT_CERT_FILE and \
            WEBHOOK_CLIENT_KEY_FILE";
        assert_refused(&send_to(asking(), with(None)).await, none);
        let refused = "the server rejected the client certificate (unknown issuer). Check \
            WEBHOOK_CLIENT_CERT_FILE";
        assert_refused(&send_to(asking(), with(Some(&foreign))).await, refused);
        // A server that does not ask is not shown one, and does not mind.
        assert_delivered(
            &send_to(server_config(server.certified(), &[version]), with(Some(&ours))).await,
            200,
        );
    }
}

/// The result of an attempt at a server that responds to the first handshake message with these
/// bytes and closes the connection.
async fn answer_to_bytes(bytes: &[u8]) -> Answer {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 4096]).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        stream
    };
    let sender = sender();
    let (answer, _stream) = tokio::join!(send(&sender, &url), server);
    answer
}

#[tokio::test]
async fn invalid_handshakes_are_reported() {
    let plain = "the destination does not speak TLS on this port";
    for bytes in [
        "HTTP/1.1 400 Bad Request\r\n\r\n",
        "SSH-2.0-OpenSSH_9.9\r\n",
        "220 mail.example ESMTP\r\n",
    ] {
        assert_refused(&answer_to_bytes(bytes.as_bytes()).await, plain);
    }
    for (alert, message) in [
        (
            40,
            "the server rejected the handshake: it shares no cipher suite with Posthaste, or \
             requires a client certificate",
        ),
        (70, "no protocol version in common: the server must support TLS 1.2 or 1.3"),
        (71, "no cipher suite or key exchange in common with the server"),
        (112, "the server does not serve the host name of the URL"),
        (120, "the server does not offer HTTP/1.1 (ALPN)"),
        (80, "the server had an internal error during the handshake"),
        (109, "the server rejected the handshake (TLS alert 109)"),
        (199, "the server rejected the handshake (TLS alert 199)"),
    ] {
        assert_refused(&answer_to_bytes(&[0x15, 3, 3, 0, 2, 2, alert]).await, message);
    }
}
