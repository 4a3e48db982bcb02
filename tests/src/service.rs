//! A service of a config file, for tests that make many of them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::way::Mode;

/// A service; printed, the TOML of its `[[service]]`. Without more: `full-nat`, no backends, and a check that finds a
/// TCP server soon and does not mind a busy machine.
#[derive(Clone, Debug)]
pub struct Service {
    name: String,
    vip: String,
    protocol: &'static str,
    mode: Mode,
    snat_addresses: Vec<IpAddr>,
    check: &'static str,
    keys: Vec<String>,
    backends: Vec<(SocketAddr, u16, String)>,
}

/// Up after the first answer, down after some seconds without one.
const TCP_CHECK: &str = r#"{ type = "tcp", interval = "500ms", timeout = "500ms", rise = 1, fall = 6 }"#;
const NO_CHECK: &str = r#"{ type = "none" }"#;

impl Service {
    /// A TCP service.
    pub fn tcp(name: impl fmt::Display, vip: impl fmt::Display) -> Self {
        Self::new(name, vip, "tcp", TCP_CHECK)
    }

    /// A UDP service, without health checks.
    pub fn udp(name: impl fmt::Display, vip: impl fmt::Display) -> Self {
        Self::new(name, vip, "udp", NO_CHECK)
    }

    fn new(
        name: impl fmt::Display,
        vip: impl fmt::Display,
        protocol: &'static str,
        check: &'static str,
    ) -> Self {
        Self {
            name: name.to_string(),
            vip: vip.to_string(),
            protocol,
            mode: Mode::FullNat,
            snat_addresses: Vec::new(),
            check,
            keys: Vec::new(),
            backends: Vec::new(),
        }
    }

    /// In this mode.
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// With these addresses for backends to see.
    #[must_use]
    pub fn snat_addresses(mut self, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        self.snat_addresses.extend(addresses);
        self
    }

    /// With this check, an inline table.
    #[must_use]
    pub fn check(mut self, check: &'static str) -> Self {
        self.check = check;
        self
    }

    /// With one more key, as TOML.
    #[must_use]
    pub fn key(mut self, line: impl Into<String>) -> Self {
        self.keys.push(line.into());
        self
    }

    /// Without health checks.
    #[must_use]
    pub fn unchecked(self) -> Self {
        self.check(NO_CHECK)
    }

    /// With one more backend.
    #[must_use]
    pub fn backend(mut self, address: SocketAddr, weight: u16) -> Self {
        self.backends.push((address, weight, String::new()));
        self
    }

    /// With one more key for the backend that was named last, as TOML.
    #[must_use]
    pub fn backend_key(mut self, line: &str) -> Self {
        let (_, _, keys) = self.backends.last_mut().expect("a backend was named");
        *keys += &format!("{line}\n");
        self
    }

    /// With more backends, of equal weight.
    #[must_use]
    pub fn backends(mut self, addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.backends.extend(addresses.into_iter().map(|address| (address, 100, String::new())));
        self
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, vip, protocol, mode, snat_addresses, check, keys, backends } = self;
        writeln!(f, "[[service]]\nname = \"{name}\"\nvip = \"{vip}\"\nprotocol = \"{protocol}\"")?;
        writeln!(f, "mode = \"{mode}\"\nhealth_check = {check}")?;
        if !snat_addresses.is_empty() {
            let quoted: Vec<_> = snat_addresses.iter().map(|address| format!("\"{address}\"")).collect();
            writeln!(f, "snat_addresses = [{}]", quoted.join(", "))?;
        }
        for key in keys {
            writeln!(f, "{key}")?;
        }
        for (address, weight, keys) in backends {
            writeln!(f, "[[service.backend]]\naddress = \"{address}\"\nweight = {weight}\n{keys}")?;
        }
        writeln!(f)
    }
}

/// The text of some services.
pub fn services(services: impl IntoIterator<Item = Service>) -> String {
    services.into_iter().map(|service| service.to_string()).collect()
}
