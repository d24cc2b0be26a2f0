//! The settings of a delivery's connection: extra root certificates, a client certificate, a proxy.

use std::{fmt, path::PathBuf};

use base64::{Engine, engine::general_purpose::STANDARD};
use percent_encoding::percent_decode_str;
use url::{Host, Url};

use super::parse::Reader;

/// The prefix of PEM, with which no path begins.
const PEM_BEGIN: &str = "-----BEGIN ";

/// The port of a URL without one.
const DEFAULT_PORT: u16 = 80;

const PROXY_EXAMPLE: &str = "http://proxy.example.com:3128";

/// PEM: in a file, or as the text of a secret that the setting refers to.
#[derive(Clone, PartialEq, Eq)]
pub enum Pem {
    /// The file's path.
    File(PathBuf),
    /// The text.
    Text(String),
}

impl Pem {
    fn of(value: String) -> Self {
        if value.contains(PEM_BEGIN) { Self::Text(value) } else { Self::File(value.into()) }
    }
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => fmt::Debug::fmt(path, f),
            Self::Text(_) => f.write_str("Text(..)"),
        }
    }
}

/// The client certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// `WEBHOOK_CLIENT_CERT_FILE`: the certificate, then its intermediates.
    pub certificate: Pem,
    /// `WEBHOOK_CLIENT_KEY_FILE`.
    pub key: Pem,
}

/// `WEBHOOK_CA_FILE`, `WEBHOOK_CLIENT_*_FILE`, `WEBHOOK_PROXY_URL`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EgressSettings {
    /// `WEBHOOK_CA_FILE`: certificates that are trusted in addition to the web's roots.
    pub ca: Option<Pem>,
    /// `WEBHOOK_CLIENT_CERT_FILE` and `WEBHOOK_CLIENT_KEY_FILE`.
    pub client: Option<ClientCertificate>,
    /// `WEBHOOK_PROXY_URL`.
    pub proxy: Option<ProxyUrl>,
}

impl EgressSettings {
    pub(super) fn read(read: &mut Reader<'_>) -> Self {
        let certificate = read.secret_text("WEBHOOK_CLIENT_CERT_FILE").map(Pem::of);
        let key = read.secret_text("WEBHOOK_CLIENT_KEY_FILE").map(Pem::of);
        let client = match (certificate, key) {
            (Some(certificate), Some(key)) => Some(ClientCertificate { certificate, key }),
            (None, None) => None,
            (Some(_), None) => {
                let fault = "must be set, since WEBHOOK_CLIENT_CERT_FILE is";
                read.fault("WEBHOOK_CLIENT_KEY_FILE", fault, "/etc/posthaste/client.key");
                None
            }
            (None, Some(_)) => {
                let fault = "must be set, since WEBHOOK_CLIENT_KEY_FILE is";
                read.fault("WEBHOOK_CLIENT_CERT_FILE", fault, "/etc/posthaste/client.pem");
                None
            }
        };
        let ca = read.secret_text("WEBHOOK_CA_FILE").map(Pem::of);
        Self { ca, client, proxy: proxy(read) }
    }
}

fn proxy(read: &mut Reader<'_>) -> Option<ProxyUrl> {
    let text = read.secret_text("WEBHOOK_PROXY_URL")?;
    match ProxyUrl::parse(&text) {
        Ok(url) => Some(url),
        Err(fault) => {
            // The message leaves out the value, which may contain a password.
            read.fault("WEBHOOK_PROXY_URL", fault, PROXY_EXAMPLE);
            None
        }
    }
}

/// An egress proxy. `Display` and `Debug` show its host and port, never its credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyUrl {
    host: Host<String>,
    port: u16,
    authorization: Option<String>,
}

impl ProxyUrl {
    /// Parses `http://[user:password@]host[:port]`. The error describes the fault without the text.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let url = Url::parse(text).map_err(|_| "is not a URL")?;
        if url.scheme() != "http" {
            return Err("must begin with http://, the only protocol spoken to a proxy");
        }
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err("must end after host and port");
        }
        let host = url.host().ok_or("names no host")?.to_owned();
        if url.port() == Some(0) {
            return Err("must not have port 0");
        }
        let (user, password) = (url.username(), url.password().unwrap_or_default());
        let authorization = if user.is_empty() && password.is_empty() {
            None
        } else {
            let user = decode(user).ok_or("has a user name that is not UTF-8")?;
            let password = decode(password).ok_or("has a password that is not UTF-8")?;
            if user.contains(':') {
                return Err("has a user name with a colon, which basic credentials cannot hold");
            }
            Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
        };
        Ok(Self { host, port: url.port().unwrap_or(DEFAULT_PORT), authorization })
    }

    /// The host of the proxy.
    pub fn host(&self) -> &Host<String> {
        &self.host
    }

    /// The port of the proxy.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The value of `Proxy-Authorization`. A secret.
    pub fn authorization(&self) -> Option<&str> {
        self.authorization.as_deref()
    }
}

impl fmt::Display for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Decodes percent-encoding. `None` if the result is not UTF-8.
fn decode(text: &str) -> Option<String> {
    percent_decode_str(text).decode_utf8().ok().map(Into::into)
}
