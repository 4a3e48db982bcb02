//! A web site behind the load balancer: what most tests of the daemon's operation begin with.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use crate::daemon::Daemon;
use crate::network::Network;
use crate::requests::Requests;
use crate::servers::Nginx;

/// How long it may take until all is up.
const PATIENCE: Duration = Duration::from_secs(15);

/// A network, an nginx on port 8080 of each backend, and the daemon.
pub struct Site {
    /// The daemon.
    pub daemon: Daemon,
    /// The web servers, that of `backend-1` first.
    pub nginx: Vec<Nginx>,
    /// The network.
    pub network: Network,
}

impl Site {
    /// Makes all of it, with this as the rest of the config file, and waits until no backend is being checked or
    /// looked up any more.
    pub fn start(name: &str, backends: usize, config: &str) -> Result<Self> {
        let network = Network::new(name, backends)?;
        let nginx = network.backends.iter().map(|host| Nginx::start(host, 8080)).collect::<Result<_>>()?;
        let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], config)?;
        let site = Self { daemon, nginx, network };
        site.wait_until_settled()?;
        Ok(site)
    }

    /// Waits until no backend of any service is being checked or looked up any more.
    pub fn wait_until_settled(&self) -> Result<()> {
        crate::until("every backend's first health check", PATIENCE, || {
            let is_pending =
                |backend: &Value| ["checking", "unresolved"].iter().any(|it| backend["state"] == *it);
            Ok(!self.daemon.backends(None)?.iter().any(is_pending))
        })
        .map(drop)
    }

    /// The VIP of the service that [`web`] describes.
    pub fn vip() -> SocketAddr {
        SocketAddr::new(Network::VIP.parse().expect("it is an address"), 80)
    }

    /// Clients that ask for `/` at the VIP.
    pub fn requests(&self, clients: usize) -> Requests {
        Requests::start(&self.network.client, Self::vip(), clients)
    }

    /// Waits until a backend of the service `web` is in this state, and returns how long that took.
    pub fn wait_for(&self, number: usize, state: &str) -> Result<Duration> {
        self.daemon.wait_for_state("web", &web_backend(number), state, PATIENCE)
    }
}

/// The address and port of a backend's web server, counted from 1.
pub fn web_backend(number: usize) -> String {
    format!("{}:8080", Network::backend(number))
}

/// The keys of a service `web` at the VIP in this mode, with these backends and a quick HTTP check.
pub fn web(mode: &str, backends: &[usize]) -> String {
    let mut text = format!(
        "\n[[service]]\nname = \"web\"\nvip = \"{}\"\nmode = \"{mode}\"\n\n[service.health_check]\ntype = \"http\"\n\
         path = \"/healthz\"\ninterval = \"300ms\"\ntimeout = \"200ms\"\n",
        Site::vip()
    );
    for number in backends {
        text += &format!("\n[[service.backend]]\naddress = \"{}\"\n", web_backend(*number));
    }
    text
}
