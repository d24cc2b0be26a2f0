//! Decides which destinations are allowed.
//!
//! The API checks a URL before it accepts a webhook. The sender checks it again before each
//! attempt. The resolver checks every address of a host name.
//!
//! The rules apply to the normalised URL of the [WHATWG URL standard](https://url.spec.whatwg.org),
//! which is also the one that is used. There `http://0x7f.1/`, `http://2130706433/`, and
//! `http://127.0.0.1/` are the same, so no spelling evades a rule.

mod allowlist;

use std::net::IpAddr;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use regex::Regex;
use url::{Host, Url};

use super::address;

/// The maximum length of a URL, in bytes as written.
pub const MAX_URL_BYTES: usize = 2048;

/// The maximum length of a DNS name, without the trailing dot (RFC 1035, 2.3.4).
const MAX_NAME_CHARS: usize = 253;

/// The maximum length of a label of a DNS name (RFC 1035, 2.3.4).
const MAX_LABEL_CHARS: usize = 63;

/// The settings of an [`AddressGuard`].
#[derive(Clone, Debug, Default)]
pub struct GuardSettings {
    /// `ALLOW_PRIVATE_DESTINATIONS`: also allow non-public addresses. For local use.
    pub allow_private: bool,
    /// `WEBHOOK_ALLOWLIST`: an expression that every URL must match from its beginning.
    pub allowlist: Option<Regex>,
    /// `WEBHOOK_HOST_ALLOWLIST`: host globs. If there are any, one must match. `*` also matches
    /// dots. International names use their `xn--` form, and IPv6 addresses have no brackets.
    pub host_allowlist: Vec<String>,
}

/// An invalid entry of `WEBHOOK_HOST_ALLOWLIST`.
#[derive(Debug, thiserror::Error)]
#[error(
    "WEBHOOK_HOST_ALLOWLIST: '{glob}' is not an ASCII host name or a glob such as *.example.com"
)]
pub struct InvalidHostGlob {
    /// The entry.
    pub glob: String,
    /// The error of the glob. `None` if the entry is not ASCII, so that it would never match.
    #[source]
    pub source: Option<globset::Error>,
}

/// Why the guard refuses a URL. The message is for the caller of the API and continues a sentence
/// that begins with "the URL".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusedUrl {
    /// Longer than [`MAX_URL_BYTES`].
    #[error("is longer than {MAX_URL_BYTES} bytes")]
    TooLong,
    /// Not an absolute URL with a host, or one that parsers interpret differently: with spaces,
    /// control characters, or backslashes.
    #[error(
        "is not a valid absolute URL. Use the form https://example.com/path, and percent-encode \
         other characters"
    )]
    Malformed,
    /// Neither http nor https.
    #[error("must begin with http:// or https://")]
    Scheme,
    /// A user name or password.
    #[error("must not contain a user name or password. Send credentials in a header instead")]
    Userinfo,
    /// Port 0, which is not usable.
    #[error("must not have port 0")]
    Port,
    /// A host that is not a valid DNS name.
    #[error(
        "has a host that is not a valid name. A name has at most {MAX_NAME_CHARS} characters, and \
         1 to {MAX_LABEL_CHARS} letters, digits, hyphens, or underscores between its dots"
    )]
    HostName,
    /// The host is a non-public address.
    #[error(
        "has a host that is not a public address ({class}). Use a public host, or set \
         ALLOW_PRIVATE_DESTINATIONS=true for local use"
    )]
    PrivateAddress {
        /// The name of the address block in the registry.
        class: &'static str,
    },
    /// `localhost` or a name under it.
    #[error(
        "has the host localhost, which is not public. Use a public host, or set \
         ALLOW_PRIVATE_DESTINATIONS=true for local use"
    )]
    Localhost,
    /// `WEBHOOK_ALLOWLIST` does not match.
    #[error("is not on the allowlist. WEBHOOK_ALLOWLIST must match from the beginning of the URL")]
    NotOnAllowlist,
    /// `WEBHOOK_ALLOWLIST` matches only with path and query, which could imitate a host.
    #[error(
        "matches WEBHOOK_ALLOWLIST only with its path, which could imitate a host. For patterns \
         with paths, set WEBHOOK_HOST_ALLOWLIST too"
    )]
    OnAllowlistByPathOnly,
    /// `WEBHOOK_HOST_ALLOWLIST` does not contain the host.
    #[error("has a host that is not on the allowlist (WEBHOOK_HOST_ALLOWLIST)")]
    HostNotOnAllowlist,
}

/// Decides which destinations are allowed. It does no I/O.
#[derive(Debug, Default)]
pub struct AddressGuard {
    allow_private: bool,
    allowlist: Option<Regex>,
    host_allowlist: Option<GlobSet>,
}

impl AddressGuard {
    /// Creates a guard with these settings.
    pub fn new(settings: GuardSettings) -> Result<Self, InvalidHostGlob> {
        let GuardSettings { allow_private, allowlist, host_allowlist } = settings;
        Ok(Self { allow_private, allowlist, host_allowlist: compile_globs(&host_allowlist)? })
    }

    /// Whether this address is allowed: it is public, or non-public addresses are allowed.
    pub fn is_allowed(&self, address: IpAddr) -> bool {
        self.allow_private || address::refusal(address).is_none()
    }

    /// Returns the normalised URL, or why it is refused.
    ///
    /// This does not resolve the host name: the addresses are checked for each connection. A
    /// fragment is accepted, but it is neither sent (RFC 9110, 7.1) nor checked.
    pub fn check_url(&self, text: &str) -> Result<Url, RefusedUrl> {
        if text.len() > MAX_URL_BYTES {
            return Err(RefusedUrl::TooLong);
        }
        let url = parse(text)?;
        self.check_host(&url)?;
        self.check_allowlists(&url)?;
        Ok(url)
    }

    /// A URL that the allowlist accepts although its host only *begins* with the allowed one, such
    /// as `https://hooks.example.com.evil.example/`. `None` if the pattern has no such gap, or if
    /// `WEBHOOK_HOST_ALLOWLIST` closes it.
    pub fn allowlist_gap(&self) -> Option<String> {
        if self.host_allowlist.is_some() {
            return None;
        }
        allowlist::gap(self.allowlist.as_ref()?)
    }

    fn check_host(&self, url: &Url) -> Result<(), RefusedUrl> {
        if url.port() == Some(0) {
            return Err(RefusedUrl::Port);
        }
        let address: IpAddr = match url.host() {
            None => return Err(RefusedUrl::Malformed),
            Some(Host::Domain(name)) if !is_host_name(name) => return Err(RefusedUrl::HostName),
            Some(Host::Domain(name)) if is_localhost(name) && !self.allow_private => {
                return Err(RefusedUrl::Localhost);
            }
            Some(Host::Domain(_)) => return Ok(()),
            Some(Host::Ipv4(address)) => address.into(),
            Some(Host::Ipv6(address)) => address.into(),
        };
        match address::refusal(address) {
            Some(class) if !self.allow_private => Err(RefusedUrl::PrivateAddress { class }),
            _ => Ok(()),
        }
    }

    fn check_allowlists(&self, url: &Url) -> Result<(), RefusedUrl> {
        if let Some(hosts) = &self.host_allowlist
            && !hosts.is_match(bare_host(url))
        {
            return Err(RefusedUrl::HostNotOnAllowlist);
        }
        let Some(allowlist) = &self.allowlist else { return Ok(()) };
        let matches = |url: &Url| matches_from_start(allowlist, url.as_str());
        let mut url = url.clone();
        url.set_fragment(None);
        if !matches(&url) {
            return Err(RefusedUrl::NotOnAllowlist);
        }
        if self.host_allowlist.is_none() {
            url.set_query(None);
            url.set_path("/");
            if !matches(&url) {
                return Err(RefusedUrl::OnAllowlistByPathOnly);
            }
        }
        Ok(())
    }
}

/// `scheme://host:port`, always with a port. Fairness, statistics, and the circuit breaker group
/// webhooks by this key.
pub fn destination_key(url: &Url) -> String {
    // http and https both have a known port.
    let port = url.port_or_known_default().unwrap_or(0);
    let host = url.host_str().unwrap_or_default();
    format!("{}://{}:{port}", url.scheme(), host.strip_suffix('.').unwrap_or(host))
}

fn parse(text: &str) -> Result<Url, RefusedUrl> {
    // The standard drops some of these characters and reads a backslash as a slash. Other parsers
    // do not.
    if text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '\\') {
        return Err(RefusedUrl::Malformed);
    }
    let url = Url::parse(text).map_err(|_| RefusedUrl::Malformed)?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(RefusedUrl::Scheme);
    }
    let (_, rest) = text.split_once("://").ok_or(RefusedUrl::Malformed)?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.is_empty() {
        // `https:///example.com`, which the standard reads as `https://example.com`.
        return Err(RefusedUrl::Malformed);
    }
    if authority.contains('@') || !url.username().is_empty() || url.password().is_some() {
        return Err(RefusedUrl::Userinfo);
    }
    // Refuses URLs that the HTTP library cannot send.
    if http::Uri::try_from(url.as_str()).is_err() {
        return Err(RefusedUrl::Malformed);
    }
    Ok(url)
}

/// Whether the expression matches from the first character, like Python's `re.match`. It need not
/// match the end.
fn matches_from_start(expression: &Regex, text: &str) -> bool {
    expression.find(text).is_some_and(|found| found.start() == 0)
}

/// Whether this is a valid DNS name. International names are in their `xn--` form.
fn is_host_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_known = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
    let is_label =
        |label: &str| (1..=MAX_LABEL_CHARS).contains(&label.len()) && label.bytes().all(is_known);
    name.len() <= MAX_NAME_CHARS && name.split('.').all(is_label)
}

/// Names that RFC 6761 (6.3) reserves for loopback.
fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name == "localhost" || name.ends_with(".localhost")
}

/// The host without the brackets of an IPv6 address, which have a meaning in globs, and without a
/// trailing dot.
fn bare_host(url: &Url) -> String {
    match url.host() {
        Some(Host::Domain(name)) => name.strip_suffix('.').unwrap_or(name).to_owned(),
        Some(Host::Ipv4(address)) => address.to_string(),
        Some(Host::Ipv6(address)) => address.to_string(),
        None => String::new(),
    }
}

/// Returns `None` if there are no globs, so that every host is allowed.
fn compile_globs(globs: &[String]) -> Result<Option<GlobSet>, InvalidHostGlob> {
    if globs.is_empty() {
        return Ok(None);
    }
    let invalid = |glob: &str, source| InvalidHostGlob { glob: glob.to_owned(), source };
    let mut set = GlobSetBuilder::new();
    for glob in globs {
        if !glob.is_ascii() {
            return Err(invalid(glob, None));
        }
        let built = GlobBuilder::new(glob).case_insensitive(true).build();
        set.add(built.map_err(|error| invalid(glob, Some(error)))?);
    }
    set.build().map(Some).map_err(|error| invalid(&globs.join(","), Some(error)))
}

#[cfg(test)]
mod tests;
