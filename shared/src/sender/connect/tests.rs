//! Connections over real sockets, direct and through a proxy.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::TcpListener,
    sync::mpsc,
};

use url::Url;

use super::*;
use crate::{
    config::ProxyUrl,
    sender::{Answer, GuardSettings, Lookup},
};

/// Returns these addresses for each name, and counts the lookups.
#[derive(Debug)]
struct Fixed {
    addresses: Vec<IpAddr>,
    asked: AtomicUsize,
}

#[async_trait]
impl Lookup for Fixed {
    async fn lookup(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        Ok(self.addresses.clone())
    }
}

fn lookup(addresses: &[&str]) -> Arc<Fixed> {
    let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
    Arc::new(Fixed { addresses, asked: AtomicUsize::new(0) })
}

fn config(allow_private: bool, lookup: Arc<Fixed>) -> SenderConfig {
    let guard =
        AddressGuard::new(GuardSettings { allow_private, ..GuardSettings::default() }).unwrap();
    SenderConfig { lookup, ..SenderConfig::new(Vec::new(), Arc::new(guard)) }
}

fn connector(addresses: &[&str]) -> Connector {
    Connector::new(&config(true, lookup(addresses))).unwrap()
}

fn through(proxy: &str) -> Connector {
    let proxy = Some(ProxyUrl::parse(proxy).unwrap());
    Connector::new(&SenderConfig { proxy, ..config(true, lookup(&["127.0.0.1"])) }).unwrap()
}

fn origin(url: &str) -> Origin {
    Origin::of(&Url::parse(url).unwrap()).unwrap()
}

/// Listens on a free port and accepts connections.
async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

async fn closed_port() -> u16 {
    listen().await.1
}

#[track_caller]
fn assert_failed(
    result: Result<Stream, ConnectError>,
    kind: ErrorKind,
    is_our_fault: bool,
    message: &str,
) {
    let error = result.unwrap_err();
    assert_eq!(error, ConnectError { kind, message: message.to_owned(), is_our_fault });
    let answer = Answer::from(error);
    assert_eq!((answer.error, answer.is_our_fault), (Some(kind), is_our_fault));
    assert_eq!(answer.message.as_deref(), Some(message));
}

#[tokio::test]
async fn the_first_address_that_accepts_wins() {
    let (listener, port) = listen().await;
    let mut stream = connector(&["ff0e::1", "127.0.0.1"])
        .connect(&origin(&format!("http://a.example:{port}/")))
        .await
        .unwrap();
    let (mut other_end, _) = listener.accept().await.unwrap();
    stream.write_all(b"ping").await.unwrap();
    let mut bytes = [0; 4];
    other_end.read_exact(&mut bytes).await.unwrap();
    assert_eq!((&bytes, format!("{stream:?}")), (b"ping", "Tcp".to_owned()));
}

/// A name with addresses of a family that this machine does not support. It counts as a failure of
/// the destination.
#[tokio::test]
async fn a_missing_address_family_is_a_network_error() {
    let url = origin(&format!("http://a.example:{}/", closed_port().await));
    for addresses in [&["ff0e::1", "127.0.0.1"][..], &["127.0.0.1", "ff0e::1"]] {
        let result = connector(addresses).connect(&url).await;
        assert_failed(result, ErrorKind::Network, false, "connection refused");
    }
    let result = connector(&["ff0e::1"]).connect(&url).await;
    assert_failed(
        result,
        ErrorKind::Network,
        false,
        "network unreachable: this machine has no IPv6 route",
    );
    // The error in a container.
    for number in [libc::EADDRNOTAVAIL, libc::EAFNOSUPPORT] {
        let error = io::Error::from_raw_os_error(number);
        let failure =
            failure::of_dial(&dial::DialError { error, family: "IPv6", is_our_fault: false });
        assert_failed(
            Err(failure),
            ErrorKind::Network,
            false,
            "network unreachable: this machine has no IPv6 route",
        );
    }
}

#[tokio::test]
async fn exhausted_resources_do_not_count_against_the_destination() {
    for (number, of) in [
        (libc::EMFILE, "open files (file descriptors)"),
        (libc::ENFILE, "open files (file descriptors)"),
        (libc::ENOBUFS, "memory"),
        (libc::ENOMEM, "memory"),
        (libc::EADDRNOTAVAIL, "local ports"),
    ] {
        let message = format!("cannot connect: this machine has run out of {of}");
        let error = || io::Error::from_raw_os_error(number);
        let dialled = failure::of_dial(&dial::DialError {
            error: error(),
            family: "IPv4",
            is_our_fault: true,
        });
        assert_failed(Err(dialled), ErrorKind::Network, true, &message);
        if number != libc::EADDRNOTAVAIL {
            let looked_up = failure::of_lookup(&Unresolved::from(error()));
            assert_failed(Err(looked_up), ErrorKind::Network, true, &message);
        }
    }
}

#[tokio::test]
async fn no_connection_is_opened_to_a_refused_address() {
    let (listener, port) = listen().await;
    let strict = Connector::new(&config(false, lookup(&["127.0.0.1", "::1"]))).unwrap();
    for host in ["a.example", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]"] {
        for scheme in ["http", "https"] {
            let error =
                strict.connect(&origin(&format!("{scheme}://{host}:{port}/"))).await.unwrap_err();
            assert_eq!(
                (error.kind, error.is_our_fault),
                (ErrorKind::RefusedAddress, false),
                "{host}"
            );
        }
    }
    assert!(tokio::time::timeout(std::time::Duration::ZERO, listener.accept()).await.is_err());
}

/// The message names the step that exceeds the time limit.
#[tokio::test(start_paused = true)]
async fn a_step_that_does_not_end_is_a_timeout() {
    #[derive(Debug)]
    struct Never;
    #[async_trait]
    impl Lookup for Never {
        async fn lookup(&self, _: &str) -> io::Result<Vec<IpAddr>> {
            std::future::pending().await
        }
    }
    let mut settings = config(true, lookup(&[]));
    settings.lookup = Arc::new(Never);
    let result = Connector::new(&settings).unwrap().connect(&origin("http://a.example/")).await;
    let message = "no connection within 5000 ms: the name lookup took too long";
    assert_failed(result, ErrorKind::Timeout, false, message);

    let (_listener, port) = listen().await;
    let result = connector(&[]).connect(&origin(&format!("https://127.0.0.1:{port}/"))).await;
    let message = "no connection within 5000 ms: the TLS handshake took too long";
    assert_failed(result, ErrorKind::Timeout, false, message);
}

#[tokio::test]
async fn an_interrupted_handshake_is_reported() {
    let (listener, port) = listen().await;
    let url = origin(&format!("https://127.0.0.1:{port}/"));
    let connector = connector(&[]);
    let closes = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        // Reads everything, so that closing does not reset the connection.
        assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
    };
    let (result, ()) = tokio::join!(connector.connect(&url), closes);
    let message = "the destination closed the connection during the TLS handshake";
    assert_failed(result, ErrorKind::Network, false, message);
}

/// Responds to one CONNECT with these bytes. The channel first receives the request.
async fn proxy_with_response(answer: &'static [u8]) -> (u16, mpsc::UnboundedReceiver<String>) {
    let (listener, port) = listen().await;
    let (requests, received) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        requests.send(String::from_utf8(head).unwrap()).unwrap();
        // In pieces, so that the end of the head is split.
        let (first, second) = answer.split_at(answer.len().saturating_sub(2));
        stream.write_all(first).await.unwrap();
        tokio::task::yield_now().await;
        stream.write_all(second).await.unwrap();
        // Echoes its input.
        let (mut from, mut to) = stream.split();
        tokio::io::copy(&mut from, &mut to).await.ok();
    });
    (port, received)
}

#[tokio::test]
async fn a_tunnel_begins_right_after_the_answer_to_connect() {
    let answer = b"HTTP/1.1 200 Connection established\r\nvia: it\r\n\r\n";
    let (port, mut requests) = proxy_with_response(answer).await;
    let connector = through(&format!("http://us%65r:p%40ss:word@127.0.0.1:{port}"));
    let mut stream = connector.connect(&origin("http://hooks.example:8080/path")).await.unwrap();
    stream.write_all(b"echo").await.unwrap();
    let mut echoed = [0; 4];
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"echo");
    let version = env!("CARGO_PKG_VERSION");
    let expected = format!(
        "CONNECT hooks.example:8080 HTTP/1.1\r\nhost: hooks.example:8080\r\n\
         proxy-authorization: Basic dXNlcjpwQHNzOndvcmQ=\r\nuser-agent: Posthaste/{version}\r\n\r\n"
    );
    assert_eq!(requests.recv().await.unwrap(), expected);
}

/// Bytes after the head belong to the tunnel. None is lost, regardless of the splits.
#[tokio::test]
async fn bytes_after_the_head_are_not_lost() {
    for answer in
        [&b"HTTP/1.0 200 OK\r\n\r\nfirst"[..], b"HTTP/1.1 204 No Content\r\nx: y\r\n\r\n\r\n\r\n"]
    {
        let (port, _requests) = proxy_with_response(answer).await;
        let mut stream = through(&format!("http://127.0.0.1:{port}"))
            .connect(&origin("http://[2001:db8::1]/"))
            .await
            .unwrap();
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        let mut bytes = vec![0; answer.len() - end];
        stream.read_exact(&mut bytes).await.unwrap();
        assert_eq!(bytes, answer[end..]);
    }
}

/// A real proxy: the tunnel carries TLS, the proxy resolves the destination, and the guard does not
/// apply to the name of the proxy.
#[tokio::test]
async fn tls_uses_the_tunnel_and_the_proxy_resolves_names() {
    let key = rcgen::generate_simple_self_signed(["hooks.example".to_owned()]).unwrap();
    let tls = rustls::ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_no_client_auth()
    .with_single_cert(
        vec![key.cert.der().clone()],
        rustls::pki_types::PrivateKeyDer::Pkcs8(key.signing_key.serialize_der().into()),
    )
    .unwrap();
    let (destination, destination_port) = listen().await;
    tokio::spawn(async move {
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        let (stream, _) = destination.accept().await.unwrap();
        let mut stream = acceptor.accept(stream).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        stream.flush().await.unwrap();
        stream.read_to_end(&mut Vec::new()).await.ok();
    });
    let (proxy, proxy_port) = listen().await;
    tokio::spawn(async move {
        let (mut stream, _) = proxy.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        assert!(
            head.starts_with("CONNECT hooks.example:443 HTTP/1.1\r\n")
                && !head.contains("authorization"),
            "{head}"
        );
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        let mut onward = TcpStream::connect(("127.0.0.1", destination_port)).await.unwrap();
        copy_bidirectional(&mut stream, &mut onward).await.ok();
    });
    let lookup = lookup(&["127.0.0.1"]);
    let settings = SenderConfig {
        proxy: Some(ProxyUrl::parse(&format!("http://proxy.internal:{proxy_port}")).unwrap()),
        extra_roots: vec![key.cert.der().clone()],
        ..config(false, Arc::clone(&lookup))
    };
    let mut stream = Connector::new(&settings)
        .unwrap()
        .connect(&origin("https://hooks.example/"))
        .await
        .unwrap();
    let mut bytes = [0; 5];
    stream.read_exact(&mut bytes).await.unwrap();
    assert_eq!((&bytes, format!("{stream:?}")), (b"hello", "Tls".to_owned()));
    assert_eq!(lookup.asked.load(Ordering::SeqCst), 1, "the proxy's name, and no other");
}

/// Errors of the proxy do not count against the destination. Their messages name the proxy without
/// its credentials. Errors that the proxy reports for the destination count against it.
#[tokio::test]
async fn errors_of_the_proxy_and_of_the_destination_are_distinguished() {
    let hooks = origin("https://hooks.example/");
    for (answer, is_our_fault, message) in [
        (
            "HTTP/1.1 407 Nope\r\n\r\n",
            true,
            "the egress proxy {proxy} rejected the credentials of WEBHOOK_PROXY_URL (407)",
        ),
        (
            "HTTP/1.1 403 No\r\n\r\n",
            false,
            "the egress proxy {proxy} does not allow connections to the destination (403)",
        ),
        (
            "HTTP/1.1 502 Bad\r\n\r\n",
            false,
            "the egress proxy {proxy} could not connect to the destination (502)",
        ),
        (
            "HTTP/1.1 503 Bad\r\n\r\n",
            false,
            "the egress proxy {proxy} could not connect to the destination (503)",
        ),
        (
            "HTTP/1.1 504 Bad\r\n\r\n",
            false,
            "the egress proxy {proxy} could not connect to the destination (504)",
        ),
        (
            "HTTP/1.1 500 Oh\r\n\r\n",
            true,
            "the egress proxy {proxy} responded to CONNECT with status 500",
        ),
        (
            "HTTP/1.1 405 No\r\n\r\n",
            true,
            "the egress proxy {proxy} responded to CONNECT with status 405",
        ),
        (
            "HTTP/1.1 301 Go\r\n\r\n",
            true,
            "the egress proxy {proxy} responded to CONNECT with status 301",
        ),
        (
            "SSH-2.0-OpenSSH_9.9\r\n\r\n",
            true,
            "the egress proxy {proxy} failed: its response to CONNECT is not HTTP/1.1",
        ),
        (
            "HTTP/1.1 +20 OK\r\n\r\n",
            true,
            "the egress proxy {proxy} failed: its response to CONNECT is not HTTP/1.1",
        ),
        (
            "HTTP/1.1 100 OK\r\n\r\n",
            true,
            "the egress proxy {proxy} failed: its response to CONNECT is not HTTP/1.1",
        ),
    ] {
        let (port, _requests) = proxy_with_response(answer.as_bytes()).await;
        let result =
            through(&format!("http://user:hunter2@127.0.0.1:{port}")).connect(&hooks).await;
        let message = message.replace("{proxy}", &format!("127.0.0.1:{port}"));
        assert_failed(result, ErrorKind::Network, is_our_fault, &message);
    }
    let (port, _requests) = proxy_with_response(b"HTTP/1.1 407 Nope\r\n\r\n").await;
    let result = through(&format!("http://127.0.0.1:{port}")).connect(&hooks).await;
    let message = format!(
        "the egress proxy 127.0.0.1:{port} requires credentials (407). Set them in \
         WEBHOOK_PROXY_URL"
    );
    assert_failed(result, ErrorKind::Network, true, &message);

    let port = closed_port().await;
    let result = through(&format!("http://user:hunter2@localhost:{port}")).connect(&hooks).await;
    let message =
        format!("the egress proxy localhost:{port} cannot be reached: connection refused");
    assert_failed(result, ErrorKind::Network, true, &message);

    let proxy = Some(ProxyUrl::parse("http://proxy.internal:3128").unwrap());
    let settings = SenderConfig { proxy, ..config(true, lookup(&[])) };
    let result = Connector::new(&settings).unwrap().connect(&hooks).await;
    let message = "the name of the egress proxy proxy.internal:3128 does not resolve";
    assert_failed(result, ErrorKind::Network, true, message);
}

/// A head that exceeds the limit is not read further.
#[tokio::test]
async fn an_endless_response_to_connect_fails() {
    let (listener, port) = listen().await;
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
        while stream.write_all(b"x-more: and more\r\n").await.is_ok() {}
    });
    let result = through(&format!("http://127.0.0.1:{port}"))
        .connect(&origin("http://hooks.example/"))
        .await;
    let message = format!(
        "the egress proxy 127.0.0.1:{port} failed: its response to CONNECT is not HTTP/1.1"
    );
    assert_failed(result, ErrorKind::Network, true, &message);
}

/// A proxy that accepts the connection and does not respond waits for the destination.
#[tokio::test(start_paused = true)]
async fn an_unresponsive_proxy_is_a_timeout() {
    let (_listener, port) = listen().await;
    let result = through(&format!("http://127.0.0.1:{port}"))
        .connect(&origin("http://hooks.example/"))
        .await;
    let message = format!("no connection through the egress proxy 127.0.0.1:{port} within 5000 ms");
    assert_failed(result, ErrorKind::Timeout, false, &message);
}

#[test]
fn an_origin_is_scheme_host_and_port() {
    for (url, scheme, host, port) in [
        ("http://A.example/x", Scheme::Http, "a.example", 80),
        ("https://a.example.:444/", Scheme::Https, "a.example.", 444),
        ("https://[::1]/", Scheme::Https, "[::1]", 443),
    ] {
        let origin = origin(url);
        assert_eq!(
            (origin.scheme, origin.host.to_string().as_str(), origin.port),
            (scheme, host, port)
        );
        assert!(origin.server_name().is_some());
    }
    assert_eq!(Origin::of(&Url::parse("ftp://a.example/").unwrap()), None);
    let name = origin("https://a.example./").server_name().unwrap();
    assert_eq!(name.to_str(), "a.example", "the root's dot is not a part of it");
}
