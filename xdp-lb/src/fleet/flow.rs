//! A flow as one load balancer tells another of it.
//!
//! | bytes | meaning |
//! |---|---|
//! | 1 | bit 0: the addresses are IPv6's; bit 1: UDP, else TCP; the others 0 |
//! | 1 | how far the flow has come: the bits of [`xdp_lb_common::tables::flow`] |
//! | 1 | what speaks for its being real: [`xdp_lb_common::flow_table::life`] |
//! | 2 | seconds since its last packet, big-endian |
//! | 4 times 6, or 18 | address and port, as in packets: the client, what it sends to, what the backend knows it by, the backend |

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use xdp_lb_common::net::{Address, Endpoint, Port, Protocol};

const IPV6: u8 = 1;
const UDP: u8 = 2;

/// The bytes of an IPv6 flow; one of IPv4 takes 29.
pub const LONGEST: usize = 5 + 4 * 18;

/// A flow of a load balancer. What is that one's own, its interfaces and its tables' places, is not in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SharedFlow {
    /// The client.
    pub client: Endpoint,
    /// What it sends to.
    pub vip: Endpoint,
    /// What the backend knows it by.
    pub source: Endpoint,
    /// The backend.
    pub backend: Endpoint,
    /// How far it has come.
    pub progress: u8,
    /// What speaks for its being real.
    pub proof: u8,
    /// Seconds since its last packet.
    pub idle: u16,
}

/// What was received is not a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

impl SharedFlow {
    /// Appends its bytes.
    pub fn write(&self, to: &mut Vec<u8>) {
        let ends = [&self.client, &self.vip, &self.source, &self.backend];
        let is_v4 = ends.iter().all(|end| end.address.is_v4());
        let is_udp = self.client.protocol == Protocol::UDP;
        to.push(if is_v4 { 0 } else { IPV6 } | if is_udp { UDP } else { 0 });
        to.extend([self.progress, self.proof]);
        to.extend(self.idle.to_be_bytes());
        for end in ends {
            match IpAddr::from(end.address) {
                IpAddr::V4(address) if is_v4 => to.extend(address.octets()),
                IpAddr::V4(address) => to.extend(address.to_ipv6_mapped().octets()),
                IpAddr::V6(address) => to.extend(address.octets()),
            }
            to.extend(end.port.get().to_be_bytes());
        }
    }

    /// The flow at the beginning of some bytes, which are behind it then.
    ///
    /// # Errors
    /// Where there is none.
    pub fn read(bytes: &mut &[u8]) -> Result<Self, Malformed> {
        let [flags, progress, proof] = take(bytes)?;
        if flags & !(IPV6 | UDP) != 0 {
            return Err(Malformed);
        }
        let idle = u16::from_be_bytes(take(bytes)?);
        let protocol = if flags & UDP != 0 { Protocol::UDP } else { Protocol::TCP };
        let mut end = || {
            let address: IpAddr = match flags & IPV6 {
                0 => Ipv4Addr::from(take::<4>(bytes)?).into(),
                _ => Ipv6Addr::from(take::<16>(bytes)?).into(),
            };
            let port = Port::new(u16::from_be_bytes(take(bytes)?));
            Ok(Endpoint::new(Address::from(address), port, protocol))
        };
        let (client, vip, source, backend) = (end()?, end()?, end()?, end()?);
        Ok(Self { client, vip, source, backend, progress, proof, idle })
    }

    /// All flows that some bytes consist of.
    ///
    /// # Errors
    /// Where they are something else.
    pub fn read_all(mut bytes: &[u8]) -> Result<Vec<Self>, Malformed> {
        let mut flows = Vec::new();
        while !bytes.is_empty() {
            flows.push(Self::read(&mut bytes)?);
        }
        Ok(flows)
    }
}

/// The first bytes, which are behind them then.
pub(super) fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], Malformed> {
    let (first, rest) = bytes.split_first_chunk().ok_or(Malformed)?;
    *bytes = rest;
    Ok(*first)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in crate::fleet) fn any_flow() -> impl Strategy<Value = SharedFlow> {
        let v4 = any::<[u8; 4]>().prop_map(IpAddr::from);
        let v6 = any::<[u8; 16]>().prop_map(IpAddr::from);
        let ends = |address: BoxedStrategy<IpAddr>| prop::array::uniform4((address, any::<u16>()));
        let ends = prop_oneof![ends(v4.boxed()), ends(v6.boxed())];
        (ends, any::<bool>(), any::<u8>(), any::<u8>(), any::<u16>()).prop_map(
            |(ends, is_udp, progress, proof, idle)| {
                let protocol = if is_udp { Protocol::UDP } else { Protocol::TCP };
                let [client, vip, source, backend] =
                    ends.map(|(address, port)| Endpoint::new(address.into(), Port::new(port), protocol));
                SharedFlow { client, vip, source, backend, progress, proof, idle }
            },
        )
    }

    proptest! {
        #[test]
        fn flows_are_read_as_they_were_written(flows in prop::collection::vec(any_flow(), 0..40)) {
            let mut bytes = Vec::new();
            flows.iter().for_each(|flow| flow.write(&mut bytes));
            prop_assert!(bytes.len() <= flows.len() * LONGEST);
            prop_assert_eq!(SharedFlow::read_all(&bytes), Ok(flows));
        }

        #[test]
        fn bytes_that_are_no_flows_are_refused_and_none_are_read_twice(bytes in any::<Vec<u8>>()) {
            if let Ok(flows) = SharedFlow::read_all(&bytes) {
                let mut again = Vec::new();
                flows.iter().for_each(|flow| flow.write(&mut again));
                prop_assert!(again.len() <= bytes.len());
                prop_assert_eq!(SharedFlow::read_all(&again), Ok(flows));
            }
        }
    }

    #[test]
    fn a_flow_that_is_cut_short_is_refused() {
        let end = Endpoint::from_socket("192.0.2.1:80".parse().unwrap(), Protocol::TCP);
        let flow =
            SharedFlow { client: end, vip: end, source: end, backend: end, progress: 1, proof: 2, idle: 3 };
        let mut bytes = Vec::new();
        flow.write(&mut bytes);
        assert_eq!(bytes.len(), 29);
        for length in 1..bytes.len() {
            assert_eq!(SharedFlow::read_all(&bytes[..length]), Err(Malformed), "{length}");
        }
        bytes[0] = 4;
        assert_eq!(SharedFlow::read_all(&bytes), Err(Malformed), "an unknown flag");
    }
}
