//! Makes the connection of one attempt: name look-up through the guard, TCP, the egress proxy's
//! tunnel if there is one, and TLS, all within [`CONNECT_TIMEOUT`].

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use url::{Host, Url};

use super::{CONNECT_TIMEOUT, SenderConfig, failure, resolve::Resolver};
use crate::{
    model::ErrorKind,
    tls::{self, InvalidTls},
};

/// Whether TLS is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Scheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS.
    Https,
}

/// What a connection leads to. Connections to one origin serve each other's requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Origin {
    pub(super) scheme: Scheme,
    pub(super) host: Host<String>,
    pub(super) port: u16,
}

impl Origin {
    /// The origin of a URL. `None` for a URL that the guard refuses: of another scheme, or without
    /// a host.
    pub(super) fn of(url: &Url) -> Option<Self> {
        let scheme = match url.scheme() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return None,
        };
        let host = url.host()?.to_owned();
        Some(Self { scheme, host, port: url.port_or_known_default()? })
    }

    /// The name for TLS. The root's dot is not a part of it (RFC 6066, 3).
    fn server_name(&self) -> Option<ServerName<'static>> {
        match &self.host {
            Host::Domain(name) => {
                let name = name.strip_suffix('.').unwrap_or(name);
                ServerName::try_from(name.to_owned()).ok()
            }
            Host::Ipv4(address) => Some(ServerName::IpAddress(IpAddr::from(*address).into())),
            Host::Ipv6(address) => Some(ServerName::IpAddress(IpAddr::from(*address).into())),
        }
    }
}

/// Why there is no connection. The message is for people.
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
}

/// A connection, ready for the first request.
pub(super) enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp(_) => "Tcp",
            Self::Tls(_) => "Tls",
        })
    }
}

/// Makes connections. One for a process: TLS sessions are resumed.
pub(super) struct Connector {
    resolver: Resolver,
    tls: TlsConnector,
}

impl Connector {
    pub(super) fn new(config: &SenderConfig) -> Result<Self, InvalidTls> {
        let tls = Arc::new(tls::http_client(config.extra_roots.clone())?).into();
        let (guard, lookup) = (Arc::clone(&config.guard), Arc::clone(&config.lookup));
        Ok(Self { resolver: Resolver { guard, lookup }, tls })
    }

    /// A new connection to `origin`.
    pub(super) async fn connect(&self, origin: &Origin) -> Result<Stream, ConnectError> {
        match tokio::time::timeout(CONNECT_TIMEOUT, self.connect_in_time(origin)).await {
            Ok(connected) => connected,
            Err(_) => {
                let message = format!("no connection within {} ms", CONNECT_TIMEOUT.as_millis());
                Err(ConnectError::new(ErrorKind::Timeout, message))
            }
        }
    }

    async fn connect_in_time(&self, origin: &Origin) -> Result<Stream, ConnectError> {
        let addresses = match &origin.host {
            Host::Domain(name) => self.resolver.addresses(name).await.map_err(|error| failed(&error))?,
            Host::Ipv4(address) => vec![(*address).into()],
            Host::Ipv6(address) => vec![(*address).into()],
        };
        let addresses: Vec<SocketAddr> =
            addresses.into_iter().map(|address| (address, origin.port).into()).collect();
        let tcp = TcpStream::connect(&*addresses).await.map_err(|error| failed(&error))?;
        tcp.set_nodelay(true).map_err(|error| failed(&error))?;
        match (origin.scheme, origin.server_name()) {
            (Scheme::Http, _) => Ok(Stream::Tcp(tcp)),
            (Scheme::Https, Some(name)) => {
                let tls = self.tls.connect(name, tcp).await.map_err(|error| failed(&error))?;
                Ok(Stream::Tls(Box::new(tls)))
            }
            (Scheme::Https, None) => Err(ConnectError::new(ErrorKind::Tls, "TLS: the host is no name")),
        }
    }
}

fn failed(error: &(dyn std::error::Error + 'static)) -> ConnectError {
    let answer = failure::describe(error);
    ConnectError {
        kind: answer.error.unwrap_or(ErrorKind::Network),
        message: answer.message.unwrap_or_default(),
        is_our_fault: answer.is_our_fault,
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
