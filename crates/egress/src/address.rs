//! What an address means: the open Internet, this site, or nothing that a download may ever reach.
//!
//! Sources: IANA's registries of special-purpose addresses (IPv4, IPv6), RFC 6890, RFC 6598 (100.64.0.0/10), RFC 6052
//! and RFC 8215 (NAT64), RFC 4380 (Teredo), RFC 3056 (6to4).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What an address means for whether it may be connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddressKind {
    /// Anyone's: 2000::/3 and IPv4 without the special blocks.
    Public,
    /// This machine.
    Loopback,
    /// A site's own: RFC 1918, ULA, site-local, shared (CGNAT).
    Private,
    /// One wire's own: 169.254.0.0/16, fe80::/10.
    LinkLocal,
    /// Where clouds hand out their machines' credentials. Never connected to.
    Metadata,
    /// Multicast, broadcast, unspecified, documentation, tunnels, reserved. Never connected to.
    Special,
}

impl AddressKind {
    /// What an address means. Addresses that carry an IPv4 address mean what that one means.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => of_v4(v4),
            IpAddr::V6(v6) => of_v6(v6),
        }
    }

    /// Whether an operator's rule can open it: this machine and this site, and never the rest.
    pub fn can_be_allowed(self) -> bool {
        matches!(self, Self::Loopback | Self::Private | Self::LinkLocal)
    }
}

impl fmt::Display for AddressKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Public => "public",
            Self::Loopback => "this machine's own",
            Self::Private => "private",
            Self::LinkLocal => "link-local",
            Self::Metadata => "a cloud's metadata service",
            Self::Special => "special, not a host's",
        })
    }
}

/// Metadata services: AWS, Google, Azure and most others; Alibaba; Azure's wire server; Oracle.
const METADATA_V4: [Ipv4Addr; 5] = [
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(169, 254, 170, 2),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(192, 0, 0, 192),
];

/// The metadata service of AWS over IPv6, and that of Google.
const METADATA_V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];

fn of_v4(v4: Ipv4Addr) -> AddressKind {
    if METADATA_V4.contains(&v4) {
        return AddressKind::Metadata;
    }
    match v4.octets() {
        [127, ..] => AddressKind::Loopback,
        [10, ..] | [192, 168, ..] | [172, 16..=31, ..] | [100, 64..=127, ..] => AddressKind::Private,
        [169, 254, ..] => AddressKind::LinkLocal,
        // "This network", IETF protocol assignments, 6to4 relays, the three of documentation, benchmarks, multicast,
        // reserved, broadcast.
        [0, ..] | [192, 0, 0 | 2, _] | [192, 88, 99, _] | [198, 18 | 19, ..] | [198, 51, 100, _] => {
            AddressKind::Special
        }
        [203, 0, 113, _] | [224..=255, ..] => AddressKind::Special,
        _ => AddressKind::Public,
    }
}

fn of_v6(v6: Ipv6Addr) -> AddressKind {
    if METADATA_V6.contains(&v6) {
        return AddressKind::Metadata;
    }
    if v6 == Ipv6Addr::LOCALHOST {
        return AddressKind::Loopback;
    }
    if let Some(v4) = embedded_v4(v6) {
        return of_v4(v4);
    }
    if is_local_nat64(v6) {
        // Where an IPv4 address stands in it is the site's choice, so it counts as the site's own, whatever it seems to say.
        let is_metadata = local_nat64_v4s(v6).iter().any(|v4| METADATA_V4.contains(v4));
        return if is_metadata { AddressKind::Metadata } else { AddressKind::Private };
    }
    match v6.segments() {
        [0xfe80..=0xfebf, ..] => AddressKind::LinkLocal,
        [0xfc00..=0xfdff | 0xfec0..=0xfeff, ..] => AddressKind::Private,
        // Protocol assignments (Teredo and ORCHID among them), documentation.
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => AddressKind::Special,
        [0x2000..=0x3fff, ..] => AddressKind::Public,
        // All that was never given out, `::` and ff00::/8 among it.
        _ => AddressKind::Special,
    }
}

/// The IPv4 address that such an address stands for: mapped, compatible, NAT64 with the well-known prefix, 6to4.
fn embedded_v4(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = v6.segments();
    let last = || Ipv4Addr::from((u32::from(s[6]) << 16) | u32::from(s[7]));
    match s {
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => Some(last()),
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => Some(last()),
        [0x2002, high, low, ..] => Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low))),
        _ => None,
    }
}

/// Whether it is of the prefix that sites use for a NAT64 of their own.
fn is_local_nat64(v6: Ipv6Addr) -> bool {
    matches!(v6.segments(), [0x64, 0xff9b, 1, ..])
}

/// The IPv4 addresses that it can stand for, with a prefix of 48, 56, 64 and 96 bits (RFC 6052, 2.2).
fn local_nat64_v4s(v6: Ipv6Addr) -> [Ipv4Addr; 4] {
    let o = v6.octets();
    let places: [[usize; 4]; 4] = [[6, 7, 9, 10], [7, 9, 10, 11], [9, 10, 11, 12], [12, 13, 14, 15]];
    places.map(|place| Ipv4Addr::from(place.map(|at| o[at])))
}

#[cfg(test)]
mod tests {
    use super::AddressKind::{LinkLocal, Loopback, Metadata, Private, Public, Special};
    use super::*;

    #[test]
    fn kinds() {
        let table: &[(AddressKind, &[&str])] = &[
            (
                Public,
                &[
                    "1.1.1.1",
                    "8.8.8.8",
                    "99.255.255.255",
                    "100.63.255.255",
                    "100.128.0.0",
                    "126.255.255.255",
                    "128.0.0.0",
                    "172.15.255.255",
                    "172.32.0.0",
                    "192.0.1.0",
                    "192.167.1.1",
                    "192.169.0.0",
                    "198.17.0.1",
                    "198.20.0.1",
                    "223.255.255.255",
                    "2606:4700::1111",
                    "2001:200::1",
                    "::ffff:8.8.8.8",
                    "64:ff9b::808:808",
                    "2002:808:808::1",
                    "3fff:1000::1",
                ],
            ),
            (
                Loopback,
                &[
                    "127.0.0.1",
                    "127.255.255.254",
                    "::1",
                    "::ffff:127.0.0.1",
                    "::127.0.0.1",
                    "64:ff9b::7f00:1",
                    "2002:7f00:1::1",
                ],
            ),
            (
                Private,
                &[
                    "10.0.0.0",
                    "10.255.255.255",
                    "172.16.0.1",
                    "172.31.255.255",
                    "192.168.0.1",
                    "100.64.0.1",
                    "100.127.255.255",
                    "fc00::1",
                    "fdff::1",
                    "fec0::1",
                    "::ffff:10.0.0.1",
                    "64:ff9b:1::a00:1",
                    "64:ff9b:1::808:808",
                    "64:ff9b:1::7f00:1",
                    // 10.0.0.1 behind prefixes of 48, 56 and 64 bits.
                    "64:ff9b:1:a00:0:100::",
                    "64:ff9b:1:a:0:1::",
                    "64:ff9b:1:0:a:0:100:0",
                    "64:ff9b::c0a8:1",
                    "2002:a00:1::",
                    "::ffff:0:a00:1",
                ],
            ),
            (LinkLocal, &["169.254.0.1", "169.254.255.255", "fe80::1", "febf::1", "::ffff:169.254.1.1"]),
            (
                Metadata,
                &[
                    "169.254.169.254",
                    "169.254.170.2",
                    "100.100.100.200",
                    "168.63.129.16",
                    "192.0.0.192",
                    "fd00:ec2::254",
                    "fd20:ce::254",
                    "::ffff:169.254.169.254",
                    "64:ff9b::a9fe:a9fe",
                    "64:ff9b:1::a9fe:a9fe",
                    "64:ff9b:1:a9fe:a9:fe00::",
                    "64:ff9b:1:a9:fe:a9fe::",
                    "64:ff9b:1:0:a9:fea9:fe00:0",
                    "2002:a9fe:a9fe::1",
                ],
            ),
            (
                Special,
                &[
                    "0.0.0.0",
                    "0.1.2.3",
                    "192.0.0.1",
                    "192.0.2.1",
                    "192.88.99.1",
                    "198.18.0.1",
                    "198.19.255.255",
                    "198.51.100.1",
                    "203.0.113.1",
                    "224.0.0.1",
                    "239.255.255.255",
                    "240.0.0.1",
                    "255.255.255.255",
                    "::",
                    "::ffff:0.0.0.0",
                    "ff02::1",
                    "100::1",
                    "2001::1",
                    "2001:10::1",
                    "2001:db8::1",
                    "3fff::1",
                    "5f00::1",
                    "4000::1",
                    "fe00::1",
                    "::ffff:224.0.0.1",
                ],
            ),
        ];
        for (kind, addresses) in table {
            for text in *addresses {
                let address: IpAddr = text.parse().expect("an address");
                assert_eq!(AddressKind::of(address), *kind, "{text}");
            }
        }
    }
}
