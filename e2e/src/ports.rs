//! Free loopback ports, without the race between finding one and using it.
//!
//! A port that was found by binding and letting go can be taken by anyone before its user binds it. Here the socket that found the port
//! stays bound, without listening, for as long as the [`Reserved`] lives: the kernel then gives the number to nobody who asks for any
//! free port, while a program that names the port and sets `SO_REUSEADDR` (Envoy, tonic and tokio do) can bind it and listen, again and
//! again across restarts.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio::net::TcpSocket;

/// A port that nobody else is given while this lives.
#[derive(Debug)]
pub struct Reserved {
    address: SocketAddr,
    _held: TcpSocket,
}

impl Reserved {
    /// Reserves a free port on 127.0.0.1.
    ///
    /// # Errors
    /// When the machine has no free port or no loopback.
    pub fn loopback() -> io::Result<Self> {
        Self::on(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    /// Reserves a free port on the given local IPv4 or IPv6 address.
    ///
    /// # Errors
    /// When the address is not local or has no free port.
    pub fn on(ip: IpAddr) -> io::Result<Self> {
        let held = if ip.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        held.set_reuseaddr(true)?;
        held.bind(SocketAddr::new(ip, 0))?;
        Ok(Self {
            address: held.local_addr()?,
            _held: held,
        })
    }

    /// The reserved address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The reserved port number.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::net::TcpListener;

    #[tokio::test]
    async fn a_reserved_port_is_given_to_no_one_else_but_can_be_listened_on_by_name() {
        let reserved: Vec<Reserved> = (0..500).map(|_| Reserved::loopback().unwrap()).collect();
        let mut seen: HashSet<u16> = reserved.iter().map(Reserved::port).collect();
        assert_eq!(seen.len(), reserved.len());

        let others: Vec<TcpListener> = (0..500).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        for other in &others {
            assert!(seen.insert(other.local_addr().unwrap().port()));
        }

        for _ in 0..2 {
            drop(TcpListener::bind(reserved[0].address()).unwrap());
        }
    }
}
