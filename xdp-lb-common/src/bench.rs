//! Constants and types shared by `cargo xtask bench` and its BPF programs.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The number of 32-bit words of a frame that are restored in each round, after its first two bytes: 78 bytes, more than the
/// headers of IPv6 and TCP.
pub const WORDS: usize = 19;
/// The offset of the first of those words, aligned with IP's words after an Ethernet header of 14 bytes. Writing in other units
/// than reading stalls the processor, which does not happen for packets from the wire.
pub const WORDS_AT: usize = 2;

/// The number of bits of a flow's number that are its port's; the others are its address's.
pub const PORT_BITS: u32 = 15;
/// The base of flows' ports: 0x8000 to 0xffff.
pub const PORT_BASE: u16 = 1 << PORT_BITS;

/// The number of services that share a VIP if packets are sent to many: their ports are [`SERVICE_PORT`] and those above it.
pub const SERVICES_PER_VIP: u32 = 1 << SERVICE_BITS;
pub(crate) const SERVICE_BITS: u32 = 4;
/// The first of these ports.
pub const SERVICE_PORT: u16 = 8_000;

/// The packet to send, and its flows. Flows differ in the lower half of one address (the upper bits of the flow's number) and in
/// one port (the lower [`PORT_BITS`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Plan {
    /// The frame's bytes from [`WORDS_AT`] on.
    pub words: [u32; WORDS],
    /// Its first two bytes.
    pub first: u16,
    /// Unused, 0.
    pub padding: u16,
    /// The frame's length, in bytes.
    pub length: u32,
    /// The number of flows, a power of two up to 2^30, minus one.
    pub flow_mask: u32,
    /// The offset of the last 32 bits of the address in the frame.
    pub address_at: u32,
    /// Those bits (host order), of which the lower half is the flow's.
    pub address: u32,
    /// The offset of the port in the frame.
    pub port_at: u32,
    /// How often each packet is repeated: 2 to the power of this.
    pub in_a_row: u32,
    /// The number of services, up to 2^20; 0: only the frame's own.
    pub services: u32,
    /// Many services: the offset of the last 32 bits of the VIP in the frame.
    pub vip_at: u32,
    /// Those bits (host order), of which the lower half is the service's.
    pub vip: u32,
    /// Many services: the offset of the VIP's port in the frame.
    pub vip_port_at: u32,
    /// For redirects: the outgoing interface.
    pub ifindex: u32,
    /// The offset of the TCP checksum in the frame; 0: it stays unchanged.
    pub checksum_at: u32,
    /// Its sum without the parts that differ between packets (RFC 1071), with carries.
    pub checksum: u32,
}

impl Plan {
    /// Restores as much of this frame as fits: one flow.
    pub fn of(frame: &[u8]) -> Self {
        let mut bytes = [0; WORDS_AT + 4 * WORDS];
        let length = bytes.len().min(frame.len());
        bytes[..length].copy_from_slice(&frame[..length]);
        let word = |word: usize| {
            let at = WORDS_AT + 4 * word;
            u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        Self {
            words: core::array::from_fn(word),
            first: u16::from_ne_bytes([bytes[0], bytes[1]]),
            length: frame.len() as u32,
            ..Self::default()
        }
    }

    /// The same with this many flows (a power of two): the offsets of the last 32 bits of the address and of the port by which
    /// they differ.
    pub fn varied(self, frame: &[u8], flows: u32, [address_at, port_at]: [u32; 2]) -> Self {
        Self { flow_mask: flows - 1, address_at, address: upper_half(frame, address_at), port_at, ..self }
    }

    /// The same with a correct checksum for every flow, like the frame's: its offset.
    pub fn summed(self, frame: &[u8], checksum_at: u32) -> Self {
        let half = |at: u32| u32::from(u16::from_be_bytes([frame[at as usize], frame[at as usize + 1]]));
        // Adding a number's complement removes it from the sum (RFC 1624).
        let without = |at: u32| 0xffff - half(at);
        let checksum = without(checksum_at) + without(self.address_at + 2) + without(self.port_at);
        Self { checksum_at, checksum, ..self }
    }

    /// The same with this many services: the offsets of the last 32 bits of the VIP and of its port.
    pub fn to_services(self, frame: &[u8], services: u32, [vip_at, vip_port_at]: [u32; 2]) -> Self {
        Self { services, vip_at, vip: upper_half(frame, vip_at), vip_port_at, ..self }
    }
}

/// The upper half of the 32 bits at this offset, in network order.
fn upper_half(frame: &[u8], at: u32) -> u32 {
    let at = at as usize;
    u32::from_be_bytes([frame[at], frame[at + 1], 0, 0])
}

/// The parts of a frame that differ between packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Variation {
    /// The last 32 bits of the flow's address.
    pub address: u32,
    /// The flow's port.
    pub port: u16,
    /// The last 32 bits of the service's VIP.
    pub vip: u32,
    /// The service's port.
    pub vip_port: u16,
}

impl Variation {
    /// The variation in a round.
    #[inline(always)]
    pub fn of(plan: &Plan, round: u32) -> Self {
        // An odd factor visits every flow once before any again, in an order that no cache can predict. Its upper bits, which
        // select the service, are evenly distributed (2^32 over the golden ratio: Knuth, TAOCP 6.4).
        let number = (round >> (plan.in_a_row & 31)).wrapping_mul(0x9e37_79b1);
        let flow = number & plan.flow_mask;
        let service = ((u64::from(number) * u64::from(plan.services)) >> 32) as u32;
        Self {
            address: plan.address | flow >> PORT_BITS,
            port: PORT_BASE | (flow & (PORT_BASE as u32 - 1)) as u16,
            vip: plan.vip | service >> SERVICE_BITS,
            vip_port: SERVICE_PORT + (service & (SERVICES_PER_VIP - 1)) as u16,
        }
    }

    /// The checksum of its packet.
    #[inline(always)]
    pub fn checksum(&self, plan: &Plan) -> u16 {
        let sum = plan.checksum + (self.address & 0xffff) + u32::from(self.port);
        let sum = (sum & 0xffff) + (sum >> 16);
        !((sum & 0xffff) + (sum >> 16)) as u16
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_flow_comes_once_before_any_comes_again() {
        let plan = Plan { flow_mask: (1 << 17) - 1, ..Plan::default() };
        let mut flows = BTreeSet::new();
        for round in 7..7 + (1 << 17) {
            let Variation { address, port, .. } = Variation::of(&plan, round);
            assert!(flows.insert((address, port)) && port >= PORT_BASE && address < 4);
        }
    }

    #[test]
    fn every_flow_s_checksum_adds_up() {
        // As if the sum covered only these: an address at 2, a port at 6, and the checksum at 8.
        let mut frame = [0x12, 0x34, 0xc6, 0x12, 0xab, 0xcd, 0x9c, 0x40, 0, 0, 0x77, 0x07];
        let sum = |frame: &[u8]| {
            let sum: u32 =
                frame.chunks(2).map(|half| u32::from(u16::from_be_bytes([half[0], half[1]]))).sum();
            (sum & 0xffff) + (sum >> 16)
        };
        let checksum = !sum(&frame) as u16;
        frame[8..10].copy_from_slice(&checksum.to_be_bytes());
        assert_eq!(sum(&frame), 0xffff);
        let plan = Plan::of(&frame).varied(&frame, 1 << 30, [2, 6]).summed(&frame, 8);
        for round in 0..100_000 {
            let variation = Variation::of(&plan, round);
            frame[2..6].copy_from_slice(&variation.address.to_be_bytes());
            frame[6..8].copy_from_slice(&variation.port.to_be_bytes());
            frame[8..10].copy_from_slice(&variation.checksum(&plan).to_be_bytes());
            assert_eq!(sum(&frame), 0xffff, "{variation:?}");
        }
    }

    #[test]
    fn packets_go_evenly_to_all_services() {
        let plan = Plan { services: 1_000, ..Plan::default() };
        let mut packets = std::vec![0; 1_000];
        for round in 0..100_000 {
            let Variation { vip, vip_port, .. } = Variation::of(&plan, round);
            let service = vip * SERVICES_PER_VIP + u32::from(vip_port - SERVICE_PORT);
            packets[service as usize] += 1;
        }
        assert!(packets.iter().all(|packets| (95..=105).contains(packets)), "{packets:?}");
    }
}
