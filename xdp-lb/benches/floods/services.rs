//! The services that are flooded: every mode, with limits and without.

use std::net::SocketAddr;

use anyhow::Result;
use xdp_lb_tests::servers::{TcpEcho, UdpEcho};
use xdp_lb_tests::{Family, Host, Network};

/// A service of TCP and one of UDP, with the same backends and port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Service {
    pub mode: &'static str,
    /// What a table says of its options.
    pub with: &'static str,
    /// Its options, as the config file has them.
    options: &'static str,
}

const ALWAYS: &str = "flow_tracking = \"always\"\n";
const RATE: &str = "new_flow_rate = 1000\n";
const RATE_AND_ALWAYS: &str = "new_flow_rate = 1000\nflow_tracking = \"always\"\n";
const LIMIT: &str = "max_flows = 20000\n";

const fn service(mode: &'static str, with: &'static str, options: &'static str) -> Service {
    Service { mode, with, options }
}

/// All of them. Where a backend's replies do not pass the load balancer, `max_flows` cannot tell a flood from clients.
pub const SERVICES: [Service; 14] = [
    service("full-nat", "", ""),
    service("full-nat", "a rate", RATE),
    service("full-nat", "max_flows", LIMIT),
    service("nat", "", ""),
    service("nat", "a rate", RATE),
    service("nat", "always recorded", ALWAYS),
    service("nat", "always recorded, a rate", RATE_AND_ALWAYS),
    service("nat", "max_flows", LIMIT),
    service("dsr", "always recorded", ALWAYS),
    service("dsr", "always recorded, a rate", RATE_AND_ALWAYS),
    service("ipip", "always recorded", ALWAYS),
    service("ipip", "always recorded, a rate", RATE_AND_ALWAYS),
    service("gue", "always recorded", ALWAYS),
    service("gue", "always recorded, a rate", RATE_AND_ALWAYS),
];

/// The port of the first one.
const FIRST_PORT: u16 = 8001;

impl Service {
    fn port(self) -> u16 {
        let place = SERVICES.iter().position(|other| *other == self).expect("it is one of them");
        FIRST_PORT + u16::try_from(place).expect("there are few")
    }

    /// What its clients connect to.
    pub fn vip(self) -> SocketAddr {
        SocketAddr::new(Network::vip(Family::V4), self.port())
    }

    /// Whether its backends answer clients themselves.
    pub fn is_direct(self) -> bool {
        matches!(self.mode, "dsr" | "ipip" | "gue")
    }

    /// Its servers on a backend.
    pub fn start(self, host: &Host) -> Result<(TcpEcho, UdpEcho)> {
        let udp = if self.is_direct() {
            UdpEcho::start_named_at(host, self.vip())?
        } else {
            UdpEcho::start(host, self.port())?
        };
        Ok((TcpEcho::start(host, self.port())?, udp))
    }

    /// Its part of the config file.
    pub fn config(self, backends: usize) -> String {
        let backends: String = (1..=backends)
            .map(|number| Network::endpoint(Family::V4, number, self.port()))
            .map(|address| format!("[[service.backend]]\naddress = \"{address}\"\n"))
            .collect();
        let (port, vip) = (self.port(), self.vip());
        let of = |protocol: &str| {
            format!(
                "[[service]]\nname = \"{protocol}-{port}\"\nvip = \"{vip}\"\nprotocol = \"{protocol}\"\nmode = \"{}\"\n{}\
                 health_check = {{ type = \"none\" }}\n{backends}",
                self.mode, self.options
            )
        };
        of("tcp") + &of("udp")
    }
}
