//! Hostile receivers: destinations that hang, send invalid responses, send too much, or close
//! early; and the outcome that must be recorded for each.
//!
//! A receiver runs a list of [`Step`]s on each connection, over plain TCP or over TLS with a
//! possibly invalid certificate. It sends raw bytes, so it can send what no HTTP library would.
//!
//! | module | contents |
//! |---|---|
//! | [`catalogue`] | the behaviours and their expected outcomes |
//! | [`certificates`] | a certificate authority, with valid and invalid certificates |
//! | `serve` | the server |

pub mod catalogue;
pub mod certificates;
mod serve;

use std::time::Duration;

pub use self::serve::HostileReceiver;

/// One step of a connection. After the last step the connection is closed normally.
#[derive(Clone, Debug)]
pub enum Step {
    /// Reads one request to the end of its body.
    Read,
    /// Writes these bytes.
    Write(Vec<u8>),
    /// Writes these bytes repeatedly with this pause, until the client closes.
    Repeat(Vec<u8>, Duration),
    /// Writes these bytes one by one with this pause.
    Drip(Vec<u8>, Duration),
    /// Waits until the client closes.
    Stall,
    /// Closes with a reset (RST).
    Reset,
    /// Starts over, for a client that sends another request on the connection.
    Again,
}

/// The transport of the steps.
#[derive(Clone, Debug, Default)]
pub enum Transport {
    /// Plain TCP.
    #[default]
    Plain,
    /// TLS with this certificate.
    Tls(certificates::Certificate),
    /// Plain TCP with an https URL: the steps replace the handshake.
    Pretended,
}
