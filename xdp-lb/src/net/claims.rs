//! Finds other hosts that claim an address on a link: an ARP probe (RFC 5227 section 2.1.1), or a neighbour solicitation as for duplicate address
//! detection (RFC 4862 section 5.4.2).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use etherparse::{Icmpv6Type, NetSlice, PacketBuilder, SlicedPacket, TransportSlice};

use super::packet_socket;

/// How long others may take to answer.
const PATIENCE: Duration = Duration::from_millis(600);

/// The other Ethernet addresses that answer for an address on the interface with this index, whose own is `mac`.
///
/// # Errors
/// Without `CAP_NET_RAW`, or if the interface takes no frame.
pub fn claims(address: IpAddr, ifindex: u32, mac: [u8; 6]) -> io::Result<Vec<[u8; 6]>> {
    let kind = if address.is_ipv4() { libc::ETH_P_ARP } else { libc::ETH_P_IPV6 };
    let socket = open(kind as u16, ifindex)?;
    let frame = question(address, mac).map_err(io::Error::other)?;
    // SAFETY: the frame outlives the call, which gets its length.
    let sent = unsafe { libc::send(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    let deadline = Instant::now() + PATIENCE;
    let mut found = Vec::new();
    let mut buffer = [0; 2048];
    while let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        wait(&socket, left)?;
        // SAFETY: the buffer outlives the call, which gets its length.
        let length = unsafe {
            libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT)
        };
        let Some(frame) = usize::try_from(length).ok().and_then(|length| buffer.get(..length)) else {
            continue;
        };
        if let Some(other) = answer(frame, address).filter(|other| *other != mac && !found.contains(other)) {
            found.push(other);
        }
    }
    Ok(found)
}

/// A socket that sends and receives frames of this kind on one interface.
fn open(kind: u16, ifindex: u32) -> io::Result<OwnedFd> {
    let socket = packet_socket::open()?;
    let mut address = packet_socket::address(ifindex)?;
    address.sll_protocol = kind.to_be();
    let length = size_of::<libc::sockaddr_ll>() as u32;
    // SAFETY: the address outlives the call, which gets its length.
    match unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) } {
        0 => Ok(socket),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Waits until there is something to receive, or the time is over.
fn wait(socket: &OwnedFd, left: Duration) -> io::Result<()> {
    let mut one = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let timeout = i32::try_from(left.as_millis()).unwrap_or(i32::MAX).max(1);
    // SAFETY: there is one entry, which outlives the call.
    match unsafe { libc::poll(&raw mut one, 1, timeout) } {
        ..0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// The frame that asks for an address. Its sender's IP address is unspecified.
fn question(address: IpAddr, mac: [u8; 6]) -> Result<Vec<u8>, String> {
    match address {
        IpAddr::V4(v4) => packet_socket::arp_request(mac, Ipv4Addr::UNSPECIFIED, v4),
        IpAddr::V6(v6) => {
            // The solicited-node address (RFC 4291 section 2.7.1), and its Ethernet address (RFC 2464 section 7).
            let [.., a, b, c] = v6.octets();
            let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
            let packet = PacketBuilder::ethernet2(mac, [0x33, 0x33, 0xff, a, b, c])
                .ipv6([0; 16], group.octets(), 255)
                .icmpv6(Icmpv6Type::NeighborSolicitation);
            let mut frame = Vec::with_capacity(128);
            packet.write(&mut frame, &v6.octets()).map_err(|error| error.to_string())?;
            Ok(frame)
        }
    }
}

/// The Ethernet address that a frame gives for an address.
fn answer(frame: &[u8], address: IpAddr) -> Option<[u8; 6]> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    match (address, packet.net.as_ref()?) {
        (IpAddr::V4(v4), NetSlice::Arp(arp)) => {
            let is_it = arp.sender_protocol_addr() == v4.octets();
            is_it.then(|| arp.sender_hw_addr().try_into().ok())?
        }
        (IpAddr::V6(v6), NetSlice::Ipv6(_)) => {
            let TransportSlice::Icmpv6(icmp) = packet.transport.as_ref()? else { return None };
            let Icmpv6Type::NeighborAdvertisement(_) = icmp.icmp_type() else { return None };
            let is_it = icmp.payload().get(..16)? == v6.octets();
            is_it.then(|| frame.get(6..12)?.try_into().ok())?
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType};

    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    #[test]
    fn a_probe_claims_nothing_and_an_answer_tells_who_has_the_address() {
        let address: IpAddr = "192.0.2.10".parse().unwrap();
        let probe = question(address, MAC).unwrap();
        assert_eq!((answer(&probe, address), probe.len()), (None, 60));
        let mut reply = Vec::new();
        let arp = ArpPacket::new(
            ArpHardwareId::ETHERNET,
            EtherType::IPV4,
            ArpOperation::REPLY,
            &[2, 0, 0, 0, 0, 9],
            &[192, 0, 2, 10],
            &MAC,
            &[0; 4],
        );
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], MAC).arp(arp.unwrap()).write(&mut reply).unwrap();
        assert_eq!(answer(&reply, address), Some([2, 0, 0, 0, 0, 9]));
        assert_eq!(answer(&reply, "192.0.2.11".parse().unwrap()), None);
        let v6: IpAddr = "2001:db8::10".parse().unwrap();
        let probe = question(v6, MAC).unwrap();
        assert_eq!((&probe[..6], answer(&probe, v6)), (&[0x33, 0x33, 0xff, 0, 0, 0x10][..], None));
    }
}
