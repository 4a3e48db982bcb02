//! A packet at TC ingress: the kernel's own (`struct sk_buff`), whose segments may be joined, whose tag is beside its bytes, and
//! whose checksum may be left to whoever transmits it.
//!
//! Its addresses, ports and lengths are written as those of a frame. What the kernel keeps beside the bytes is its helpers' to
//! change: so the packet that leaves is taken apart, given its tag and its checksum as one of the kernel's own is.
//!
//! Where a NIC has summed up the packet (`CHECKSUM_COMPLETE`), that sum may not be right any more. It is of no use to a NIC that
//! transmits the packet, and a receiver on this host that finds it wrong sums up the packet itself.

use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
use aya_ebpf::bindings::{
    __sk_buff, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L4_UDP,
    BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR,
};
use aya_ebpf::helpers::{
    bpf_l4_csum_replace, bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_pull_data, bpf_skb_vlan_pop,
    bpf_skb_vlan_push,
};
use aya_ebpf::programs::TcContext;
use xdp_lb_common::net::{Be16, Protocol};
use xdp_lb_common::packet::checksum::Change;
use xdp_lb_common::packet::headers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Ipv4, Ipv6, TCP_SYN, Tcp};
use xdp_lb_common::packet::{Before, Packet};
use xdp_lb_common::tables::Tags;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::packet::within;

/// How much of a packet is made readable where its headers may be longer than most are, bytes: all of an IPv6 header with a few
/// extension headers, an ICMP error and what that quotes.
const READABLE: u32 = 1024;

/// The packet that the program was called for.
pub struct Skb {
    /// What the program was called with.
    skb: *mut __sk_buff,
}

impl Skb {
    /// The context's packet, as far as it can be read at once.
    #[inline(always)]
    pub fn of(context: &TcContext) -> Self {
        Self { skb: context.skb.skb }
    }

    /// The context's packet, of which all headers are made readable: they may lie outside of what a program can read at once.
    #[inline(always)]
    pub fn with_headers(context: &TcContext) -> Self {
        let packet = Self::of(context);
        let readable = packet.end() - packet.start();
        if readable < packet.length() && !packet.has_headers() {
            // SAFETY: the context is this program's own. Where it fails, the packet is too short.
            unsafe { bpf_skb_pull_data(packet.skb, (packet.length() as u32).min(READABLE)) };
        }
        packet
    }

    /// Whether all headers of a packet are readable, as those of TCP packets mostly are. A SYN's options are looked at, and so
    /// may be what is behind a UDP header.
    #[inline(always)]
    fn has_headers(&self) -> bool {
        const L3: usize = size_of::<Ethernet>();
        let l4 = match self.read::<Be16>(12).map(Be16::get) {
            Some(ETHERTYPE_IPV4) => {
                let ip = self.read::<Ipv4>(L3);
                ip.filter(|ip| ip.version_and_length == 0x45 && ip.protocol == Protocol::TCP)
                    .map(|_| L3 + size_of::<Ipv4>())
            }
            Some(ETHERTYPE_IPV6) => {
                let ip = self.read::<Ipv6>(L3);
                ip.filter(|ip| ip.next_header == Protocol::TCP).map(|_| L3 + size_of::<Ipv6>())
            }
            _ => None,
        };
        let tcp: Option<Tcp> = l4.and_then(|l4| self.read(l4));
        tcp.is_some_and(|tcp| tcp.flags & TCP_SYN == 0)
    }

    #[inline(always)]
    fn start(&self) -> usize {
        // SAFETY: the context is this program's own.
        unsafe { (*self.skb).data as usize }
    }

    #[inline(always)]
    fn end(&self) -> usize {
        // SAFETY: as above.
        unsafe { (*self.skb).data_end as usize }
    }

    #[inline(always)]
    fn at<T>(&self, offset: usize) -> Option<*mut T> {
        within(self.start(), self.end(), offset)
    }

    /// Gives the packet, whose IP header begins at `l3`, these tags.
    #[inline(always)]
    fn set_tags(&mut self, l3: usize, tags: Tags) -> Option<()> {
        let (beside, has_inner) = (self.tag_beside(), l3 != size_of::<Ethernet>());
        if beside == tags.outer && has_inner == (tags.inner != 0) {
            return Some(());
        }
        if has_inner {
            self.pop()?;
        }
        if has_inner || beside != 0 {
            self.pop()?;
        }
        if tags.inner != 0 {
            self.push(tags.inner)?;
        }
        if tags.outer != 0 {
            self.push(tags.outer)?;
        }
        Some(())
    }

    #[inline(always)]
    fn pop(&mut self) -> Option<()> {
        // SAFETY: the context is this program's own.
        (unsafe { bpf_skb_vlan_pop(self.skb) } == 0).then_some(())
    }

    #[inline(always)]
    fn push(&mut self, tag: u32) -> Option<()> {
        let ethertype = ((tag >> 16) as u16).to_be();
        // SAFETY: as above.
        (unsafe { bpf_skb_vlan_push(self.skb, ethertype, tag as u16) } == 0).then_some(())
    }

    /// Replaces a checksum, as the kernel does for itself.
    #[inline(always)]
    fn replace(&mut self, at: usize, change: Change, flags: u32) -> Option<()> {
        // SAFETY: as above; without lengths among the flags, the change itself is added.
        let replaced =
            unsafe { bpf_l4_csum_replace(self.skb, at as u32, 0, change.sum().into(), flags.into()) };
        (replaced == 0).then_some(())
    }
}

impl Packet for Skb {
    #[inline(always)]
    fn length(&self) -> usize {
        // SAFETY: as above.
        unsafe { (*self.skb).len as usize }
    }

    #[inline(always)]
    fn ingress(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.skb).ifindex }
    }

    #[inline(always)]
    fn read<T: FromBytes + Copy>(&self, offset: usize) -> Option<T> {
        // SAFETY: the whole T lies inside the packet, and any bytes are a T; for the alignment see `crate::packet`.
        self.at::<T>(offset).map(|value| unsafe { value.read() })
    }

    #[inline(always)]
    fn write<T: IntoBytes + Immutable>(&mut self, offset: usize, value: T) -> Option<()> {
        // SAFETY: the whole T lies inside the packet, which is this program's alone to write while it runs: where others have
        // it, too, the kernel has made a copy of what can be read here before it called the program.
        self.at::<T>(offset).map(|place| unsafe { place.write(value) })
    }

    /// See [`Packet::make_room`], which is all that moves it.
    #[inline(always)]
    fn move_head(&mut self, _: i32) -> Option<()> {
        None
    }

    #[inline(always)]
    fn cut_to(&mut self, length: usize) -> Option<()> {
        if length > self.length() {
            return None;
        }
        // SAFETY: as above.
        (unsafe { bpf_skb_change_tail(self.skb, length as u32, 0) } == 0).then_some(())
    }

    #[inline(always)]
    fn tag_beside(&self) -> u32 {
        // SAFETY: as above.
        let (is_there, ethertype, tag) =
            unsafe { ((*self.skb).vlan_present, (*self.skb).vlan_proto, (*self.skb).vlan_tci) };
        if is_there == 0 { 0 } else { u32::from(u16::from_be(ethertype as u16)) << 16 | tag & 0xffff }
    }

    #[inline(always)]
    fn in_bytes(tags: Tags) -> Tags {
        Tags { outer: tags.inner, inner: 0 }
    }

    #[inline(always)]
    fn segment(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.skb).gso_size }
    }

    #[inline(always)]
    fn make_room(&mut self, l3: usize, tags: Tags, outer: Before) -> Option<()> {
        self.set_tags(l3, tags)?;
        let flags = match outer {
            Before::Nothing => return Some(()),
            Before::Answer(_) => 0,
            // A segment is as long as it was, inside of another packet: whether that fits has been looked at.
            Before::Tunnel { is_v4, is_udp, .. } => {
                let ip = if is_v4 { BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 } else { BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 };
                BPF_F_ADJ_ROOM_FIXED_GSO | ip | if is_udp { BPF_F_ADJ_ROOM_ENCAP_L4_UDP } else { 0 }
            }
        };
        // SAFETY: as above.
        let grown =
            unsafe { bpf_skb_adjust_room(self.skb, outer.bytes() as i32, BPF_ADJ_ROOM_MAC, flags.into()) };
        (grown == 0).then_some(())
    }

    #[inline(always)]
    fn change_checksum(&mut self, at: usize, addresses: Change, others: Change, is_udp: bool) -> Option<()> {
        let flags = if is_udp { BPF_F_MARK_MANGLED_0 } else { 0 };
        if addresses.sum() != 0 {
            self.replace(at, addresses, flags | BPF_F_PSEUDO_HDR)?;
        }
        self.replace(at, others, flags)
    }

    #[inline(always)]
    fn is_unfinished(&mut self, at: usize) -> bool {
        let Some(before) = self.read::<Be16>(at) else { return false };
        let mut change = Change::default();
        change.word(0, 1);
        // The kernel leaves one alone that is to be finished.
        let is_left_alone = self.replace(at, change, 0).is_some() && self.read(at) == Some(before);
        let is_back = self.write(at, before).is_some();
        is_left_alone && is_back
    }
}
