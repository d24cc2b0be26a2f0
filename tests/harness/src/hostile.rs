//! Hostile receivers: destinations that hang, lie, flood or break off, each at a port of its own,
//! and what must be recorded of each.
//!
//! A receiver is a list of [`Step`]s that every connection goes through, over plain TCP or over TLS
//! with a certificate that may be wrong. It speaks no HTTP of its own: what it sends are bytes, so
//! it can send what no library would.
//!
//! | part | what it holds |
//! |---|---|
//! | [`catalogue`] | the behaviours, and what is to be recorded of each |
//! | [`certificates`] | an authority of one's own, and the certificates that it signs well or badly |
//! | `serve` | the server |

pub mod catalogue;
pub mod certificates;
mod serve;

use std::time::Duration;

pub use self::serve::HostileReceiver;

/// What a connection does next. After the last step it is closed in the usual way.
#[derive(Clone, Debug)]
pub enum Step {
    /// Reads one request to the end of its body.
    Read,
    /// Writes these bytes.
    Write(Vec<u8>),
    /// Writes these bytes again and again with this pause, until the client closes.
    Repeat(Vec<u8>, Duration),
    /// Writes these bytes one by one with this pause.
    Drip(Vec<u8>, Duration),
    /// Nothing, until the client closes.
    Stall,
    /// Closes with a reset instead of an end.
    Reset,
    /// All steps again, for who keeps the connection and sends another request.
    Again,
}

/// What the server does about TLS before the first step.
#[derive(Clone, Debug, Default)]
pub enum Transport {
    /// None: the steps are on the bare connection.
    #[default]
    Plain,
    /// A handshake with a certificate.
    Tls(certificates::Certificate),
    /// None, though it is asked for by https: the steps stand in for the handshake.
    Pretended,
}
