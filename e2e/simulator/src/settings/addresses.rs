//! Ranges of loopback addresses: `127.0.1.1`, `127.0.1.1-127.0.1.8`, several joined by `+`.

use std::net::Ipv4Addr;
use std::str::FromStr;

/// Most addresses that one range may have.
const MOST: u32 = 4096;

/// Loopback addresses from first to last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRange {
    first: Ipv4Addr,
    last: Ipv4Addr,
}

impl AddressRange {
    /// All its addresses, in order.
    pub fn iter(&self) -> impl Iterator<Item = Ipv4Addr> + use<> {
        (self.first.to_bits()..=self.last.to_bits()).map(Ipv4Addr::from_bits)
    }

    /// Reads ranges joined by `+`.
    ///
    /// # Errors
    /// A sentence that says what is wrong with which range.
    pub fn parse_all(text: &str) -> Result<Vec<Self>, String> {
        text.split('+').map(str::parse).collect()
    }
}

impl FromStr for AddressRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address = |part: &str| {
            part.parse::<Ipv4Addr>()
                .map_err(|_| format!("`{part}` in `{text}` is not an IPv4 address such as 127.0.1.1"))
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (address(first)?, address(last)?);
        if !first.is_loopback() || !last.is_loopback() {
            return Err(format!(
                "`{text}` is not on loopback (127.0.0.0/8); the simulator serves nothing else"
            ));
        }
        if first > last {
            return Err(format!("`{text}` ends before it begins"));
        }
        if last.to_bits() - first.to_bits() >= MOST {
            return Err(format!("`{text}` has more than {MOST} addresses"));
        }
        Ok(Self { first, last })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_include_both_ends_and_cross_octets() {
        let ranges = AddressRange::parse_all("127.0.0.254-127.0.1.1+127.1.0.7").unwrap();
        let addresses: Vec<String> = ranges
            .iter()
            .flat_map(AddressRange::iter)
            .map(|a| a.to_string())
            .collect();
        assert_eq!(
            addresses,
            ["127.0.0.254", "127.0.0.255", "127.0.1.0", "127.0.1.1", "127.1.0.7"]
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        let error = |text: &str| AddressRange::parse_all(text).unwrap_err();
        assert!(error("127.0.0.2-x").contains("`x`"));
        assert!(error("10.0.0.1").contains("not on loopback"));
        assert!(error("127.0.0.9-127.0.0.2").contains("ends before it begins"));
        assert!(error("127.0.0.0-127.255.255.255").contains("more than 4096"));
        assert!(error("").contains("not an IPv4 address"));
    }
}
