//! Turns what went wrong on the network into a kind and a sentence for people.
//!
//! The sentence is made from what the error *is*, not from its text, which may hold the URL,
//! addresses or names. `tls_failure` has the sentences about TLS.

use std::{io, time::Duration};

use super::{
    Answer,
    connect::ConnectError,
    dial::{self, DialError},
    exchange::NoStatus,
    resolve::Unresolved,
    tls_failure,
};
use crate::model::{ErrorKind, MAX_ERROR_BYTES, truncated};

/// The answer of an attempt that ended at its deadline without a status code.
pub(super) fn timed_out(deadline: Duration) -> Answer {
    failed(ErrorKind::Timeout, &format!("no answer within {} ms", deadline.as_millis()))
}

/// The answer of an attempt that failed without a status code.
pub(super) fn failed(kind: ErrorKind, message: &str) -> Answer {
    let message: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let message = Some(truncated(&message, MAX_ERROR_BYTES).to_owned());
    Answer { error: Some(kind), message, ..Answer::default() }
}

impl From<ConnectError> for Answer {
    fn from(error: ConnectError) -> Self {
        let ConnectError { kind, message, is_our_fault } = error;
        Self { is_our_fault, ..failed(kind, &message) }
    }
}

/// The answer of an attempt that had a connection, and got no status over it.
pub(super) fn of_no_status(error: &NoStatus) -> Answer {
    match error {
        NoStatus::Io(error) => of_exchange(error).into(),
        NoStatus::PastDeadline => failed(ErrorKind::Timeout, &error.to_string()),
        NoStatus::NotHttp | NoStatus::TooLong => failed(ErrorKind::Network, &error.to_string()),
    }
}

/// Why a name leads nowhere.
pub(super) fn of_lookup(unresolved: &Unresolved) -> ConnectError {
    match unresolved {
        Unresolved::NotAsked(error) | Unresolved::NoAddress(Some(error))
            if dial::is_out_of_resources(error) =>
        {
            out_of(error)
        }
        Unresolved::NotAsked(_) => ConnectError::ours(unresolved.to_string()),
        Unresolved::NoAddress(_) => ConnectError::new(ErrorKind::Network, unresolved.to_string()),
        Unresolved::Unanswered(_) => ConnectError::new(ErrorKind::Timeout, unresolved.to_string()),
        Unresolved::Refused => ConnectError::new(ErrorKind::RefusedAddress, unresolved.to_string()),
    }
}

/// Why no address of the host, or of the proxy, took a connection.
pub(super) fn of_dial(failure: &DialError) -> ConnectError {
    let DialError { error, family, is_our_fault } = failure;
    if *is_our_fault {
        return out_of(error);
    }
    let is_unreachable = error.kind() == io::ErrorKind::NetworkUnreachable;
    if is_unreachable || dial::is_without_family(error) {
        let message = format!("network unreachable: this machine has no route over {family}");
        return ConnectError::new(ErrorKind::Network, message);
    }
    of_exchange(error)
}

/// Why the TLS handshake failed.
pub(super) fn of_handshake(error: &io::Error) -> ConnectError {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    match error.kind() {
        _ if tls_error(error).is_some() => of_exchange(error),
        UnexpectedEof => {
            let message = "the destination closed the connection during the TLS handshake";
            ConnectError::new(ErrorKind::Network, message)
        }
        ConnectionReset | ConnectionAborted | BrokenPipe => {
            let message = "connection reset during the TLS handshake";
            ConnectError::new(ErrorKind::Network, message)
        }
        _ => of_exchange(error),
    }
}

/// Why reading from or writing to a connection failed. Servers that ask for a client certificate
/// refuse the handshake only here, after it (TLS 1.3).
pub(super) fn of_exchange(error: &io::Error) -> ConnectError {
    if let Some(error) = tls_error(error) {
        return ConnectError::new(ErrorKind::Tls, tls_failure::describe(error));
    }
    if dial::is_out_of_resources(error) {
        return out_of(error);
    }
    let message = of_io(error).unwrap_or("the connection failed");
    let kind = if message == TIMED_OUT { ErrorKind::Timeout } else { ErrorKind::Network };
    ConnectError::new(kind, message)
}

const TIMED_OUT: &str = "the connection timed out";

/// What the operating system said. `None` if it is not the system's error.
pub(super) fn of_io(error: &io::Error) -> Option<&'static str> {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable,
        NetworkUnreachable, PermissionDenied, TimedOut, UnexpectedEof,
    };
    Some(match error.kind() {
        ConnectionRefused => "connection refused",
        ConnectionReset | ConnectionAborted | BrokenPipe => "connection reset",
        HostUnreachable => "host unreachable",
        NetworkUnreachable => "network unreachable",
        TimedOut => TIMED_OUT,
        PermissionDenied => "a firewall on this machine does not allow the connection",
        UnexpectedEof => "the destination closed the connection before it answered",
        _ if error.raw_os_error().is_some() => "the system could not make the connection",
        _ => return None,
    })
}

/// This machine could not even try.
fn out_of(error: &io::Error) -> ConnectError {
    let of = match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => "open files (file descriptors)",
        Some(libc::ENOMEM | libc::ENOBUFS) => "memory",
        _ => "local ports",
    };
    ConnectError::ours(format!("this machine has run out of {of}: no connection could be made"))
}

/// The TLS library's error within a connection's.
fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}
