//! Tables of public and non-public addresses.
//!
//! Sources: IANA's IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890 and its updates), the
//! IPv4 and IPv6 multicast registries, and the IPv6 Global Unicast Address Assignments. An address
//! that they do not list as globally reachable is refused. This includes smaller reachable blocks
//! within a refused block, which are anycast services for home routers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// Refused IPv4 blocks and their names.
const REFUSED_V4: [(Ipv4Net, &str); 17] = [
    (v4([0, 0, 0, 0], 8), "this network"),
    (v4([10, 0, 0, 0], 8), "private"),
    (v4([100, 64, 0, 0], 10), "shared (carrier-grade NAT)"),
    (v4([127, 0, 0, 0], 8), "loopback"),
    (v4([169, 254, 0, 0], 16), "link-local"),
    (v4([172, 16, 0, 0], 12), "private"),
    (v4([192, 0, 0, 0], 24), "reserved for protocols"),
    (v4([192, 0, 2, 0], 24), "documentation"),
    (v4([192, 88, 99, 0], 24), "6to4 relay"),
    (v4([192, 168, 0, 0], 16), "private"),
    (v4([198, 18, 0, 0], 15), "benchmarking"),
    (v4([198, 51, 100, 0], 24), "documentation"),
    (v4([203, 0, 113, 0], 24), "documentation"),
    (v4([224, 0, 0, 0], 4), "multicast"),
    (v4([255, 255, 255, 255], 32), "broadcast"),
    (v4([240, 0, 0, 0], 4), "reserved"),
    // Not in the registries. In Azure, this public address is the metadata and agent service of the
    // host (Microsoft Learn, "What is IP address 168.63.129.16?").
    (v4([168, 63, 129, 16], 32), "cloud metadata"),
];

/// The only IPv6 block with public addresses. Outside of it are loopback, IPv4-compatible,
/// IPv4-translated, NAT64 (`64:ff9b::/96`, `64:ff9b:1::/48`), unique local, link-local, multicast,
/// and other addresses.
const PUBLIC_V6: Ipv6Net = v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);

/// Refused blocks within [`PUBLIC_V6`].
const REFUSED_V6: [(Ipv6Net, &str); 4] = [
    // Teredo (2001::/32), benchmarking, ORCHID and more.
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), "reserved for protocols (among them Teredo)"),
    (v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), "documentation"),
    (v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16), "6to4"),
    (v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), "documentation"),
];

/// Names of blocks outside of [`PUBLIC_V6`], for more specific messages than "not public".
const NAMED_V6: [(Ipv6Net, &str); 8] = [
    (v6([0, 0, 0, 0, 0, 0, 0, 1], 128), "loopback"),
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 128), "unspecified"),
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 96), "IPv4-compatible"),
    (v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 32), "NAT64"),
    (v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7), "private (unique local)"),
    (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), "link-local"),
    (v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10), "private (site-local)"),
    (v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), "multicast"),
];

const fn v4(a: [u8; 4], prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a[0], a[1], a[2], a[3]), prefix)
}

const fn v6(a: [u16; 8], prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]), prefix)
}

/// The name of the block of a refused address, or `None` for a public address.
///
/// IPv6 addresses that embed an IPv4 address are refused, with two exceptions: IPv4-mapped and
/// ISATAP addresses follow the rule for the embedded address. An operator-specific NAT64 prefix is
/// not recognisable and counts as public.
pub(super) fn refusal(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => refusal_v4(address),
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(mapped) => refusal_v4(mapped),
            None => refusal_v6(address),
        },
    }
}

fn refusal_v4(address: Ipv4Addr) -> Option<&'static str> {
    REFUSED_V4.iter().find(|(block, _)| block.contains(&address)).map(|(_, name)| *name)
}

fn refusal_v6(address: Ipv6Addr) -> Option<&'static str> {
    if !PUBLIC_V6.contains(&address) {
        let named = NAMED_V6.iter().find(|(block, _)| block.contains(&address));
        return Some(named.map_or("not public", |(_, name)| *name));
    }
    if let Some((_, name)) = REFUSED_V6.iter().find(|(block, _)| block.contains(&address)) {
        return Some(name);
    }
    isatap(address).and_then(refusal_v4)
}

/// The IPv4 address in an ISATAP interface identifier (RFC 5214, 6.1): `0000:5efe` or
/// `0200:5efe`, then the address.
fn isatap(address: Ipv6Addr) -> Option<Ipv4Addr> {
    match address.octets() {
        [.., 0x00 | 0x02, 0x00, 0x5e, 0xfe, a, b, c, d] => Some(Ipv4Addr::new(a, b, c, d)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(address: &str) -> Option<&'static str> {
        refusal(address.parse().unwrap())
    }

    /// The first, the last and an inner address of every block is refused, and named.
    #[test]
    fn every_class_of_ipv4_is_refused_to_its_edges() {
        let cases = [
            ("this network", ["0.0.0.0", "0.0.0.1", "0.255.255.255"]),
            ("private", ["10.0.0.0", "10.1.2.3", "10.255.255.255"]),
            ("private", ["172.16.0.0", "172.20.0.1", "172.31.255.255"]),
            ("private", ["192.168.0.0", "192.168.1.1", "192.168.255.255"]),
            ("shared (carrier-grade NAT)", ["100.64.0.0", "100.100.100.200", "100.127.255.255"]),
            ("loopback", ["127.0.0.0", "127.0.0.1", "127.255.255.255"]),
            ("link-local", ["169.254.0.0", "169.254.169.254", "169.254.255.255"]),
            ("reserved for protocols", ["192.0.0.0", "192.0.0.170", "192.0.0.255"]),
            ("documentation", ["192.0.2.0", "192.0.2.9", "192.0.2.255"]),
            ("documentation", ["198.51.100.0", "198.51.100.9", "198.51.100.255"]),
            ("documentation", ["203.0.113.0", "203.0.113.9", "203.0.113.255"]),
            ("6to4 relay", ["192.88.99.0", "192.88.99.1", "192.88.99.255"]),
            ("benchmarking", ["198.18.0.0", "198.19.0.1", "198.19.255.255"]),
            ("multicast", ["224.0.0.0", "239.1.2.3", "239.255.255.255"]),
            ("reserved", ["240.0.0.0", "250.0.0.1", "255.255.255.254"]),
            ("broadcast", ["255.255.255.255"; 3]),
            ("cloud metadata", ["168.63.129.16"; 3]),
        ];
        for (name, addresses) in cases {
            for address in addresses {
                assert_eq!(judge(address), Some(name), "{address}");
                let mapped = format!("::ffff:{address}");
                assert_eq!(judge(&mapped), Some(name), "{mapped}");
            }
        }
        assert!(
            REFUSED_V4.iter().all(|(_, name)| cases.iter().any(|(case, _)| case == name)),
            "a class without a case"
        );
    }

    #[test]
    fn the_neighbours_of_every_ipv4_block_are_public() {
        for address in [
            "1.0.0.0",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.0.3.0",
            "192.88.98.255",
            "192.88.100.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "198.51.99.255",
            "198.51.101.0",
            "203.0.112.255",
            "203.0.114.0",
            "223.255.255.255",
            "168.63.129.15",
            "168.63.129.17",
            "8.8.8.8",
            "::ffff:8.8.8.8",
        ] {
            assert_eq!(judge(address), None, "{address}");
        }
    }

    #[test]
    fn every_class_of_ipv6_is_refused() {
        let cases = [
            ("loopback", &["::1"][..]),
            ("unspecified", &["::"]),
            ("IPv4-compatible", &["::2", "::8.8.8.8", "::127.0.0.1", "::10.0.0.1"]),
            (
                "NAT64",
                &[
                    "64:ff9b::8.8.8.8",
                    "64:ff9b::127.0.0.1",
                    "64:ff9b:1::",
                    "64:ff9b:1:ffff:ffff:ffff:a00:1",
                ],
            ),
            (
                "private (unique local)",
                &["fc00::", "fd00:ec2::254", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"],
            ),
            ("link-local", &["fe80::", "fe80::1", "febf:ffff::1"]),
            ("private (site-local)", &["fec0::1", "feff::1"]),
            ("multicast", &["ff00::", "ff02::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]),
            (
                "reserved for protocols (among them Teredo)",
                &["2001::", "2001:0:4136:e378::1", "2001:1::1", "2001:2::1"],
            ),
            (
                "reserved for protocols (among them Teredo)",
                &["2001:10::1", "2001:20::1", "2001:30::1", "2001:1ff:ffff::1"],
            ),
            ("documentation", &["2001:db8::", "2001:db8:ffff::1", "3fff::", "3fff:fff:ffff::1"]),
            ("6to4", &["2002::", "2002:7f00:1::", "2002:808:808::1", "2002:ffff:ffff::1"]),
            // Discard-only, SRv6 SIDs, IPv4-translated, and unassigned addresses.
            (
                "not public",
                &[
                    "100::1",
                    "5f00::1",
                    "::ffff:0:127.0.0.1",
                    "1fff:ffff::1",
                    "4000::",
                    "8000::1",
                    "1::1",
                ],
            ),
        ];
        for (name, addresses) in cases {
            for address in addresses {
                assert_eq!(judge(address), Some(name), "{address}");
            }
        }
    }

    #[test]
    fn isatap_follows_the_rule_of_the_embedded_address() {
        assert_eq!(judge("2a00:1450::5efe:127.0.0.1"), Some("loopback"));
        assert_eq!(judge("2a00:1450::200:5efe:169.254.169.254"), Some("link-local"));
        assert_eq!(judge("2a00:1450::200:5efe:8.8.8.8"), None);
    }

    #[test]
    fn assigned_ipv6_is_public() {
        for address in [
            "2000::1",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2606:4700::1111",
            "2a00:1450::1",
            "2003::1",
            "3ffe::1",
        ] {
            assert_eq!(judge(address), None, "{address}");
        }
    }
}
