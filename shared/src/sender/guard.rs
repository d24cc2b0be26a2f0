//! Where Posthaste may connect: the rules for a URL, which the API asks before it accepts a webhook
//! and the sender again before each attempt, and the rule for an address, which the resolver asks
//! about every address that a name has.
//!
//! A URL is judged in the one form in which it is used, the normalised one of the [WHATWG URL
//! standard](https://url.spec.whatwg.org), where `http://0x7f.1/`, `http://2130706433/` and
//! `http://127.0.0.1/` are the same. So no spelling gets past a rule.

mod allowlist;

use std::net::IpAddr;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use regex::Regex;
use url::{Host, Url};

use super::address;

/// The longest URL accepted, in bytes as written.
pub const MAX_URL_BYTES: usize = 2048;

/// The longest name that the DNS can hold, in characters, without the root's dot (RFC 1035, 2.3.4).
const MAX_NAME_CHARS: usize = 253;

/// The longest part of a name between two dots (RFC 1035, 2.3.4).
const MAX_LABEL_CHARS: usize = 63;

/// What an [`AddressGuard`] is made of.
#[derive(Clone, Debug, Default)]
pub struct GuardSettings {
    /// `ALLOW_PRIVATE_DESTINATIONS`: addresses that are not public are allowed too. For local use.
    pub allow_private: bool,
    /// `WEBHOOK_ALLOWLIST`: what a URL must match from its first character on, if there is one.
    pub allowlist: Option<Regex>,
    /// `WEBHOOK_HOST_ALLOWLIST`: host globs, of which one must match, if there are any. `*` also
    /// matches dots. International names stand in their `xn--` form, IPv6 addresses without
    /// brackets.
    pub host_allowlist: Vec<String>,
}

/// Why an entry of `WEBHOOK_HOST_ALLOWLIST` cannot be used; for whoever starts Posthaste.
#[derive(Debug, thiserror::Error)]
#[error(
    "WEBHOOK_HOST_ALLOWLIST has '{glob}', which is not a host name in ASCII or a glob of one; \
     example: *.example.com"
)]
pub struct InvalidHostGlob {
    /// The entry.
    pub glob: String,
    /// What is wrong with it; `None` if it is not ASCII, and so would never match.
    #[source]
    pub source: Option<globset::Error>,
}

/// Why nothing is sent to a URL. The text is for the caller of the API: it names the reason and the
/// way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusedUrl {
    /// Longer than [`MAX_URL_BYTES`].
    #[error("the URL is longer than {MAX_URL_BYTES} bytes")]
    TooLong,
    /// Not an absolute URL with a host, or one that parsers read differently: with blanks, control
    /// characters or backslashes.
    #[error(
        "not a valid absolute URL; it must look like https://example.com/path, and other \
         characters must be percent-encoded"
    )]
    Malformed,
    /// Neither http nor https.
    #[error("only http and https URLs are allowed")]
    Scheme,
    /// A user name or password.
    #[error("the URL must not hold a user name or password; send credentials as a header instead")]
    Userinfo,
    /// Port 0, at which nothing can listen.
    #[error("the URL's port must not be 0")]
    Port,
    /// A host that no name server can know.
    #[error(
        "the URL's host is not a valid name: it must have at most {MAX_NAME_CHARS} characters, and \
         between its dots 1 to {MAX_LABEL_CHARS} letters, digits, hyphens and underscores"
    )]
    HostName,
    /// The host is an address that is not public.
    #[error(
        "the host is not a public address ({class}); use a public one \
         (ALLOW_PRIVATE_DESTINATIONS=true allows others, for local use)"
    )]
    PrivateAddress {
        /// What the registry calls the address that the caller wrote.
        class: &'static str,
    },
    /// `localhost` or a name under it.
    #[error(
        "localhost is not a public host; use a public one (ALLOW_PRIVATE_DESTINATIONS=true allows \
         it, for local use)"
    )]
    Localhost,
    /// `WEBHOOK_ALLOWLIST` does not match.
    #[error(
        "the URL is not on the allowlist (WEBHOOK_ALLOWLIST, matched from the URL's beginning)"
    )]
    NotOnAllowlist,
    /// `WEBHOOK_ALLOWLIST` matches, but not without path and query, so they could pose as the host.
    #[error(
        "the allowlist (WEBHOOK_ALLOWLIST) matches this URL only with its path, which could pose \
         as the host; for patterns with paths, set WEBHOOK_HOST_ALLOWLIST too"
    )]
    OnAllowlistByPathOnly,
    /// `WEBHOOK_HOST_ALLOWLIST` does not name the host.
    #[error("the URL's host is not on the host allowlist (WEBHOOK_HOST_ALLOWLIST)")]
    HostNotOnAllowlist,
}

/// Says where Posthaste may connect. Pure; see the module.
#[derive(Debug, Default)]
pub struct AddressGuard {
    allow_private: bool,
    allowlist: Option<Regex>,
    host_allowlist: Option<GlobSet>,
}

impl AddressGuard {
    /// The guard with these settings.
    pub fn new(settings: GuardSettings) -> Result<Self, InvalidHostGlob> {
        let GuardSettings { allow_private, allowlist, host_allowlist } = settings;
        Ok(Self { allow_private, allowlist, host_allowlist: compile_globs(&host_allowlist)? })
    }

    /// Whether a connection may go to this address: it is globally reachable, or private ones are
    /// allowed.
    pub fn is_allowed(&self, address: IpAddr) -> bool {
        self.allow_private || address::refusal(address).is_none()
    }

    /// The URL in the form in which it is used, or why nothing may be sent to it.
    ///
    /// No name is resolved: what a name's addresses are is judged at the connection, each time
    /// anew. A fragment is accepted; it is neither sent (RFC 9110, 7.1) nor judged.
    pub fn check_url(&self, text: &str) -> Result<Url, RefusedUrl> {
        if text.len() > MAX_URL_BYTES {
            return Err(RefusedUrl::TooLong);
        }
        let url = parse(text)?;
        self.check_host(&url)?;
        self.check_allowlists(&url)?;
        Ok(url)
    }

    /// A URL that the allowlist lets in although its host only *begins* with what the pattern
    /// names, as in `https://hooks.example.com.evil.example/`. `None` if the pattern leaves no such
    /// gap, or if `WEBHOOK_HOST_ALLOWLIST` closes it.
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

/// `scheme://host:port`, the port always there: what fairness, statistics and the circuit breaker
/// group by.
pub fn destination_key(url: &Url) -> String {
    // Only http and https come here, and both have a known port.
    let port = url.port_or_known_default().unwrap_or(0);
    let host = url.host_str().unwrap_or_default();
    format!("{}://{}:{port}", url.scheme(), host.strip_suffix('.').unwrap_or(host))
}

fn parse(text: &str) -> Result<Url, RefusedUrl> {
    // The standard drops some of these and reads a backslash as a slash; other parsers do not, so
    // they can only confuse.
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
    // What the HTTP library cannot send must not be accepted first.
    if http::Uri::try_from(url.as_str()).is_err() {
        return Err(RefusedUrl::Malformed);
    }
    Ok(url)
}

/// Whether the expression matches from the first character on, as Python's `re.match` does. An
/// expression that wants the end says so by `$`.
fn matches_from_start(expression: &Regex, text: &str) -> bool {
    expression.find(text).is_some_and(|found| found.start() == 0)
}

/// Whether a name server can know this name. International names stand in their `xn--` form here.
fn is_host_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_known = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
    let is_label =
        |label: &str| (1..=MAX_LABEL_CHARS).contains(&label.len()) && label.bytes().all(is_known);
    name.len() <= MAX_NAME_CHARS && name.split('.').all(is_label)
}

/// Names that RFC 6761 (6.3) gives to loopback; a resolver may answer them without asking anybody.
fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name == "localhost" || name.ends_with(".localhost")
}

/// The host without an IPv6 address's brackets, which a glob reads as a set of characters, and
/// without the root's dot.
fn bare_host(url: &Url) -> String {
    match url.host() {
        Some(Host::Domain(name)) => name.strip_suffix('.').unwrap_or(name).to_owned(),
        Some(Host::Ipv4(address)) => address.to_string(),
        Some(Host::Ipv6(address)) => address.to_string(),
        None => String::new(),
    }
}

/// `None` for no globs: then any host is allowed.
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
