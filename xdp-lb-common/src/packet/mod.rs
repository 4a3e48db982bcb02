//! Access to a packet's bytes, in the kernel or on the host.

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

    /// The value at this offset; `None` if it exceeds the frame.
    fn read<T: FromBytes + Copy>(&self, offset: usize) -> Option<T>;

    /// Writes a value at this offset; `None` if it exceeds the frame.
    fn write<T: IntoBytes + Immutable>(&mut self, offset: usize, value: T) -> Option<()>;

    /// Moves the frame's start: back by this many bytes (which are then undefined) if negative, forward if positive; `None` if
    /// there is not enough space.
    fn move_head(&mut self, by: i32) -> Option<()>;

    /// Cuts this many bytes off the frame's end; `None` if the frame is shorter.
    fn cut_tail(&mut self, by: usize) -> Option<()>;
}
