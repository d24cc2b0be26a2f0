//! Egress from the operator's network: through a proxy, with a client certificate, and to servers
//! with private certificates. A stack as a process, with real files and a real proxy.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use harness::{
    client::ApiClient,
    hostile::{
        HostileReceiver, Step, Transport,
        certificates::{Authority, Flaw},
    },
    ledger,
    receiver::Receiver,
    stack::Launch,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
};

/// Several times the wait after an attempt that the proxy prevented.
const BOUND: Duration = Duration::from_secs(120);

/// `user:long-proxy-password`.
const AUTHORIZATION: &str = "Basic dXNlcjpsb25nLXByb3h5LXBhc3N3b3Jk";

/// A proxy that resolves one name, which is not in the DNS, and requires credentials.
struct Proxy {
    tunnels: Arc<AtomicUsize>,
}

impl Proxy {
    fn serve(listener: TcpListener, known: &str, leads_to: SocketAddr) -> Self {
        let tunnels = Arc::new(AtomicUsize::new(0));
        let (counter, known) = (Arc::clone(&tunnels), known.to_owned());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (counter, known) = (Arc::clone(&counter), known.clone());
                tokio::spawn(async move { tunnel(stream, &known, leads_to, &counter).await.ok() });
            }
        });
        Self { tunnels }
    }
}

async fn tunnel(
    mut client: TcpStream,
    known: &str,
    leads_to: SocketAddr,
    counter: &AtomicUsize,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    if !head.contains(&format!("proxy-authorization: {AUTHORIZATION}\r\n")) {
        return client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await;
    }
    if !head.starts_with(&format!("CONNECT {known} HTTP/1.1\r\n")) {
        return client.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").await;
    }
    counter.fetch_add(1, Ordering::SeqCst);
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
    copy_bidirectional(&mut client, &mut TcpStream::connect(leads_to).await?).await?;
    Ok(())
}

/// While the proxy is down, failures do not count against the destination. One would open its
/// circuit here. Afterwards deliveries pass through the proxy, which resolves the name.
#[tokio::test(flavor = "multi_thread")]
async fn deliveries_wait_for_the_proxy_and_go_through_it() {
    let _turn = crate::turn().await;
    let receiver = Receiver::start().await.unwrap();
    let known = format!("hooks.invalid:{}", receiver.address().port());
    // Reserves the port while nothing is listening there.
    let reserved = tokio::net::TcpSocket::new_v4().unwrap();
    reserved.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let proxy_address = reserved.local_addr().unwrap();
    let launch = Launch::fresh()
        .unwrap()
        .set("WEBHOOK_PROXY_URL", &format!("http://user:long-proxy-password@{proxy_address}"))
        .set("CIRCUIT_FAILURES", "1")
        .set("CIRCUIT_OPEN_MS", "600000")
        .set("DELIVERY_TIMEOUT_MS", "10000")
        .set("LEASE_MS", "15000")
        .set("RETRY_MAX_ATTEMPTS", "1")
        .set("RUST_LOG", "warn");
    let stack = launch.start().unwrap();
    let api = ApiClient::new(&stack.url(), None).unwrap();
    let id =
        api.test_webhook(&format!("http://{known}/through"), &json!({})).await.unwrap().webhook_id;
    let message = format!("the egress proxy {proxy_address} cannot be reached: connection refused");
    let deadline = tokio::time::Instant::now() + BOUND;
    while !launch.log().contains(&message) {
        assert!(tokio::time::Instant::now() < deadline, "{}", launch.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    let proxy = Proxy::serve(reserved.listen(64).unwrap(), &known, receiver.address());
    receiver.wait_for_webhook(&id, 1, BOUND).await.unwrap();
    let elsewhere =
        api.test_webhook("http://elsewhere.invalid/", &json!({})).await.unwrap().webhook_id;
    let statuses = ledger::settle(&api, &[id, elsewhere.clone()], BOUND).await.statuses;
    assert_eq!(statuses, [("delivered".to_owned(), 1), ("failed".to_owned(), 1)].into());
    assert_eq!(proxy.tunnels.load(Ordering::SeqCst), 1);
    // The proxy's error about a destination is reported as that destination's failure.
    let error = api.webhook(&elsewhere).await.unwrap().last_error.unwrap();
    let message =
        format!("the egress proxy {proxy_address} could not connect to the destination (502)");
    assert_eq!(
        (error.kind.as_str(), error.message.as_deref()),
        ("network", Some(message.as_str()))
    );
    ledger::close(&api, stack, &launch).await;
}

/// A server that requires a client certificate, and one with a self-signed certificate. Both work
/// with the files in the settings.
#[tokio::test(flavor = "multi_thread")]
async fn private_certificates_are_presented_and_trusted() {
    let _turn = crate::turn().await;
    let authority = Authority::new().unwrap();
    let asking = authority.issue(Flaw::None).unwrap().asking_for(&authority).unwrap();
    let self_signed = authority.issue(Flaw::SelfSigned).unwrap();
    let ours = authority.issue(Flaw::None).unwrap();
    let answer = b"HTTP/1.1 204 No Content\r\n\r\n".to_vec();
    let steps = [Step::Read, Step::Write(answer), Step::Again];
    let receivers = [
        HostileReceiver::start(&Transport::Tls(asking), &steps).await.unwrap(),
        HostileReceiver::start(&Transport::Tls(self_signed.clone()), &steps).await.unwrap(),
    ];
    let deliver = async |settings: &[(&str, &str)]| {
        let mut launch =
            Launch::fresh().unwrap().set("RETRY_MAX_ATTEMPTS", "1").set("RUST_LOG", "warn");
        for (name, text) in settings {
            let file = launch.folder().join(name.to_lowercase());
            std::fs::write(&file, text).unwrap();
            launch = launch.set(name, file.to_str().unwrap());
        }
        let stack = launch.start().unwrap();
        let api = ApiClient::new(&stack.url(), None).unwrap();
        let mut ids = Vec::new();
        for receiver in &receivers {
            ids.push(api.test_webhook(&receiver.url(), &json!({})).await.unwrap().webhook_id);
        }
        ledger::settle(&api, &ids, BOUND).await;
        let mut errors = Vec::new();
        for id in &ids {
            errors.push(
                api.webhook(id)
                    .await
                    .unwrap()
                    .last_error
                    .and_then(|error| error.message)
                    .unwrap_or_default(),
            );
        }
        ledger::close(&api, stack, &launch).await;
        errors
    };
    let trusted = [authority.pem(), self_signed.pem()].concat();
    let with = [
        ("WEBHOOK_CA_FILE", &*trusted),
        ("WEBHOOK_CLIENT_CERT_FILE", ours.pem()),
        ("WEBHOOK_CLIENT_KEY_FILE", ours.key_pem()),
    ];
    assert_eq!(deliver(&with).await, ["", ""]);
    let without = deliver(&[("WEBHOOK_CA_FILE", authority.pem())]).await;
    let asks = "TLS: the server requires a client certificate. Set WEBHOOK_CLIENT_CERT_FILE and \
        WEBHOOK_CLIENT_KEY_FILE";
    let self_signed = "TLS: the certificate is self-signed. To trust it, add it to WEBHOOK_CA_FILE";
    assert_eq!(without, [asks, self_signed]);
}

/// Each error names the setting and does not contain its value.
#[test]
fn bad_files_and_a_bad_proxy_stop_the_start() {
    let _turn = crate::turn_blocking();
    let authority = Authority::new().unwrap();
    let (ours, other) =
        (authority.issue(Flaw::None).unwrap(), authority.issue(Flaw::None).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (certificate, key) = (file("certificate", ours.pem()), file("key", other.key_pem()));
    let missing = folder.path().join("missing").to_str().unwrap().to_owned();
    let unreadable = |variable: &str| format!("{variable} is '{missing}', which cannot be read");
    for (settings, expected) in [
        (&[("WEBHOOK_CLIENT_CERT_FILE", &certificate)][..], "WEBHOOK_CLIENT_KEY_FILE must be set"),
        (
            &[("WEBHOOK_CLIENT_CERT_FILE", &certificate), ("WEBHOOK_CLIENT_KEY_FILE", &key)],
            "WEBHOOK_CLIENT_KEY_FILE is not the key of the first certificate in \
             WEBHOOK_CLIENT_CERT_FILE",
        ),
        (&[("WEBHOOK_CA_FILE", &missing)], &*unreadable("WEBHOOK_CA_FILE")),
        (&[("WEBHOOK_CA_FILE", &key)], "WEBHOOK_CA_FILE contains no certificate"),
        (
            &[("WEBHOOK_CLIENT_CERT_FILE", &missing), ("WEBHOOK_CLIENT_KEY_FILE", &key)],
            &*unreadable("WEBHOOK_CLIENT_CERT_FILE"),
        ),
        (
            &[("WEBHOOK_CLIENT_CERT_FILE", &certificate), ("WEBHOOK_CLIENT_KEY_FILE", &missing)],
            &*unreadable("WEBHOOK_CLIENT_KEY_FILE"),
        ),
        (
            &[("WEBHOOK_CLIENT_CERT_FILE", &key), ("WEBHOOK_CLIENT_KEY_FILE", &key)],
            "WEBHOOK_CLIENT_CERT_FILE contains no certificate",
        ),
        (
            &[
                ("WEBHOOK_CLIENT_CERT_FILE", &certificate),
                ("WEBHOOK_CLIENT_KEY_FILE", &certificate),
            ],
            "WEBHOOK_CLIENT_KEY_FILE contains no private key",
        ),
        (
            &[("WEBHOOK_PROXY_URL", &"https://user:long-proxy-password@proxy".to_owned())],
            "WEBHOOK_PROXY_URL must begin with http://",
        ),
    ] {
        let launch = settings
            .iter()
            .fold(Launch::fresh().unwrap(), |launch, (name, value)| launch.set(name, value));
        assert!(!launch.run_to_its_end(0, 0).unwrap().success());
        assert!(launch.log().contains(expected), "{expected}: {}", launch.log());
    }
}

/// The warning shows a URL that the allowlist would admit.
#[tokio::test(flavor = "multi_thread")]
async fn an_allowlist_with_an_open_host_end_is_reported_at_start() {
    let _turn = crate::turn().await;
    for (pattern, is_reported) in
        [(r"^https://.*\.example\.com", true), (r"^https://.*\.example\.com/", false)]
    {
        let launch =
            Launch::fresh().unwrap().set("WEBHOOK_ALLOWLIST", pattern).set("RUST_LOG", "warn");
        let stack = launch.start().unwrap();
        stack.stop().unwrap();
        let log = launch.log();
        assert_eq!(
            log.contains("WEBHOOK_ALLOWLIST does not mark the end of the host"),
            is_reported,
            "{log}"
        );
        assert_eq!(log.contains("https://a.example.com.evil.example/"), is_reported, "{log}");
    }
}
