//! Opens the connection of an attempt within [`CONNECT_TIMEOUT`]: name lookup, TCP, the tunnel
//! through the egress proxy if one is configured, and TLS.

use std::{
    fmt, io,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use url::Host;

use super::{
    AddressGuard, CONNECT_TIMEOUT, SenderConfig, dial,
    failure::{self, ConnectError},
    origin::{Origin, Scheme},
    proxy::Proxy,
    resolve::{Resolver, Unresolved},
    trust,
};
use crate::{model::ErrorKind, tls::InvalidTls};

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

/// Opens connections. A process has one, so that it can resume TLS sessions.
pub(super) struct Connector {
    guard: Arc<AddressGuard>,
    resolver: Resolver,
    tls: TlsConnector,
    proxy: Option<Proxy>,
}

impl Connector {
    pub(super) fn new(config: &SenderConfig) -> Result<Self, InvalidTls> {
        let tls = trust::client(config.extra_roots.clone(), config.identity.clone())?;
        let guard = Arc::clone(&config.guard);
        let lookup = Arc::clone(&config.lookup);
        let proxy = config.proxy.clone().map(|proxy| Proxy::new(proxy, Arc::clone(&lookup)));
        let resolver = Resolver::new(Arc::clone(&guard), lookup);
        Ok(Self { guard, resolver, tls: Arc::new(tls).into(), proxy })
    }

    /// Opens a connection to `origin`.
    pub(super) async fn connect(&self, origin: &Origin) -> Result<Stream, ConnectError> {
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        let tcp = match &self.proxy {
            None => self.connect_directly(origin, deadline).await?,
            Some(proxy) => proxy.tunnel(origin, deadline).await?,
        };
        match origin.scheme {
            Scheme::Http => Ok(Stream::Tcp(tcp)),
            Scheme::Https => self.handshake(origin, tcp, deadline).await,
        }
    }

    async fn connect_directly(
        &self,
        origin: &Origin,
        deadline: Instant,
    ) -> Result<TcpStream, ConnectError> {
        let addresses = match &origin.host {
            Host::Domain(name) => timeout_at(deadline, self.resolver.addresses(name))
                .await
                .map_err(|_| too_slow("the name lookup"))?
                .map_err(|unresolved| failure::of_lookup(&unresolved))?,
            Host::Ipv4(address) => vec![self.allowed((*address).into())?],
            Host::Ipv6(address) => vec![self.allowed((*address).into())?],
        };
        timeout_at(deadline, dial::dial(&addresses, origin.port))
            .await
            .map_err(|_| too_slow("the TCP connection"))?
            .map_err(|error| failure::of_dial(&error))
    }

    /// The final check before a packet is sent. The guard has already checked the URL.
    fn allowed(&self, address: IpAddr) -> Result<IpAddr, ConnectError> {
        if self.guard.is_allowed(address) {
            return Ok(address);
        }
        Err(failure::of_lookup(&Unresolved::Refused))
    }

    async fn handshake(
        &self,
        origin: &Origin,
        tcp: TcpStream,
        deadline: Instant,
    ) -> Result<Stream, ConnectError> {
        let Some(name) = origin.server_name() else {
            let message = "TLS: the URL's host is not a valid certificate name";
            return Err(ConnectError::new(ErrorKind::Tls, message));
        };
        timeout_at(deadline, self.tls.connect(name, tcp))
            .await
            .map_err(|_| too_slow("the TLS handshake"))?
            .map(|stream| Stream::Tls(Box::new(stream)))
            .map_err(|error| failure::of_handshake(&error))
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let proxy = self.proxy.as_ref().map(ToString::to_string);
        f.debug_struct("Connector").field("proxy", &proxy).finish_non_exhaustive()
    }
}

fn too_slow(step: &str) -> ConnectError {
    let limit = CONNECT_TIMEOUT.as_millis();
    ConnectError::new(
        ErrorKind::Timeout,
        format!("no connection within {limit} ms: {step} took too long"),
    )
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

#[cfg(test)]
mod tests;
