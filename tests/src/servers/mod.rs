//! Real servers, each of which says who it is.

mod dnsmasq;
mod nginx;
mod nsd;
mod tcp_echo;
mod udp_echo;

pub use dnsmasq::Dnsmasq;
pub use nginx::Nginx;
pub use nsd::Nsd;
pub use tcp_echo::TcpEcho;
pub use udp_echo::UdpEcho;
