//! A web site behind the load balancer: what most tests of the daemon's operation begin with.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use crate::daemon::Daemon;
use crate::network::Network;
use crate::requests::Requests;
use crate::servers::Nginx;

/// How long a change of state may take on a machine that does other things, too.
const PATIENCE: Duration = Duration::from_secs(40);

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
    /// Makes all of it, with this as the rest of the config file, and waits until every backend is well.
    pub fn start(name: &str, backends: usize, config: &str) -> Result<Self> {
        let network = Network::new(name, backends)?;
        let nginx = network.backends.iter().map(|host| Nginx::start(host, 8080)).collect::<Result<_>>()?;
        let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], config)?;
        let site = Self { daemon, nginx, network };
        site.wait_until_well()?;
        Ok(site)
    }

    /// Waits until no backend of any service is being looked up or checked for the first time, or down since its server was
    /// slow to answer.
    fn wait_until_well(&self) -> Result<()> {
        crate::until("every backend to be well", PATIENCE, || {
            let is_well = |backend: &Value| {
                !["checking", "unresolved", "down"].iter().any(|it| backend["state"] == *it)
            };
            Ok(self.daemon.backends(None)?.iter().all(is_well))
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

/// The times of the check of [`web`]: it finds quickly what is well and what says that it is not, and does not mind a server
/// that is slow to answer for a while, on a machine that does other things, too.
pub const WEB_CHECK: &str =
    "interval = \"500ms\"\nfast_interval = \"200ms\"\ntimeout = \"500ms\"\nfall = 5\n";

/// The keys of a service `web` at the VIP in this mode, with these backends and an HTTP check.
pub fn web(mode: &str, backends: &[usize]) -> String {
    let mut text = format!(
        "\n[[service]]\nname = \"web\"\nvip = \"{}\"\nmode = \"{mode}\"\n\n[service.health_check]\ntype = \"http\"\n\
         path = \"/healthz\"\n{WEB_CHECK}",
        Site::vip()
    );
    for number in backends {
        text += &format!("\n[[service.backend]]\naddress = \"{}\"\n", web_backend(*number));
    }
    text
}
