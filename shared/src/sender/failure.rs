//! Turns an HTTP library's error into a kind and a sentence for people.
//!
//! The sentence is made from what the error *is*, not from its text, which may hold the URL, addresses or names; only where
//! nothing better is known the innermost text is used, which is the protocol parser's.

use std::{error::Error, io, time::Duration};

use rustls::{CertificateError, InvalidMessage};

use super::{Answer, connect::ConnectError, exchange::NoStatus, resolve::Unresolved};
use crate::model::{ErrorKind, MAX_ERROR_BYTES, truncated};

/// The answer of an attempt that ended at its deadline without a status code.
pub(super) fn timed_out(deadline: Duration) -> Answer {
    failed(ErrorKind::Timeout, &format!("no answer within {} ms", deadline.as_millis()))
}

/// The answer of an attempt that failed without a status code.
pub(super) fn failed(kind: ErrorKind, message: &str) -> Answer {
    let message: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    Answer { error: Some(kind), message: Some(truncated(&message, MAX_ERROR_BYTES).to_owned()), ..Answer::default() }
}

/// The answer of an attempt whose request was sent, or was about to be, and that got no status.
pub(super) fn of_exchange(error: &NoStatus) -> Answer {
    match error {
        NoStatus::Io(error) => describe(error),
        NoStatus::PastDeadline => failed(ErrorKind::Timeout, &error.to_string()),
        NoStatus::NotHttp | NoStatus::TooLong => failed(ErrorKind::Network, &error.to_string()),
    }
}

impl From<ConnectError> for Answer {
    fn from(error: ConnectError) -> Self {
        Self { is_our_fault: error.is_our_fault, ..failed(error.kind, &error.message) }
    }
}

/// The answer of an attempt that came to this error.
pub(super) fn describe(error: &(dyn Error + 'static)) -> Answer {
    for cause in chain(error) {
        if let Some(unresolved) = cause.downcast_ref::<Unresolved>() {
            return unresolved_name(unresolved);
        }
        if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
            return failed(ErrorKind::Tls, &describe_tls(tls));
        }
        if cause.downcast_ref::<io::Error>().is_some_and(is_our_fault) {
            let message = format!("out of resources on this machine: {cause}");
            return Answer { is_our_fault: true, ..failed(ErrorKind::Network, &message) };
        }
        if let Some(message) = cause.downcast_ref::<io::Error>().and_then(describe_io) {
            let kind = if message == TIMED_OUT { ErrorKind::Timeout } else { ErrorKind::Network };
            return failed(kind, message);
        }
    }
    let innermost = chain(error).last().map_or_else(|| "the request failed".to_owned(), ToString::to_string);
    failed(ErrorKind::Network, &innermost)
}

/// The answer of an attempt whose host's name led nowhere.
pub(super) fn unresolved_name(unresolved: &Unresolved) -> Answer {
    let kind = match unresolved {
        Unresolved::NoAddress(_) | Unresolved::NotAsked(_) => ErrorKind::Network,
        Unresolved::Refused => ErrorKind::RefusedAddress,
        Unresolved::Unanswered(_) => ErrorKind::Timeout,
    };
    let is_our_fault = matches!(unresolved, Unresolved::NotAsked(_));
    Answer { is_our_fault, ..failed(kind, &unresolved.to_string()) }
}

/// An error and its causes, from the outside in. An error within an [`io::Error`] is not among its sources, so it is looked for.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&cause| match cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(within) => Some(within as &(dyn Error + 'static)),
        None => cause.source(),
    })
}

const TIMED_OUT: &str = "the connection timed out";

/// Whether the system refused for a reason of this machine: too many open files, or no free port.
fn is_our_fault(error: &io::Error) -> bool {
    // ENFILE and EMFILE have these numbers on Linux, macOS and the BSDs alike; the standard library has no name for them.
    error.kind() == io::ErrorKind::AddrNotAvailable || matches!(error.raw_os_error(), Some(23 | 24))
}

/// What the operating system said; `None` if the error only carries another one.
fn describe_io(error: &io::Error) -> Option<&'static str> {
    if let Some(within) = error.get_ref()
        && (within.is::<rustls::Error>() || within.is::<io::Error>())
    {
        return None;
    }
    Some(match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused",
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => "connection reset",
        io::ErrorKind::HostUnreachable => "host unreachable",
        io::ErrorKind::NetworkUnreachable => "network unreachable",
        io::ErrorKind::TimedOut => TIMED_OUT,
        io::ErrorKind::UnexpectedEof => "the destination closed the connection before it answered",
        _ if error.raw_os_error().is_some() => "the system could not make the connection",
        _ => return None,
    })
}

fn describe_tls(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(error) => format!("TLS: {}", describe_certificate(error)),
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion) => {
            "TLS: the destination does not speak TLS on this port".to_owned()
        }
        rustls::Error::AlertReceived(alert) => format!("TLS: the destination refused the handshake ({alert:?})"),
        rustls::Error::PeerIncompatible(_) => "TLS: no protocol version or cipher suite in common".to_owned(),
        other => format!("TLS: {other}"),
    }
}

fn describe_certificate(error: &CertificateError) -> String {
    let known = match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "the certificate has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "the certificate is not valid yet",
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the certificate is for another name"
        }
        CertificateError::UnknownIssuer => "the certificate's issuer is not trusted",
        CertificateError::Revoked => "the certificate was revoked",
        CertificateError::BadEncoding => "the certificate cannot be read",
        CertificateError::BadSignature => "the certificate's signature is wrong",
        other => return format!("the certificate is not valid ({other})"),
    };
    known.to_owned()
}
