//! Opens a tunnel to an origin through the egress proxy of `WEBHOOK_PROXY_URL` (CONNECT, RFC 9110,
//! 9.3.6).
//!
//! The proxy resolves the host name of the destination, since a network with a proxy often cannot
//! resolve external names, and the rules of a proxy are about names. The address guard therefore
//! checks only the URL, and the proxy must refuse private addresses.
//!
//! Errors of the proxy itself do not count against a destination.

use std::{fmt, io, net::IpAddr, sync::Arc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout_at},
};
use url::Host;

use super::{
    CONNECT_TIMEOUT, Lookup, dial,
    failure::{self, ConnectError},
    origin::Origin,
};
use crate::{config::ProxyUrl, model::ErrorKind};

/// The maximum length of the proxy's response to CONNECT: 16 KiB.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// The end of the header lines.
const END: &[u8] = b"\r\n\r\n";

/// The egress proxy. `Display` shows its host and port, never its credentials.
pub(super) struct Proxy {
    url: ProxyUrl,
    lookup: Arc<dyn Lookup>,
}

impl Proxy {
    pub(super) fn new(url: ProxyUrl, lookup: Arc<dyn Lookup>) -> Self {
        Self { url, lookup }
    }

    /// Opens a tunnel to `origin`.
    pub(super) async fn tunnel(
        &self,
        origin: &Origin,
        deadline: Instant,
    ) -> Result<TcpStream, ConnectError> {
        let limit = CONNECT_TIMEOUT.as_millis();
        let mut stream = timeout_at(deadline, self.reach()).await.map_err(|_| {
            ConnectError::ours(format!("the egress proxy {self} did not respond within {limit} ms"))
        })??;
        let answer = timeout_at(deadline, self.ask(&mut stream, origin)).await.map_err(|_| {
            // The proxy accepted the connection and waits for the destination.
            let message =
                format!("no connection through the egress proxy {self} within {limit} ms");
            ConnectError::new(ErrorKind::Timeout, message)
        })?;
        let status = answer.map_err(|error| {
            ConnectError::ours(format!("the egress proxy {self} failed: {}", describe(&error)))
        })?;
        self.judge(status).map(|()| stream)
    }

    /// Connects to the proxy. The guard does not apply: the operator configures the proxy, which
    /// usually has a private address.
    async fn reach(&self) -> Result<TcpStream, ConnectError> {
        let addresses: Vec<IpAddr> = match self.url.host() {
            Host::Ipv4(address) => vec![(*address).into()],
            Host::Ipv6(address) => vec![(*address).into()],
            Host::Domain(name) => {
                let found = self.lookup.lookup(name).await.unwrap_or_default();
                if found.is_empty() {
                    let message = format!("the name of the egress proxy {self} does not resolve");
                    return Err(ConnectError::ours(message));
                }
                found
            }
        };
        dial::dial(&addresses, self.url.port()).await.map_err(|error| {
            let fault = failure::of_dial(&error).message;
            ConnectError::ours(format!("the egress proxy {self} cannot be reached: {fault}"))
        })
    }

    /// Sends CONNECT and returns the status. Reads to the end of the header lines and no further,
    /// since the next byte belongs to the tunnel.
    async fn ask(&self, stream: &mut TcpStream, origin: &Origin) -> io::Result<u16> {
        let Origin { host, port, .. } = origin;
        let mut request = format!("CONNECT {host}:{port} HTTP/1.1\r\nhost: {host}:{port}\r\n");
        if let Some(authorization) = self.url.authorization() {
            request.extend(["proxy-authorization: ", authorization, "\r\n"]);
        }
        request += concat!("user-agent: Posthaste/", env!("CARGO_PKG_VERSION"), "\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let head = read_head(stream).await?;
        status(&head).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn judge(&self, status: u16) -> Result<(), ConnectError> {
        let destination = |message| Err(ConnectError::new(ErrorKind::Network, message));
        match status {
            200..=299 => Ok(()),
            407 => Err(ConnectError::ours(if self.url.authorization().is_some() {
                format!(
                    "the egress proxy {self} rejected the credentials of WEBHOOK_PROXY_URL (407)"
                )
            } else {
                format!(
                    "the egress proxy {self} requires credentials (407). Set them in \
                     WEBHOOK_PROXY_URL"
                )
            })),
            403 => destination(format!(
                "the egress proxy {self} does not allow connections to the destination (403)"
            )),
            502..=504 => destination(format!(
                "the egress proxy {self} could not connect to the destination ({status})"
            )),
            _ => Err(ConnectError::ours(format!(
                "the egress proxy {self} responded to CONNECT with status {status}"
            ))),
        }
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

fn describe(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::InvalidData => "its response to CONNECT is not HTTP/1.1",
        io::ErrorKind::UnexpectedEof => "it closed the connection without a response",
        _ => failure::of_io(error).unwrap_or("the connection failed"),
    }
}

/// Reads up to and including the blank line, and no further.
async fn read_head(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while head.len() <= MAX_HEAD_BYTES {
        let known = head.len();
        let seen = stream.peek(&mut buffer).await?;
        if seen == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(&buffer[..seen]);
        // The end can begin in the bytes that were read before.
        let from = known.saturating_sub(END.len() - 1);
        let end = head[from..].windows(END.len()).position(|window| window == END);
        if let Some(end) = end {
            head.truncate(from + end + END.len());
        }
        // The peeked bytes are still in the socket.
        stream.read_exact(&mut buffer[..head.len() - known]).await?;
        if end.is_some() {
            return Ok(head);
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// The status code of `HTTP/1.x NNN`.
fn status(head: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(head.get(..12)?).ok()?;
    let (version, code) = line.split_once(' ')?;
    if !matches!(version, "HTTP/1.0" | "HTTP/1.1") || !code.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    code.parse().ok().filter(|code| (200..=599).contains(code))
}
