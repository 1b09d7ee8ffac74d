//! The address of a client, by which requests are limited.

use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;
use ipnet::IpNet;

/// Returns the address of the client whose connection comes from `peer`.
///
/// Behind a load balancer every connection comes from the balancer, which appends the address of
/// its own peer to `X-Forwarded-For`. The last entry that is not one of the `trusted` proxies is
/// the client. Entries before it are the client's own claims.
pub(super) fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address: &IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut client = peer.to_canonical();
    let lists = headers.get_all("x-forwarded-for").iter().rev();
    let entries = lists
        .flat_map(|list| list.as_bytes().rsplit(|byte| *byte == b','))
        .map(|entry| parse_entry(std::str::from_utf8(entry).ok()?.trim()));
    for entry in entries {
        if !is_trusted(&client) {
            break;
        }
        match entry {
            Some(address) => client = address.to_canonical(),
            None => break,
        }
    }
    client
}

/// Parses an address, to which some proxies add the port.
fn parse_entry(text: &str) -> Option<IpAddr> {
    let with_port = || text.parse().map(|address: SocketAddr| address.ip());
    text.parse().or_else(|_| with_port()).ok()
}

/// Parses a network such as `10.0.0.0/8`, or a single address.
pub(super) fn parse_network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    text.parse()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| "write addresses or networks, such as 10.0.0.0/8,192.0.2.7".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, forwarded: &[&str], trusted: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for list in forwarded {
            headers.append("x-forwarded-for", list.parse().unwrap());
        }
        let trusted: Vec<_> = trusted
            .iter()
            .map(|text| parse_network(text).unwrap())
            .collect();
        client_address(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn the_header_of_an_untrusted_peer_is_ignored() {
        assert_eq!(client("192.0.2.1", &["198.51.100.7"], &[]), "192.0.2.1");
        assert_eq!(
            client("192.0.2.1", &["198.51.100.7"], &["10.0.0.0/8"]),
            "192.0.2.1"
        );
    }

    #[test]
    fn the_last_address_that_is_not_a_proxy_is_the_client() {
        let proxies = ["10.0.0.0/8", "203.0.113.9"];
        for (forwarded, expected) in [
            (&["198.51.100.7"][..], "198.51.100.7"),
            // The first entries are what the client sent itself.
            (&["127.0.0.1, 198.51.100.7"], "198.51.100.7"),
            (&["127.0.0.1", "198.51.100.7 , 10.1.1.1"], "198.51.100.7"),
            (&["198.51.100.7, 203.0.113.9,10.9.9.9"], "198.51.100.7"),
            (&["::ffff:198.51.100.7"], "198.51.100.7"),
            (&["2001:db8::7"], "2001:db8::7"),
            (&["198.51.100.7:4711"], "198.51.100.7"),
            (&["[2001:db8::7]:4711"], "2001:db8::7"),
            // Nothing that can be used before the proxy.
            (&[], "10.0.0.1"),
            (&["unknown"], "10.0.0.1"),
            (&["198.51.100.7, unknown, 10.1.1.1"], "10.1.1.1"),
            (&["10.2.2.2"], "10.2.2.2"),
        ] {
            assert_eq!(
                client("10.0.0.1", forwarded, &proxies),
                expected,
                "{forwarded:?}"
            );
        }
    }

    #[test]
    fn a_proxy_is_an_address_or_a_network() {
        for right in ["10.0.0.0/8", "192.0.2.7", "2001:db8::/32", " ::1 "] {
            assert!(parse_network(right).is_ok(), "{right}");
        }
        for wrong in ["", "10.0.0.0/33", "proxy", "10.0.0"] {
            assert!(parse_network(wrong).is_err(), "{wrong}");
        }
    }
}
