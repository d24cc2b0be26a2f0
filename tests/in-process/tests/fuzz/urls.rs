//! The address guard: what it accepts is where it says, and what it refuses is never connected to.

use std::net::{IpAddr, Ipv6Addr};

use regex::Regex;
use shared::{
    model::ErrorKind,
    sender::{AddressGuard, GuardSettings, MAX_URL_BYTES, destination_key},
};
use url::{Host, Url};

use crate::{
    engine,
    server::{DONE, Wire},
};

const WORDS: [&str; 22] = [
    "http://",
    "https://",
    "127.0.0.1",
    "0x7f.1",
    "2130706433",
    "017700000001",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[fe80::1%25eth0]",
    "169.254.169.254",
    "localhost",
    "localhost.",
    "example.com",
    ".example.com",
    "xn--",
    "%31",
    "\u{ff11}",
    "\u{3002}",
    "user:pass@",
    ":9001",
    "\\",
];

/// Whether the standard library calls it anything but an ordinary address: a second opinion,
/// coarser than ours.
fn is_special(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            v4.is_loopback()
                || v4.is_private()
                || v4.is_link_local()
                || v4.is_unspecified()
                || v4.is_broadcast()
                || v4.is_multicast()
                || v4.is_documentation()
                || v4.octets()[0] == 0
                || v4.octets()[0] >= 240
        }
        IpAddr::V6(v6) => {
            let embedded = v6.to_ipv4().or_else(|| sixth_to_fourth(v6));
            v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_multicast()
                || v6.is_unique_local()
                || v6.is_unicast_link_local()
                || embedded.is_some_and(|v4| is_special(v4.into()))
        }
    }
}

/// The IPv4 address within a 6to4 or NAT64 one.
fn sixth_to_fourth(v6: Ipv6Addr) -> Option<std::net::Ipv4Addr> {
    match v6.segments() {
        [0x2002, high, low, ..] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            Some(((u32::from(high) << 16) | u32::from(low)).into())
        }
        _ => None,
    }
}

fn judge_accepted(guard: &AddressGuard, text: &str, url: &Url) {
    assert!(
        matches!(url.scheme(), "http" | "https")
            && url.username().is_empty()
            && url.password().is_none(),
        "{text}: {url}"
    );
    // Percent-encoding can make it longer than what is accepted as written.
    if url.as_str().len() <= MAX_URL_BYTES {
        assert_eq!(
            guard.check_url(url.as_str()).as_ref(),
            Ok(url),
            "{text}: what it is used as is accepted as itself"
        );
    }
    let key = destination_key(url);
    let grouped: Url = key.parse().unwrap_or_else(|error| panic!("{text}: {key}: {error}"));
    assert_eq!(destination_key(&grouped), key, "{text}: its destination is its own");
    assert!(http::Uri::try_from(url.as_str()).is_ok(), "{text}: what is accepted can be sent");
}

#[test]
fn guard() {
    let open = AddressGuard::default();
    let local =
        AddressGuard::new(GuardSettings { allow_private: true, ..GuardSettings::default() })
            .unwrap();
    let globs = vec!["*.example.com".to_owned()];
    let hosts =
        AddressGuard::new(GuardSettings { host_allowlist: globs, ..GuardSettings::default() })
            .unwrap();
    let pattern = Some(Regex::new(r"^https://.*\.example\.com/.*$").unwrap());
    let listed =
        AddressGuard::new(GuardSettings { allowlist: pattern, ..GuardSettings::default() })
            .unwrap();
    engine::run(bolero::check!(), "urls__guard", &WORDS, |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        if let Ok(url) = local.check_url(text) {
            judge_accepted(&local, text, &url);
        }
        let on_hosts = |url: &Url| {
            url.host_str().unwrap_or_default().trim_end_matches('.').ends_with(".example.com")
        };
        for (guard, is_listed) in [(&hosts, true), (&listed, true), (&open, false)] {
            let Ok(url) = guard.check_url(text) else { continue };
            judge_accepted(guard, text, &url);
            assert!(local.check_url(text).is_ok(), "{text}: who allows less accepts no more");
            assert!(!is_listed || on_hosts(&url), "{text}: {url} is on no list");
            match url.host().unwrap() {
                Host::Ipv4(address) => assert!(!is_special(address.into()), "{text}: {address}"),
                Host::Ipv6(address) => assert!(!is_special(address.into()), "{text}: {address}"),
                Host::Domain(name) => {
                    let name = name.trim_end_matches('.');
                    assert!(name != "localhost" && !name.ends_with(".localhost"), "{text}: {name}");
                }
            }
        }
    });
}

/// A name leads to this machine, whatever it is. No URL, refused or not, opens a connection to it;
/// nothing that is refused as a URL is looked up. Addresses that are accepted as such are public,
/// so nothing is sent to them here.
#[test]
fn never_inside() {
    let guard = AddressGuard::default();
    let wire = Wire::start(GuardSettings::default());
    engine::run(bolero::check!(), "urls__never_inside", &WORDS, |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        // An address with a listener.
        let text = text.replace(":9001", &format!(":{}", wire.port));
        let before = wire.counts();
        let checked = guard.check_url(&text);
        if checked.as_ref().is_ok_and(|url| !matches!(url.host(), Some(Host::Domain(_)))) {
            return;
        }
        let answer = wire.send(&text, &[], DONE);
        let after = wire.counts();
        // A name that no resolver takes leads nowhere.
        let is_unresolvable =
            checked.is_ok() && after.1 == before.1 && answer.error == Some(ErrorKind::Network);
        assert!(
            answer.error == Some(ErrorKind::RefusedAddress) || is_unresolvable,
            "{text}: {answer:?}"
        );
        assert_eq!(after.0, 0, "{text}: there was a connection");
        assert!(checked.is_ok() || after.1 == before.1, "{text}: it was looked up");
    });
}
