//! The hosts of requests that a console accepts.

use std::net::IpAddr;
use std::str::FromStr;

use axum::http::HeaderMap;
use axum::http::header::HOST;
use axum::http::uri::Authority;

/// Names under which a console is reached, besides `localhost` and addresses: `RELAY_ADMIN_HOSTS`.
///
/// The attack that this prevents is DNS rebinding: an attacker makes a name of its own resolve to
/// the address of a console, and a browser then permits the attacker's page to read the console's
/// responses. Such a request still carries the attacker's name in its `Host` header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedHosts(Vec<String>);

impl AllowedHosts {
    /// Returns `true` if the request is for a host of the console: `localhost`, one of these names,
    /// or an IP address. Without tokens, that must be a loopback address.
    pub(super) fn allow(&self, headers: &HeaderMap, has_tokens: bool) -> bool {
        let mut hosts = headers.get_all(HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else {
            return false;
        };
        let Ok(authority) = Authority::try_from(host.as_bytes()) else {
            return false;
        };
        let host = authority.host();
        let address = host.trim_start_matches('[').trim_end_matches(']');
        match address.parse::<IpAddr>() {
            Ok(address) => has_tokens || address.to_canonical().is_loopback(),
            Err(_) => {
                host.eq_ignore_ascii_case("localhost")
                    || self.0.iter().any(|name| name.eq_ignore_ascii_case(host))
            }
        }
    }
}

impl FromStr for AllowedHosts {
    type Err = String;

    /// Parses `relay.internal,outbox.example.org`; empty for none.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let names = text
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty());
        names
            .map(|name| {
                let is_plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_');
                if name.len() <= 253 && name.bytes().all(is_plain) {
                    Ok(name.to_owned())
                } else {
                    Err(format!(
                        "`{name}` is not a host name, such as relay.internal, without a port"
                    ))
                }
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(names: &str, has_tokens: bool, hosts: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(HOST, host.parse().unwrap());
        }
        let allowed: AllowedHosts = names.parse().unwrap();
        allowed.allow(&headers, has_tokens)
    }

    #[test]
    fn loopback_names_and_configured_ones_are_accepted() {
        for has_tokens in [false, true] {
            for host in [
                "localhost:8081",
                "LOCALHOST",
                "127.0.0.1:1",
                "127.9.9.9",
                "[::1]:8081",
                "relay.internal",
                "Relay.Internal:8081",
            ] {
                assert!(allows("relay.internal", has_tokens, &[host]), "{host}");
            }
            for host in [
                "evil.example:8081",
                "localhost.example.org",
                "relay.internal.example.org",
                "x.relay.internal",
                "a b",
                "",
            ] {
                assert!(!allows("relay.internal", has_tokens, &[host]), "{host:?}");
            }
            assert!(!allows("", has_tokens, &[]));
            assert!(!allows("", has_tokens, &["localhost", "localhost"]));
        }
    }

    #[test]
    fn other_addresses_require_a_token() {
        for host in ["10.0.0.1", "192.0.2.7:8081", "[2001:db8::2]"] {
            assert!(allows("", true, &[host]), "{host}");
            assert!(!allows("", false, &[host]), "{host}");
        }
    }

    #[test]
    fn a_name_has_no_port_and_no_scheme() {
        for wrong in ["relay:8081", "http://relay", "a b", "relay/"] {
            assert!(wrong.parse::<AllowedHosts>().is_err(), "{wrong}");
        }
        assert_eq!("".parse(), Ok(AllowedHosts::default()));
    }
}
