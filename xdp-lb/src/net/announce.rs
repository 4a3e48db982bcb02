//! Announces an address of this host on a link: gratuitous ARP (RFC 5227, section 3) and unsolicited neighbour advertisements
//! (RFC 4861, section 7.2.6). Neighbours that have the address in their caches replace its Ethernet address.

use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::{fs, io};

use etherparse::icmpv6::NeighborAdvertisementHeader;
use etherparse::{Icmpv6Type, PacketBuilder};

use super::kernel::Link;
use super::packet_socket;

/// The Ethernet address of the all-nodes group, `ff02::1` (RFC 2464, section 7).
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// A socket that sends frames on any interface and receives none.
#[derive(Debug)]
pub(super) struct Announcer(OwnedFd);

impl Announcer {
    /// # Errors
    /// Without `CAP_NET_RAW`.
    pub(super) fn open() -> io::Result<Self> {
        packet_socket::open().map(Self)
    }

    /// Announces an address on a link, once.
    ///
    /// # Errors
    /// If the link is not Ethernet, or the frame cannot be sent.
    pub(super) fn announce(&self, address: IpAddr, link: &Link) -> io::Result<()> {
        let mac = link.mac.ok_or_else(|| io::Error::other("it has no Ethernet address"))?.octets();
        let frame = frame(address, mac, is_router(&link.name)).map_err(io::Error::other)?;
        let mut to = packet_socket::address(link.index)?;
        to.sll_halen = 6;
        to.sll_addr[..6].copy_from_slice(&frame[..6]);
        // SAFETY: frame and address outlive the call, which gets their lengths.
        let sent = unsafe {
            libc::sendto(
                self.0.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                libc::MSG_DONTWAIT,
                (&raw const to).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// The frame that announces an address at an Ethernet address.
fn frame(address: IpAddr, mac: [u8; 6], is_router: bool) -> Result<Vec<u8>, String> {
    match address {
        IpAddr::V4(v4) => packet_socket::arp_request(mac, v4, v4),
        IpAddr::V6(v6) => {
            // The option "target link-layer address": type 2, one unit of eight bytes.
            let mut rest = v6.octets().to_vec();
            rest.extend([2, 1]);
            rest.extend(mac);
            let advertisement =
                NeighborAdvertisementHeader { router: is_router, solicited: false, r#override: true };
            let packet = PacketBuilder::ethernet2(mac, ALL_NODES_MAC)
                .ipv6(v6.octets(), ALL_NODES.octets(), 255)
                .icmpv6(Icmpv6Type::NeighborAdvertisement(advertisement));
            let mut frame = Vec::with_capacity(128);
            packet.write(&mut frame, &rest).map_err(|error| error.to_string())?;
            Ok(frame)
        }
    }
}

/// Whether this host's advertisements on a link say that it is a router, as the kernel's do.
fn is_router(interface: &str) -> bool {
    let path = format!("/proc/sys/net/ipv6/conf/{interface}/forwarding");
    fs::read_to_string(path).is_ok_and(|value| value.trim() != "0")
}

#[cfg(test)]
mod tests {
    use etherparse::{ArpOperation, NetSlice, SlicedPacket, TransportSlice};

    use super::*;

    const MAC: [u8; 6] = [2, 0, 0x5e, 0, 0x53, 1];

    #[test]
    fn a_gratuitous_arp_names_the_address_as_sender_and_target() {
        let frame = frame("192.0.2.10".parse().unwrap(), MAC, false).unwrap();
        assert_eq!((&frame[..6], &frame[6..12], frame.len()), (&[0xff; 6][..], &MAC[..], 60));
        let packet = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(NetSlice::Arp(arp)) = packet.net else { panic!("{packet:?}") };
        assert_eq!(arp.operation(), ArpOperation::REQUEST);
        assert_eq!((arp.sender_hw_addr(), arp.target_hw_addr()), (&MAC[..], &[0; 6][..]));
        assert_eq!(
            (arp.sender_protocol_addr(), arp.target_protocol_addr()),
            (&[192, 0, 2, 10][..], &[192, 0, 2, 10][..])
        );
    }

    #[test]
    fn an_unsolicited_advertisement_overrides_and_has_a_whole_checksum() {
        let address: Ipv6Addr = "2001:db8::10".parse().unwrap();
        let frame = frame(address.into(), MAC, true).unwrap();
        let packet = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(NetSlice::Ipv6(ip)) = &packet.net else { panic!("{packet:?}") };
        assert_eq!((ip.header().hop_limit(), ip.header().destination_addr()), (255, ALL_NODES));
        let Some(TransportSlice::Icmpv6(icmp)) = &packet.transport else { panic!("{packet:?}") };
        assert!(icmp.is_checksum_valid(address.octets(), ALL_NODES.octets()));
        let Icmpv6Type::NeighborAdvertisement(header) = icmp.icmp_type() else { panic!("{icmp:?}") };
        assert_eq!((header.router, header.solicited, header.r#override), (true, false, true));
        assert_eq!(icmp.payload()[..16], address.octets());
        assert_eq!(icmp.payload()[16..], [&[2, 1][..], &MAC].concat());
    }
}
