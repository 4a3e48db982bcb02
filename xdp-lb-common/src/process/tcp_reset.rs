//! The TCP reset that answers a packet of a connection that is not there (RFC 9293 section 3.10.7.1), made of the packet
//! itself.

use super::icmp_answer::back;
use super::rewrite::{ethertype, write_ethernet};
use crate::net::{Be16, Be32, Protocol};
use crate::packet::checksum::Sum;
use crate::packet::headers::{Ipv4, Ipv6, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, Tcp, checksum_offset};
use crate::packet::parse::Parsed;
use crate::packet::{Before, Packet};
use crate::reason::Reason;

/// A TCP header's length in 32-bit words, where that stands in it; and the header's length in bytes.
const DATA_OFFSET: u8 = 5 << 4;
const LENGTH: u16 = size_of::<Tcp>() as u16;

/// Makes a TCP packet the reset that goes back to its sender, in the name of whom it was for. Not for a reset: none is
/// answered.
///
/// A call of its own in the kernel, not inlined: a program's stack is 512 bytes.
#[inline(never)]
pub fn send<P: Packet>(packet: &mut P, parsed: &Parsed) -> Result<(), Reason> {
    let tcp: Tcp = packet.read(parsed.l4).ok_or(Reason::Internal)?;
    let header = if parsed.is_v4 { size_of::<Ipv4>() } else { size_of::<Ipv6>() };
    let end = parsed.l3 + header + size_of::<Tcp>();
    let is_unfinished = packet.is_unfinished(parsed.l4 + checksum_offset(true));
    if is_unfinished && parsed.l4 != parsed.l3 + header {
        // It will be finished where it stands now, behind options that the reset does not have.
        return Err(Reason::Internal);
    }
    packet.cut_to(end).ok_or(Reason::Internal)?;
    write_ethernet(packet, parsed.l3, Before::Nothing, ethertype(parsed.is_v4), &back(parsed))?;

    let key = &parsed.key;
    let (from, to) = (&key.destination, &key.source);
    let mut sum = Sum::default();
    if parsed.is_v4 {
        packet.write(parsed.l3, Ipv4::new(from, to, Protocol::TCP, LENGTH, 0)).ok_or(Reason::Internal)?;
        sum.v4(from.last());
        sum.v4(to.last());
    } else {
        packet.write(parsed.l3, Ipv6::new(from, to, Protocol::TCP, LENGTH, 0, 0)).ok_or(Reason::Internal)?;
        sum.v6(&from.0);
        sum.v6(&to.0);
    }
    // The pseudo-header (RFC 9293 section 3.1), and the header.
    sum.number(Protocol::TCP.0.into());
    sum.number(LENGTH);
    let pseudo = sum;
    let (sequence, acknowledgment, flags) = numbers(&tcp, parsed);
    sum.double_word(u32::from(key.destination_port.word()) + u32::from(key.source_port.word()));
    sum.double_word(sequence.word());
    sum.double_word(acknowledgment.word());
    sum.number(u16::from_be_bytes([DATA_OFFSET, flags]));
    let reset = Tcp {
        source: key.destination_port,
        destination: key.source_port,
        sequence,
        acknowledgment,
        data_offset: DATA_OFFSET,
        flags,
        window: Be16::new(0),
        checksum: if is_unfinished { pseudo.unfinished() } else { sum.finish() },
        urgent: Be16::new(0),
    };
    packet.write(parsed.l3 + header, reset).ok_or(Reason::Internal)
}

/// The reset's sequence and acknowledgment number and its control bits: as its receiver expects them, else it would take
/// the reset for a forged one.
#[inline(always)]
fn numbers(tcp: &Tcp, parsed: &Parsed) -> (Be32, Be32, u8) {
    if tcp.flags & TCP_ACK != 0 {
        return (tcp.acknowledgment, Be32::new(0), TCP_RST);
    }
    let behind = parsed.ip_length.wrapping_sub((parsed.l4 - parsed.l3) as u32);
    let payload = behind.wrapping_sub(u32::from(tcp.data_offset >> 4) * 4);
    // SYN and FIN have a number each.
    let bits = u32::from(tcp.flags & TCP_SYN != 0) + u32::from(tcp.flags & TCP_FIN != 0);
    let next = tcp.sequence.get().wrapping_add(payload).wrapping_add(bits);
    (Be32::new(0), Be32::new(next), TCP_RST | TCP_ACK)
}
