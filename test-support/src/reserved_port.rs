//! Ports of services, reserved before anything starts.
//!
//! A port is reserved by binding it without listening, and stays bound while its service restarts:
//! on Linux two sockets with `SO_REUSEADDR` may share a port as long as at most one of them
//! listens, and a bound port is never assigned as a free one. Port 0 becomes a port that is kept
//! for the service.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::TcpSocket;

/// A port reserved for one service.
#[derive(Debug)]
pub struct Reservation {
    address: SocketAddr,
    /// Only on Linux can the service bind next to this socket.
    #[cfg(target_os = "linux")]
    _socket: TcpSocket,
}

impl Reservation {
    /// Reserves `address`; port 0 selects a free port.
    pub fn take(address: SocketAddr) -> io::Result<Self> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(Self {
            address: socket.local_addr()?,
            #[cfg(target_os = "linux")]
            _socket: socket,
        })
    }

    /// Returns the address on which the service must listen.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the URL for clients. A wildcard address becomes loopback, because not every system
    /// can connect to it.
    pub fn url(&self) -> String {
        let ip = match self.address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        format!("http://{}", SocketAddr::new(ip, self.address.port()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_service_can_listen_on_its_reserved_port() {
        let reserved = Reservation::take(([127, 0, 0, 1], 0).into()).unwrap();
        assert_ne!(reserved.address().port(), 0);
        let listener = tokio::net::TcpListener::bind(reserved.address())
            .await
            .unwrap();
        assert_eq!(listener.local_addr().unwrap(), reserved.address());
    }

    #[tokio::test]
    async fn a_port_that_is_listened_on_cannot_be_reserved() {
        let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let error = Reservation::take(other.local_addr().unwrap()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn a_wildcard_address_is_shown_as_loopback() {
        let reserved = Reservation::take(([0, 0, 0, 0], 0).into()).unwrap();
        assert!(reserved.url().starts_with("http://127.0.0.1:"));
    }
}
