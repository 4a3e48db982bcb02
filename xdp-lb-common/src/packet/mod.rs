//! How the datapath reads and writes a packet, wherever its bytes are.

#![forbid(unsafe_code)]

pub mod checksum;
pub mod headers;
pub mod parse;

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A frame, from its Ethernet header on.
pub trait Packet {
    /// The frame's length, bytes.
    fn length(&self) -> usize;

    /// The index of the interface that it came in by.
    fn ingress(&self) -> u32;

    /// The value at this offset, or nothing where the frame ends before it does.
    fn read<T: FromBytes + Copy>(&self, offset: usize) -> Option<T>;

    /// Puts a value at this offset; nothing, where the frame ends before it would.
    fn write<T: IntoBytes + Immutable>(&mut self, offset: usize, value: T) -> Option<()>;

    /// Moves the frame's start: back by this many bytes (which are then undefined) where it is
    /// negative, forward where it is positive; nothing, where there is no room.
    fn move_head(&mut self, by: i32) -> Option<()>;

    /// Moves the frame's end forward by this many bytes, which are lost; nothing, where there are not as many.
    fn cut_tail(&mut self, by: usize) -> Option<()>;
}
