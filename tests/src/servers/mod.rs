//! Real servers, each of which says who it is.

mod dnsmasq;
mod nginx;
mod udp_echo;

pub use dnsmasq::Dnsmasq;
pub use nginx::Nginx;
pub use udp_echo::UdpEcho;
