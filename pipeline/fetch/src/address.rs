//! Guard against server-side request forgery: detects non-public addresses, which an untrusted URL must not reach.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// Error for a URL that leads to a private address.
#[derive(Debug, thiserror::Error)]
#[error("{0} has a private address: SET fetch.allow_private = true if that is meant")]
pub(crate) struct Private(pub(crate) String);

/// Whether an address is private, loopback, link-local, multicast or reserved (IANA's special-purpose registries), also
/// if embedded in an IPv6 address.
pub(crate) fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_private_v4(v4),
        IpAddr::V6(v6) => is_private_v6(v6),
    }
}

fn is_private_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_documentation()
        // "This network"; multicast, and the reserved range up to the broadcast address.
        || a == 0
        || a >= 224
        // Carrier-grade NAT; protocol assignments; benchmarking; 6to4 relay.
        || (a == 100 && (64..128).contains(&b))
        || (a, b, c) == (192, 0, 0)
        || (a == 198 && (18..20).contains(&b))
        || (a, b, c) == (192, 88, 99)
}

fn is_private_v6(address: Ipv6Addr) -> bool {
    let parts = address.segments();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_private_v4(Ipv4Addr::new(a, b, c, d))
    };
    match parts {
        // `::`, `::1`, and IPv4-mapped, IPv4-compatible and IPv4-translated addresses.
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        // 6to4 embeds an IPv4 address too.
        [0x2002, high, low, ..] => v4(high, low),
        // Protocol assignments (Teredo, benchmarking, ORCHID), documentation, discard, local translation, segment
        // routing.
        [0x2001, 0..0x200 | 0xdb8, ..]
        | [0x3fff, 0..0x1000, ..]
        | [0x5f00, ..]
        | [0x100, 0, 0, 0, ..]
        | [0x64, 0xff9b, 1, ..] => true,
        // Unique local, link-local, site-local, multicast.
        [first, ..] => first & 0xfe00 == 0xfc00 || first & 0xff80 == 0xfe80 || first & 0xff00 == 0xff00,
    }
}

/// Refuses a private IP literal; host names are checked when they are resolved.
pub(crate) fn check(url: &Url) -> Result<(), Private> {
    let address = match url.host() {
        Some(Host::Ipv4(v4)) => IpAddr::V4(v4),
        Some(Host::Ipv6(v6)) => IpAddr::V6(v6),
        _ => return Ok(()),
    };
    if is_private(address) { Err(Private(address.to_string())) } else { Ok(()) }
}

/// DNS resolver that drops private addresses.
pub(crate) struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let name = name.as_str().to_owned();
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let public: Vec<SocketAddr> = found.into_iter().filter(|address| !is_private(address.ip())).collect();
            if public.is_empty() {
                return Err(Private(name).into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_in_every_dress() {
        for text in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "192.168.1.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "64:ff9b::a00:1",
            "2002:7f00:1::",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "2001:db8::1",
            "2001:2::1",
            "2001:10::1",
            "3fff::1",
            "5f00::1",
            "::ffff:0:7f00:1",
        ] {
            assert!(is_private(text.parse().unwrap()), "{text}");
        }
        for text in [
            "1.1.1.1",
            "8.8.8.8",
            "100.128.0.1",
            "172.32.0.1",
            "198.20.0.1",
            "2606:4700::1",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
        ] {
            assert!(!is_private(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn numbers_are_hosts_too() {
        for text in [
            "http://2130706433/",
            "http://0x7f.1/",
            "http://127.1/x",
            "http://[::ffff:7f00:1]/",
            "http://017700000001/",
        ] {
            assert!(check(&text.parse().unwrap()).is_err(), "{text}");
        }
        for text in ["http://example.com/", "http://1.1.1.1/"] {
            assert!(check(&text.parse().unwrap()).is_ok(), "{text}");
        }
    }
}
