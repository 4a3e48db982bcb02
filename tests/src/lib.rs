//! The lab: hosts that are network namespaces, links between them, real servers and clients in them, and the
//! real daemon. The end-to-end tests and `cargo xtask demo` are built on it.
//!
//! ```no_run
//! use xdp_lb_tests::{Daemon, Network, servers::Nginx};
//!
//! # fn main() -> anyhow::Result<()> {
//! let network = Network::new("example", 2)?;
//! let web: Vec<_> = network.backends.iter().map(|host| Nginx::start(host, 8080)).collect::<Result<_, _>>()?;
//! let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], "[[service]]\nname = \"web\"\n...")?;
//! println!("{}", network.client.run("curl --silent --fail http://192.0.2.10/")?);
//! println!("{}", daemon.cli(&["backend", "list"])?);
//! # drop(web);
//! # Ok(())
//! # }
//! ```
//!
//! A namespace has no name in /run/netns: it is held by a file descriptor, so that nothing of it is left when the
//! process that made it ends, however it ends. Processes are killed when their handles are dropped; what a killed
//! test leaves running ends with the sandbox that `cargo xtask` runs tests in, without which a lab is refused.

#![allow(unsafe_code, reason = "namespaces and packet sockets are system calls")]

mod browser;
mod certificates;
pub mod client;
mod conversations;
mod daemon;
pub mod direct_return;
mod download;
mod files;
pub mod fleet;
pub mod guide;
mod host;
mod lab;
mod link;
mod narrow_link;
mod network;
pub mod other_build;
mod packet_socket;
pub mod paths;
mod process;
pub mod report;
mod requests;
pub mod servers;
mod service;
mod site;
pub mod soak;
pub mod statistics;
mod tagger;
mod terminal;
mod udp_flows;
mod udp_stream;
mod wait;
mod way;
pub mod xdp_pass;

pub use browser::Browser;
pub use certificates::{Authority, Identity, Validity};
pub use conversations::{Conversation, Conversations};
pub use daemon::Daemon;
pub use download::Download;
pub use files::{BIG_FILE_BYTES, big_file, has_big_file, remove_big_file, sha256};
pub use host::{Host, output};
pub use lab::{Lab, SANDBOX_VARIABLE};
pub use link::connect;
pub use narrow_link::{behind_a_narrow_link, downloads};
pub use network::Network;
pub use packet_socket::Tag;
pub use process::Process;
pub use requests::{Request, Requests, by_backend, request};
pub use service::{Service, services};
pub use site::{Site, WEB_CHECK, web, web_backend};
pub use tagger::Tagger;
pub use terminal::Terminal;
pub use udp_flows::UdpFlows;
pub use udp_stream::{Streamed, UdpStream};
pub use wait::{until, until_some};
pub use way::{Family, Mode, Way};
