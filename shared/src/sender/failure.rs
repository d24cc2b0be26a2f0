//! Turns network errors into a kind and a message for users.
//!
//! The message follows from the type of the error. The error's own text can contain the URL,
//! addresses, or names, so it is not used. `tls_failure` has the messages of TLS errors.

use std::{io, time::Duration};

use super::{
    Answer, RefusedUrl,
    dial::{self, DialError},
    exchange::NoStatus,
    resolve::Unresolved,
    tls_failure,
};
use crate::model::{ErrorKind, MAX_ERROR_BYTES, truncated};

/// Why no connection could be opened. The message is for users.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(super) struct ConnectError {
    pub(super) kind: ErrorKind,
    pub(super) message: String,
    /// See [`super::Answer::is_our_fault`].
    pub(super) is_our_fault: bool,
}

impl ConnectError {
    pub(super) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), is_our_fault: false }
    }

    pub(super) fn ours(message: impl Into<String>) -> Self {
        Self { is_our_fault: true, ..Self::new(ErrorKind::Network, message) }
    }
}

/// The answer of an attempt that ended at its deadline without a status code.
pub(super) fn timed_out(deadline: Duration) -> Answer {
    failed(ErrorKind::Timeout, &format!("no response within {} ms", deadline.as_millis()))
}

/// The answer of an attempt that failed without a status code.
pub(super) fn failed(kind: ErrorKind, message: &str) -> Answer {
    let message: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let message = Some(truncated(&message, MAX_ERROR_BYTES).to_owned());
    Answer { error: Some(kind), message, ..Answer::default() }
}

/// The answer of an attempt whose URL the guard refuses.
pub(super) fn refused_url(refused: RefusedUrl) -> Answer {
    failed(ErrorKind::RefusedAddress, &format!("the URL {refused}"))
}

impl From<ConnectError> for Answer {
    fn from(error: ConnectError) -> Self {
        let ConnectError { kind, message, is_our_fault } = error;
        Self { is_our_fault, ..failed(kind, &message) }
    }
}

/// The answer of an attempt that had a connection but received no status.
pub(super) fn of_no_status(error: &NoStatus) -> Answer {
    match error {
        NoStatus::Io(error) => of_exchange(error).into(),
        NoStatus::PastDeadline => failed(ErrorKind::Timeout, &error.to_string()),
        NoStatus::NotHttp | NoStatus::TooLong => failed(ErrorKind::Network, &error.to_string()),
    }
}

/// The error of a failed lookup.
pub(super) fn of_lookup(unresolved: &Unresolved) -> ConnectError {
    match unresolved {
        Unresolved::NotStarted(error) | Unresolved::NoAddress(Some(error))
            if dial::is_out_of_resources(error) =>
        {
            exhausted(error)
        }
        Unresolved::NotStarted(_) => ConnectError::ours(unresolved.to_string()),
        Unresolved::NoAddress(_) => ConnectError::new(ErrorKind::Network, unresolved.to_string()),
        Unresolved::NoResponse(_) => ConnectError::new(ErrorKind::Timeout, unresolved.to_string()),
        Unresolved::Refused => ConnectError::new(ErrorKind::RefusedAddress, unresolved.to_string()),
    }
}

/// The error of a failed TCP connection to the host or to the proxy.
pub(super) fn of_dial(failure: &DialError) -> ConnectError {
    let DialError { error, family, is_our_fault } = failure;
    if *is_our_fault {
        return exhausted(error);
    }
    let is_unreachable = error.kind() == io::ErrorKind::NetworkUnreachable;
    if is_unreachable || dial::is_without_family(error) {
        let message = format!("network unreachable: this machine has no {family} route");
        return ConnectError::new(ErrorKind::Network, message);
    }
    of_exchange(error)
}

/// The error of a failed TLS handshake.
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

/// The error of a failed read or write. With TLS 1.3, a server rejects a client certificate only
/// here, after the handshake.
pub(super) fn of_exchange(error: &io::Error) -> ConnectError {
    if let Some(error) = tls_error(error) {
        return ConnectError::new(ErrorKind::Tls, tls_failure::describe(error));
    }
    if dial::is_out_of_resources(error) {
        return exhausted(error);
    }
    let message = of_io(error).unwrap_or("the connection failed");
    let kind = if message == TIMED_OUT { ErrorKind::Timeout } else { ErrorKind::Network };
    ConnectError::new(kind, message)
}

const TIMED_OUT: &str = "the connection timed out";

/// The message of an operating system error. Returns `None` for other errors.
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
        PermissionDenied => "a firewall on this machine blocked the connection",
        UnexpectedEof => "the destination closed the connection without a response",
        _ if error.raw_os_error().is_some() => "the operating system could not open the connection",
        _ => return None,
    })
}

/// The error if this machine has run out of a resource.
fn exhausted(error: &io::Error) -> ConnectError {
    let of = match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => "open files (file descriptors)",
        Some(libc::ENOMEM | libc::ENOBUFS) => "memory",
        _ => "local ports",
    };
    ConnectError::ours(format!("cannot connect: this machine has run out of {of}"))
}

/// The TLS error within an I/O error.
fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}
