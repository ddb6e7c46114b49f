//! Values of flags in the form people write them: durations, sizes, addresses.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

/// A switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// Switched on.
    On,
    /// Switched off.
    Off,
}

impl Switch {
    /// Whether it is on.
    pub fn is_on(self) -> bool {
        self == Self::On
    }
}

/// Where gRPC is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// An address and port.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl std::str::FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.starts_with('/') {
                true => Ok(Self::Unix(path.into())),
                false => Err("a Unix socket is given as unix:/absolute/path".to_owned()),
            };
        }
        text.parse()
            .map(Self::Tcp)
            .map_err(|_| "give ip:port (as 127.0.0.1:9002) or unix:/absolute/path".to_owned())
    }
}

impl std::fmt::Display for Listen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

fn with_unit<'t>(text: &'t str, units: &[(&str, u64)]) -> Option<(&'t str, u64)> {
    let matching = |(unit, factor): &(&str, u64)| text.strip_suffix(unit).map(|number| (number.trim(), *factor));
    units.iter().find_map(matching)
}

/// `250ms`, `5s`, `2m`, `1h`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
    with_unit(text, &units)
        .and_then(|(number, factor)| number.parse::<u64>().ok()?.checked_mul(factor))
        .map(Duration::from_millis)
        .ok_or_else(|| "give a whole number and a unit, as 250ms, 5s, 2m or 1h".to_owned())
}

/// `1048576`, `512KiB`, `16MiB`, `1GiB`.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    let (number, factor) = with_unit(text, &units).unwrap_or((text, 1));
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| "give bytes, or a whole number and a unit, as 512KiB, 16MiB or 1GiB".to_owned())
}

/// A share from 0 to 1.
pub(super) fn share(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| "give a share from 0 to 1, as 0.01".to_owned())
}

/// An address of this machine alone.
pub(super) fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text
        .parse()
        .map_err(|_| "give ip:port, as 127.0.0.1:15000".to_owned())?;
    match address.ip().is_loopback() {
        true => Ok(address),
        false => Err("these pages show the whole configuration: they are served on loopback only".to_owned()),
    }
}

/// A host name as it is compared: lower case, without port.
pub(super) fn host(text: &str) -> Result<String, String> {
    let text = text.trim().to_ascii_lowercase();
    let is_bare = !text.is_empty() && !text.contains(['/', ' ', ',']) && (!text.contains(':') || text.starts_with('['));
    match is_bare {
        true => Ok(text),
        false => Err("give a host name without scheme and port, as api.example.com".to_owned()),
    }
}

/// A name that a namespace can have.
pub(super) fn namespace(text: &str) -> Result<String, String> {
    match kthena_scheduler::state::is_namespace(text) {
        true => Ok(text.to_owned()),
        false => Err("give the name of a namespace: lower-case letters, digits and -".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_need_to_be_clear() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert!(duration("5").is_err() && duration("1.5s").is_err() && duration("-1s").is_err());
        assert_eq!(bytes("16MiB"), Ok(16 << 20));
        assert_eq!(bytes("7"), Ok(7));
        assert!(bytes("16MB").is_err() && bytes("0").is_err() && bytes("99999999999GiB").is_err());
    }

    #[test]
    fn debug_pages_stay_on_this_machine() {
        assert!(loopback("127.0.0.1:15000").is_ok() && loopback("[::1]:1").is_ok());
        assert!(loopback("0.0.0.0:15000").unwrap_err().contains("loopback"));
    }

    #[test]
    fn listeners_are_addresses_or_sockets() {
        assert!(matches!("127.0.0.1:9002".parse(), Ok(Listen::Tcp(_))));
        assert!(matches!("unix:/run/x.sock".parse(), Ok(Listen::Unix(_))));
        assert!("unix:x".parse::<Listen>().is_err() && "localhost:1".parse::<Listen>().is_err());
    }

    #[test]
    fn hosts_have_neither_scheme_nor_port() {
        assert_eq!(host("API.example.com"), Ok("api.example.com".to_owned()));
        assert!(host("http://a").is_err() && host("a:80").is_err() && host("").is_err());
    }
}
