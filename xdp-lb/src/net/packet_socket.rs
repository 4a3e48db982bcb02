//! Packet sockets (packet(7)), and the ARP requests that are sent on them.

use std::net::Ipv4Addr;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::{io, mem};

use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, PacketBuilder};

/// The minimum frame length, without the frame check sequence (IEEE 802.3, section 3.2.8).
const SHORTEST: usize = 60;

/// Opens a socket that sends frames. It receives none until it is bound to an EtherType.
///
/// # Errors
/// Without `CAP_NET_RAW`.
pub(super) fn open() -> io::Result<OwnedFd> {
    // SAFETY: the call takes three numbers. Protocol 0 receives nothing (packet(7)).
    let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}

/// The address of the interface with this index.
///
/// # Errors
/// If the index does not fit an `i32`.
pub(super) fn address(ifindex: u32) -> io::Result<libc::sockaddr_ll> {
    // SAFETY: all zeros are a valid `sockaddr_ll`.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = i32::try_from(ifindex).map_err(io::Error::other)?;
    Ok(address)
}

/// A broadcast ARP request for `target`.
///
/// # Errors
/// If it cannot be written, in words.
pub(super) fn arp_request(mac: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr) -> Result<Vec<u8>, String> {
    let arp = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        ArpOperation::REQUEST,
        &mac,
        &sender.octets(),
        &[0; 6],
        &target.octets(),
    );
    let arp = arp.map_err(|error| error.to_string())?;
    let mut frame = Vec::with_capacity(SHORTEST);
    let packet = PacketBuilder::ethernet2(mac, [0xff; 6]).arp(arp);
    packet.write(&mut frame).map_err(|error| error.to_string())?;
    frame.resize(SHORTEST, 0);
    Ok(frame)
}
