//! Values of flags: sizes, times, node lists, keys.

use bytes::Bytes;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A number of bytes: `1048576`, `512KiB`, `1GiB`, `10MB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let unit: u64 = match text[digits.len()..].trim() {
            "" | "B" => 1,
            "K" | "KiB" => 1 << 10,
            "M" | "MiB" => 1 << 20,
            "G" | "GiB" => 1 << 30,
            "T" | "TiB" => 1 << 40,
            "KB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            _ => return Err("expected a size such as 512KiB, 64MiB or 1GiB".to_owned()),
        };
        let number: u64 = digits.parse().map_err(|_| "expected a size such as 64MiB".to_owned())?;
        number.checked_mul(unit).map(Self).ok_or_else(|| "too large".to_owned())
    }
}

/// A length of time: `500ms`, `30s`, `10m`, `2h`, or parts in a row as in `1m30s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HumanDuration(pub Duration);

impl FromStr for HumanDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "expected a time such as 500ms, 30s, 10m or 1m30s".to_owned();
        let mut rest = text.trim();
        let mut total = Duration::ZERO;
        if rest.is_empty() {
            return Err(wrong());
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
            let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
            rest = &rest[digits..];
            let unit_len = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
            let millis: u64 = match &rest[..unit_len] {
                "ms" => 1,
                "s" => 1_000,
                "m" => 60_000,
                "h" => 3_600_000,
                "d" => 86_400_000,
                _ => return Err(wrong()),
            };
            let part = number.checked_mul(millis).ok_or_else(wrong)?;
            total = total.checked_add(Duration::from_millis(part)).ok_or_else(wrong)?;
            rest = &rest[unit_len..];
        }
        Ok(Self(total))
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        match millis {
            0 => write!(f, "0s"),
            _ if millis.is_multiple_of(3_600_000) => write!(f, "{}h", millis / 3_600_000),
            _ if millis.is_multiple_of(60_000) => write!(f, "{}m", millis / 60_000),
            _ if millis.is_multiple_of(1_000) => write!(f, "{}s", millis / 1_000),
            _ => write!(f, "{millis}ms"),
        }
    }
}

/// One node of `--initial-cluster`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// `host:port` of its peer listener.
    pub peer_address: String,
}

/// `--initial-cluster`: the order gives the node ids, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitialCluster {
    /// As given.
    pub members: Vec<Member>,
}

impl InitialCluster {
    /// A cluster of one.
    pub fn alone(name: &str, peer_address: &str) -> Self {
        let member = Member { name: name.to_owned(), peer_address: peer_address.to_owned() };
        Self { members: vec![member] }
    }

    /// Where a name stands in the list, from 0.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.members.iter().position(|member| member.name == name)
    }
}

impl FromStr for InitialCluster {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut members: Vec<Member> = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, address) =
                part.split_once('=').ok_or_else(|| format!("{part:?} is not name=host:port"))?;
            host_port("initial-cluster", address)?;
            if members.iter().any(|member| member.name == name || member.peer_address == address) {
                return Err(format!("{part:?}: a name or address is there twice"));
            }
            members.push(Member { name: name.to_owned(), peer_address: address.to_owned() });
        }
        if members.is_empty() {
            return Err("expected name=host:port,...".to_owned());
        }
        Ok(Self { members })
    }
}

impl fmt::Display for InitialCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, member) in self.members.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            write!(f, "{comma}{}={}", member.name, member.peer_address)?;
        }
        Ok(())
    }
}

/// `--split-keys`: ascending, no key twice, none empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SplitKeys(pub Vec<Bytes>);

impl FromStr for SplitKeys {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut keys = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            keys.push(parse_key(part)?);
        }
        keys.sort();
        keys.dedup();
        if keys.first().is_some_and(Bytes::is_empty) {
            return Err("a split key must not be empty".to_owned());
        }
        Ok(Self(keys))
    }
}

impl fmt::Display for SplitKeys {
    /// In hex, so that every key survives a command line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, key) in self.0.iter().enumerate() {
            write!(f, "{}0x", if number == 0 { "" } else { "," })?;
            for byte in key {
                write!(f, "{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// A key as people type it: text, or hex after `0x`.
///
/// # Errors
/// Hex that is none.
pub fn parse_key(text: &str) -> Result<Bytes, String> {
    let Some(hex) = text.strip_prefix("0x") else {
        return Ok(Bytes::copy_from_slice(text.as_bytes()));
    };
    let wrong = || format!("{text:?} is not hex: expected two digits a byte after 0x");
    if hex.len() % 2 != 0 || !hex.is_ascii() {
        return Err(wrong());
    }
    let bytes: Result<Vec<u8>, _> =
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16)).collect();
    bytes.map(Bytes::from).map_err(|_| wrong())
}

/// Longest name of a failure domain: that of a label's value in Kubernetes.
const FAILURE_DOMAIN_MAX: usize = 63;

/// Checks the name of a failure domain; an empty one is none.
pub(crate) fn failure_domain(name: &str) -> Result<(), String> {
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && c != ',';
    if name.len() > FAILURE_DOMAIN_MAX || !name.chars().all(plain) {
        return Err(format!(
            "{name:?} must have at most {FAILURE_DOMAIN_MAX} bytes, and no space or comma"
        ));
    }
    Ok(())
}

/// Checks that `address` looks like `host:port`.
pub(super) fn host_port(flag: &str, address: &str) -> Result<(), String> {
    let fine = address
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if fine { Ok(()) } else { Err(format!("--{flag} {address:?} is not host:port")) }
}

/// True for an address that stands for "every interface", which nobody can connect to.
pub fn is_unspecified(address: &str) -> bool {
    address.rsplit_once(':').is_some_and(|(host, _)| {
        host.trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_unspecified())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!("64MiB".parse(), Ok(ByteSize(64 << 20)));
        assert_eq!("1GB".parse(), Ok(ByteSize(1_000_000_000)));
        assert_eq!("17".parse(), Ok(ByteSize(17)));
        assert!("MiB".parse::<ByteSize>().is_err());
        assert!("1 parsec".parse::<ByteSize>().is_err());
        assert!("99999999999TiB".parse::<ByteSize>().is_err());
    }

    #[test]
    fn times() {
        assert_eq!("1m30s".parse(), Ok(HumanDuration(Duration::from_secs(90))));
        assert_eq!("500ms".parse(), Ok(HumanDuration(Duration::from_millis(500))));
        assert!("10".parse::<HumanDuration>().is_err());
        assert!("".parse::<HumanDuration>().is_err());
        assert_eq!(HumanDuration(Duration::from_mins(10)).to_string(), "10m");
        assert_eq!(HumanDuration(Duration::from_millis(90_500)).to_string(), "90500ms");
    }

    #[test]
    fn keys_survive_a_command_line() {
        let keys: SplitKeys = "m,0x00ff,k=v".parse().unwrap();
        assert_eq!(keys.0.len(), 3);
        assert_eq!(keys.to_string().parse(), Ok(keys));
    }

    #[test]
    fn members_keep_their_order() {
        let cluster: InitialCluster = "c=h:1,a=h:2".parse().unwrap();
        assert_eq!(cluster.position("a"), Some(1));
        assert_eq!(cluster.to_string(), "c=h:1,a=h:2");
    }
}
