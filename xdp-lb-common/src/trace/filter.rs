//! Which packets are followed.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::ends::Ends;
use crate::layout::record;
use crate::net::{Address, MacAddress, Port};

record! {
    /// Which packets are followed: those that are all that it asks for.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
    #[repr(C)]
    pub struct TraceFilter {
        /// A network of clients; of its address, the bits that do not count are 0.
        pub client: Address,
        /// How many of its first bits count (an IPv4 address is the last 32 of 128); 0: any client.
        pub client_bits: u32,
        /// A service's first port and its last one, in host order.
        pub ports: [u16; 2],
        /// The service's VIP; all zero: any.
        pub vip: Address,
        /// A backend; all zero: any.
        pub backend: Address,
        /// The backend's port; 0: any.
        pub backend_port: Port,
        /// Where frames to it go, in a mode that keeps addresses; all zero: it is told by its address.
        pub backend_mac: MacAddress,
        /// The reason, as its number, with 1 added; 0: any packet.
        pub reason: u32,
        /// Unused.
        pub padding: u32,
    }
}

/// Whether a packet is to be followed, by its ends as it came and as it left, and the reason that it was not forwarded.
#[inline(always)]
pub fn matches(filter: &TraceFilter, before: &Ends, after: &Ends, reason: u32) -> bool {
    let any = Address::default();
    let of_client = filter.client_bits == 0
        || in_network(filter, &before.source)
        || in_network(filter, &before.destination)
        || in_network(filter, &after.destination);
    let is_its_port = |port: Port| filter.ports[0] <= port.get() && port.get() <= filter.ports[1];
    let of_service = filter.vip == any
        || (before.destination == filter.vip && is_its_port(before.destination_port))
        || (after.source == filter.vip && is_its_port(after.source_port));
    let any_port = filter.backend_port.word() == 0;
    let from_backend = before.source == filter.backend
        && (any_port || before.source_port.word() == filter.backend_port.word());
    let to_address = after.destination == filter.backend
        && (any_port || after.destination_port.word() == filter.backend_port.word());
    let to_mac = filter.backend_mac != MacAddress::default() && after.mac == filter.backend_mac;
    let of_backend = filter.backend == any || from_backend || to_address || to_mac;
    let of_reason = filter.reason == 0 || filter.reason == reason.wrapping_add(1);
    of_client && of_service && of_backend && of_reason
}

#[inline(always)]
fn in_network(filter: &TraceFilter, address: &Address) -> bool {
    address.first_bits(filter.client_bits as u8) == filter.client
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::*;

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn ends(source: &str, destination: &str) -> Ends {
        let [source, destination] =
            [source, destination].map(|end| end.parse::<core::net::SocketAddr>().unwrap());
        Ends {
            source: source.ip().into(),
            destination: destination.ip().into(),
            source_port: Port::new(source.port()),
            destination_port: Port::new(destination.port()),
            mac: MacAddress::new([2, 0, 0, 0, 0, 7]),
        }
    }

    #[test]
    fn a_network_is_told_by_its_bits() {
        for (network, bits, inside, outside) in [
            ("192.0.2.0", 96 + 24, "192.0.2.255", "192.0.3.0"),
            ("192.0.2.7", 128, "192.0.2.7", "192.0.2.6"),
            ("2001:db8::", 32, "2001:db8:ffff::1", "2001:db9::1"),
            ("2001:db8::", 64, "2001:db8::1:2:3:4", "2001:db8:0:1::1"),
            ("2001:db8::8000:0:0:0", 65, "2001:db8::8000:0:0:1", "2001:db8::7000:0:0:1"),
            ("128.0.0.0", 96 + 1, "255.1.1.1", "127.1.1.1"),
        ] {
            let filter =
                TraceFilter { client: address(network), client_bits: bits, ..TraceFilter::default() };
            assert!(in_network(&filter, &address(inside)), "{inside} in {network}/{bits}");
            assert!(!in_network(&filter, &address(outside)), "{outside} in {network}/{bits}");
        }
    }

    #[test]
    fn a_packet_is_followed_if_all_that_is_asked_for_is_so() {
        let request =
            (ends("192.0.2.2:1234", "203.0.113.10:80"), ends("192.0.2.2:1234", "198.51.100.11:8080"));
        let reply = (ends("198.51.100.11:8080", "192.0.2.2:1234"), ends("203.0.113.10:80", "192.0.2.2:1234"));
        let other = (ends("192.0.2.9:1", "203.0.113.10:81"), ends("192.0.2.9:1", "203.0.113.10:81"));
        let none = TraceFilter::default();
        let client = TraceFilter { client: address("192.0.2.2"), client_bits: 128, ..none };
        let service = TraceFilter { vip: address("203.0.113.10"), ports: [80, 80], ..none };
        let backend =
            TraceFilter { backend: address("198.51.100.11"), backend_port: Port::new(8080), ..none };
        let forwarded = u32::MAX;
        for filter in [client, service, backend] {
            for (before, after) in [&request, &reply] {
                assert!(matches(&filter, before, after, forwarded), "{filter:?}");
            }
            assert!(!matches(&filter, &other.0, &other.1, 2), "{filter:?}");
        }
        let by_mac = TraceFilter { backend_mac: MacAddress::new([2, 0, 0, 0, 0, 7]), ..backend };
        assert!(matches(&by_mac, &other.0, &other.1, forwarded));
        let reason = TraceFilter { reason: 3, ..none };
        assert!(matches(&reason, &other.0, &other.1, 2) && !matches(&reason, &other.0, &other.1, forwarded));
        assert!(matches(&none, &Ends::default(), &Ends::default(), forwarded));
    }
}
