//! Real servers, each of which says who it is.

mod agent;
mod dnsmasq;
mod grpc_health;
mod nginx;
mod nsd;
mod tcp_echo;
mod tls_sites;
mod udp_echo;
mod unruly;

pub use agent::Agent;
pub use dnsmasq::Dnsmasq;
pub use grpc_health::GrpcHealth;
pub use nginx::Nginx;
pub use nsd::Nsd;
pub use tcp_echo::TcpEcho;
pub use tls_sites::{TlsSite, TlsSites};
pub use udp_echo::UdpEcho;
pub use unruly::Unruly;
