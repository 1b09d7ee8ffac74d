//! Addresses of clients.

use std::net::{IpAddr, Ipv6Addr};

/// Returns the addresses that are limited together: one IPv4 address, or the 64-bit network of an
/// IPv6 address, which usually belongs to one client as a whole.
///
/// An IPv4 address that is written as an IPv6 address counts as the IPv4 address.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() & (u128::MAX << 64);
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_an_ipv4_address_or_64_bits_of_an_ipv6_address() {
        for (address, network) in [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("2001:db8::ffff:1", "2001:db8::"),
        ] {
            let found = network_of(address.parse().unwrap());
            assert_eq!(found.to_string(), network, "{address}");
        }
    }
}
