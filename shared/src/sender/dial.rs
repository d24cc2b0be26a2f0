//! Opens a TCP connection to one of several addresses.
//!
//! The addresses are tried in order, alternating between IPv4 and IPv6. The next attempt starts
//! when the previous one fails, or in parallel to it after [`STAGGER`] (RFC 8305, "Happy Eyeballs",
//! without its sorting).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{net::TcpStream, time::sleep};

/// How long an attempt runs before the next one starts (RFC 8305, 5).
const STAGGER: Duration = Duration::from_millis(250);

/// Why no connection could be opened: the most informative error of all addresses.
#[derive(Debug, thiserror::Error)]
#[error("no TCP connection")]
pub(super) struct DialError {
    #[source]
    pub(super) error: io::Error,
    /// `IPv4` or `IPv6`.
    pub(super) family: &'static str,
    /// This machine has run out of files, ports, or memory.
    pub(super) is_our_fault: bool,
}

/// Connects to the first of `addresses` that accepts a connection. Turns off Nagle's algorithm.
pub(super) async fn dial(addresses: &[IpAddr], port: u16) -> Result<TcpStream, DialError> {
    let mut waiting = alternate_families(addresses).into_iter();
    let mut running = FuturesUnordered::new();
    let mut failures = Vec::new();
    loop {
        if let Some(address) = waiting.next() {
            running.push(attempt(SocketAddr::new(address, port)));
        }
        tokio::select! {
            biased;
            Some(ended) = running.next() => match ended {
                Ok(stream) => return Ok(stream),
                Err(failure) => failures.push(failure),
            },
            () = sleep(STAGGER), if waiting.len() > 0 => {}
            else => return Err(most_informative(failures)),
        }
    }
}

async fn attempt(address: SocketAddr) -> Result<TcpStream, DialError> {
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    match TcpStream::connect(address).await {
        Ok(stream) => {
            stream.set_nodelay(true).ok();
            Ok(stream)
        }
        Err(error) => {
            let is_our_fault = is_exhausted(&error, || find_route(address));
            Err(DialError { error, family, is_our_fault })
        }
    }
}

/// Alternates the address families. Keeps the order within each family, and the first address.
fn alternate_families(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let starts_with_v4 = addresses.first().is_some_and(IpAddr::is_ipv4);
    let of_family = |v4: bool| addresses.iter().copied().filter(move |a| a.is_ipv4() == v4);
    let (mut first, mut second) = (of_family(starts_with_v4), of_family(!starts_with_v4));
    let mut order = Vec::with_capacity(addresses.len());
    loop {
        let before = order.len();
        order.extend(first.next());
        order.extend(second.next());
        if order.len() == before {
            return order;
        }
    }
}

/// Whether the error means that this machine has run out of a resource.
///
/// `EADDRNOTAVAIL` on `connect` has two meanings: no source address for the destination (IPv6 in
/// most containers), or no free local port. `find_route` distinguishes them.
fn is_exhausted(error: &io::Error, find_route: impl FnOnce() -> io::Result<()>) -> bool {
    if error.kind() != io::ErrorKind::AddrNotAvailable {
        return is_out_of_resources(error);
    }
    match find_route() {
        Ok(()) => true,
        Err(error) => is_out_of_resources(&error),
    }
}

/// Whether the error means that files, buffers, or memory have run out.
pub(super) fn is_out_of_resources(error: &io::Error) -> bool {
    const NUMBERS: [i32; 4] = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS];
    error.raw_os_error().is_some_and(|number| NUMBERS.contains(&number))
}

/// Checks that this machine has a route to `address` and a source address for it. Connecting a UDP
/// socket sends nothing and uses no TCP port.
fn find_route(address: SocketAddr) -> io::Result<()> {
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    UdpSocket::bind((any, 0))?.connect(address)
}

/// The failure with the most information about the destination.
fn most_informative(failures: Vec<DialError>) -> DialError {
    let none = || DialError {
        error: io::ErrorKind::NetworkUnreachable.into(),
        family: "any protocol",
        is_our_fault: false,
    };
    failures.into_iter().min_by_key(rank).unwrap_or_else(none)
}

/// The order of failures, most informative first: errors of the destination host, missing resources
/// of this machine, errors of the network, and a missing address family of this machine.
fn rank(failure: &DialError) -> u8 {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable,
        PermissionDenied, TimedOut,
    };
    match failure.error.kind() {
        ConnectionRefused => 0,
        ConnectionReset | ConnectionAborted => 1,
        _ if failure.is_our_fault => 2,
        TimedOut => 3,
        PermissionDenied => 4,
        HostUnreachable => 5,
        NetworkUnreachable => 7,
        _ if is_without_family(&failure.error) => 8,
        _ => 6,
    }
}

/// Whether this machine does not support the address family of the destination.
pub(super) fn is_without_family(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

#[cfg(test)]
mod tests;
