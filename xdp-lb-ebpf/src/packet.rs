//! A frame in an XDP context.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail};
use aya_ebpf::programs::XdpContext;
use xdp_lb_common::packet::Packet;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The number of bytes of a frame that the program can access: more than the offset of any header (an Ethernet header with two
/// tags, IPv6, four extension headers of at most 2,048 bytes). It is used as a mask, since the verifier needs a bound on every
/// offset.
const REACH: usize = 1 << 14;

/// The frame in the program's context.
pub struct Frame {
    /// What the program was called with.
    xdp: *mut xdp_md,
}

impl Frame {
    /// The context's frame.
    #[inline(always)]
    pub fn new(context: &XdpContext) -> Self {
        Self { xdp: context.ctx }
    }

    /// The address of a `T` at this offset, which is below [`REACH`]. Rereads the context's pointers each time, since moving the
    /// head invalidates older ones.
    #[inline(always)]
    fn at<T>(&self, offset: usize) -> Option<*mut T> {
        within(self.start(), self.end(), offset)
    }
}

/// A packet whose bytes are in memory, as far as they can be read.
pub trait Readable: Packet {
    /// Where they begin.
    fn start(&self) -> usize;

    /// Where they end.
    fn end(&self) -> usize;
}

/// The address of a `T` at this offset, which is below [`REACH`], in a packet that begins and ends here.
#[inline(always)]
pub fn within<T>(data: usize, end: usize, offset: usize) -> Option<*mut T> {
    let start = data + (offset & (REACH - 1));
    if start + size_of::<T>() > end {
        return None;
    }
    Some(start as *mut T)
}

impl Readable for Frame {
    #[inline(always)]
    fn start(&self) -> usize {
        // SAFETY: the context is the one with which the kernel called this program.
        unsafe { (*self.xdp).data as usize }
    }

    #[inline(always)]
    fn end(&self) -> usize {
        // SAFETY: as above.
        unsafe { (*self.xdp).data_end as usize }
    }
}

impl Packet for Frame {
    #[inline(always)]
    fn length(&self) -> usize {
        self.end() - self.start()
    }

    #[inline(always)]
    fn ingress(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.xdp).ingress_ifindex }
    }

    #[inline(always)]
    fn read<T: FromBytes + Copy>(&self, offset: usize) -> Option<T> {
        // SAFETY: the whole T is within the frame, and any bytes are a valid T. Its address may not be aligned for T: each load
        // becomes one BPF instruction, which accepts unaligned packet addresses if the machine does; otherwise the verifier
        // refuses the program.
        self.at::<T>(offset).map(|value| unsafe { value.read() })
    }

    #[inline(always)]
    fn write<T: IntoBytes + Immutable>(&mut self, offset: usize, value: T) -> Option<()> {
        // SAFETY: the whole T is within the frame, to which only this program writes while it runs. For the alignment see `read`.
        self.at::<T>(offset).map(|place| unsafe { place.write(value) })
    }

    #[inline(always)]
    fn move_head(&mut self, by: i32) -> Option<()> {
        // SAFETY: as above.
        let moved = unsafe { bpf_xdp_adjust_head(self.xdp, by) };
        (moved == 0).then_some(())
    }

    #[inline(always)]
    fn cut_tail(&mut self, by: usize) -> Option<()> {
        // SAFETY: as above.
        let moved = unsafe { bpf_xdp_adjust_tail(self.xdp, -(by as i32)) };
        (moved == 0).then_some(())
    }
}
