//! Access to a packet's bytes, in the kernel or on the host.

#![forbid(unsafe_code)]

pub mod checksum;
pub mod headers;
pub mod parse;

use self::checksum::Change;
use crate::net::Be16;
use crate::tables::Tags;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// What goes between a frame's Ethernet header and its IP packet.
#[derive(Clone, Copy)]
pub enum Before {
    /// Nothing: the packet follows at once.
    Nothing,
    /// The headers of another packet, so many bytes, that takes this one's place.
    Answer(usize),
    /// The headers of a tunnel.
    Tunnel {
        /// Their length.
        bytes: usize,
        /// Whether they begin with IPv4, or with IPv6.
        is_v4: bool,
        /// Whether UDP follows.
        is_udp: bool,
    },
}

impl Before {
    /// How many bytes they take.
    #[inline(always)]
    pub const fn bytes(self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Answer(bytes) | Self::Tunnel { bytes, .. } => bytes,
        }
    }
}

/// A frame, from its Ethernet header on.
///
/// What the kernel's own packets (`struct sk_buff`) have beside their bytes has a default here, which is that of a frame as it
/// was on the wire: a tag, segments that are joined, and a checksum that is not finished.
pub trait Packet {
    /// The frame's length, bytes; where it lies in several buffers, that of the first one, which has all headers.
    fn length(&self) -> usize;

    /// Whether the frame, in all of its buffers, is as long as this.
    #[inline(always)]
    fn reaches(&self, length: usize) -> bool {
        length <= self.length()
    }

    /// The index of the interface that it came in by.
    fn ingress(&self) -> u32;

    /// The value at this offset; `None` if it exceeds the frame.
    fn read<T: FromBytes + Copy>(&self, offset: usize) -> Option<T>;

    /// Writes a value at this offset; `None` if it exceeds the frame.
    fn write<T: IntoBytes + Immutable>(&mut self, offset: usize, value: T) -> Option<()>;

    /// Moves the frame's start: back by this many bytes (which are then undefined) if negative, forward if positive; `None` if
    /// there is not enough space.
    fn move_head(&mut self, by: i32) -> Option<()>;

    /// Cuts off what the frame has behind this length; `None` if it is shorter.
    fn cut_to(&mut self, length: usize) -> Option<()>;

    /// The outer VLAN tag where it is beside the bytes, as [`Tags`] has it; 0: there is none.
    #[inline(always)]
    fn tag_beside(&self) -> u32 {
        0
    }

    /// Those of a frame's tags that are in its bytes.
    #[inline(always)]
    fn in_bytes(tags: Tags) -> Tags {
        tags
    }

    /// The payload of each of the TCP segments or UDP datagrams that are joined in this packet, bytes; 0: it is one packet.
    #[inline(always)]
    fn segment(&self) -> u32 {
        0
    }

    /// Makes room for an Ethernet header with these tags, and for what goes between it and the IP packet, which begins at `l3`;
    /// what is in the room is undefined. `None` if there is not enough space.
    #[inline(always)]
    fn make_room(&mut self, l3: usize, tags: Tags, outer: Before) -> Option<()> {
        let length = tags.header_length() + outer.bytes();
        if length == l3 { Some(()) } else { self.move_head(l3 as i32 - length as i32) }
    }

    /// Changes the TCP or UDP checksum at this offset: `addresses` is what changes in the pseudo-header, `others` what changes in
    /// the header and the payload.
    #[inline(always)]
    fn change_checksum(&mut self, at: usize, addresses: Change, others: Change, is_udp: bool) -> Option<()> {
        let mut change = addresses;
        change.also(others);
        let old: Be16 = self.read(at)?;
        self.write(at, if is_udp { change.apply_udp(old) } else { change.apply(old) })
    }

    /// Whether the TCP or UDP checksum at this offset is that of the pseudo-header alone, which whoever transmits the packet
    /// completes: by a sum of all that follows from the transport header on.
    #[inline(always)]
    fn is_unfinished(&mut self, _at: usize) -> bool {
        false
    }
}
