use tokio::net::{TcpListener, TcpSocket};

use super::*;

/// The system refuses to connect to a multicast group, so nothing leaves the machine.
const NOWHERE_V6: &str = "ff0e::1";
const NOWHERE_V4: &str = "224.0.0.1";

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// A closed port of 127.0.0.1. No other socket gets it before this one is dropped.
fn closed_port() -> (TcpSocket, u16) {
    let reserved = TcpSocket::new_v4().unwrap();
    reserved.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = reserved.local_addr().unwrap().port();
    (reserved, port)
}

#[tokio::test]
async fn the_next_address_is_tried_when_one_fails() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    for host in [
        &["127.0.0.1"][..],
        &[NOWHERE_V6, "127.0.0.1"],
        &[NOWHERE_V4, NOWHERE_V6, "127.0.0.2", "127.0.0.1"],
    ] {
        let stream = dial(&addresses(host), port).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), listener.local_addr().unwrap());
        assert!(stream.nodelay().unwrap());
    }
}

#[tokio::test]
async fn the_most_informative_failure_is_shown() {
    let (_reserved, port) = closed_port();
    for host in [
        &["127.0.0.1", NOWHERE_V6][..],
        &[NOWHERE_V6, "127.0.0.1"],
        &[NOWHERE_V6, NOWHERE_V4, "127.0.0.1"],
    ] {
        let failure = dial(&addresses(host), port).await.unwrap_err();
        assert_eq!(
            (failure.error.kind(), failure.is_our_fault),
            (io::ErrorKind::ConnectionRefused, false),
            "{host:?}"
        );
    }
    let failure = dial(&addresses(&[NOWHERE_V6]), port).await.unwrap_err();
    assert_eq!((failure.error.kind(), failure.family), (io::ErrorKind::NetworkUnreachable, "IPv6"));
    assert!(!failure.is_our_fault && !dial(&[], port).await.unwrap_err().is_our_fault);
}

/// An unresponsive address delays the others by the stagger, and no longer.
#[tokio::test]
async fn an_unresponsive_address_does_not_delay_the_next() {
    // The port of this address first, because other tests use this address, too.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    // A listener with a full backlog drops connections, like a firewall.
    let full = TcpSocket::new_v4().unwrap();
    full.bind(format!("127.0.0.3:{port}").parse().unwrap()).unwrap();
    let _full = full.listen(1).unwrap();
    let mut held = Vec::new();
    while let Ok(Ok(stream)) =
        tokio::time::timeout(STAGGER, TcpStream::connect(("127.0.0.3", port))).await
    {
        held.push(stream);
    }
    let stream = dial(&addresses(&["127.0.0.3", "127.0.0.1"]), port).await.unwrap();
    assert_eq!(stream.peer_addr().unwrap(), listener.local_addr().unwrap());
}

/// With a route and a source address, `EADDRNOTAVAIL` means that no port is free.
#[test]
fn exhausted_ports_and_missing_routes_are_distinguished() {
    let is_ours = |number: i32, route: fn() -> io::Result<()>| {
        is_exhausted(&io::Error::from_raw_os_error(number), route)
    };
    let unreachable = || Err(io::Error::from_raw_os_error(libc::ENETUNREACH));
    let no_source = || Err(io::Error::from_raw_os_error(libc::EADDRNOTAVAIL));
    let no_family = || Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT));
    let no_file = || Err(io::Error::from_raw_os_error(libc::EMFILE));
    assert!(is_ours(libc::EADDRNOTAVAIL, || Ok(())));
    assert!(is_ours(libc::EADDRNOTAVAIL, no_file));
    for route in [unreachable, no_source, no_family] {
        assert!(!is_ours(libc::EADDRNOTAVAIL, route));
    }
    for number in [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS] {
        assert!(is_ours(number, || unreachable!("the route says nothing")), "{number}");
    }
    for number in [
        libc::ECONNREFUSED,
        libc::ECONNRESET,
        libc::ETIMEDOUT,
        libc::EHOSTUNREACH,
        libc::ENETUNREACH,
        libc::EAFNOSUPPORT,
        libc::EACCES,
        libc::EPERM,
        libc::EINVAL,
    ] {
        assert!(!is_ours(number, || Ok(())), "{number}");
    }
}

/// The system has a route to loopback, and none to a multicast group.
#[test]
fn a_route_is_found_without_sending() {
    find_route("127.0.0.1:9".parse().unwrap()).unwrap();
    let error = find_route("[fe80::1]:9".parse().unwrap()).unwrap_err();
    assert!(!is_out_of_resources(&error), "{error}");
}

#[test]
fn families_alternate_and_the_first_stays_first() {
    for (given, expected) in [
        (
            &["1.1.1.1", "1.1.1.2", "::1", "::2", "::3"][..],
            &["1.1.1.1", "::1", "1.1.1.2", "::2", "::3"][..],
        ),
        (&["::1", "1.1.1.1"], &["::1", "1.1.1.1"]),
        (&["::1", "::2", "1.1.1.1"], &["::1", "1.1.1.1", "::2"]),
        (&["1.1.1.1"], &["1.1.1.1"]),
        (&[], &[]),
    ] {
        assert_eq!(alternate_families(&addresses(given)), addresses(expected), "{given:?}");
    }
}
