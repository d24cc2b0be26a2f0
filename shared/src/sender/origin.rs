//! The origin of a destination: scheme, host and port.

use std::net::IpAddr;

use rustls::pki_types::ServerName;
use url::{Host, Url};

/// The scheme of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Scheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS.
    Https,
}

/// The other end of a connection. Requests to the same origin share kept connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Origin {
    pub(super) scheme: Scheme,
    pub(super) host: Host<String>,
    pub(super) port: u16,
}

impl Origin {
    /// The origin of a URL. `None` for URLs that the guard refuses: with another scheme or without
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

    /// The server name for TLS, without a trailing dot (RFC 6066, 3).
    pub(super) fn server_name(&self) -> Option<ServerName<'static>> {
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
