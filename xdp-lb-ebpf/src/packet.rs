//! A frame in an XDP context.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len};
use aya_ebpf::programs::XdpContext;
use xdp_lb_common::packet::Packet;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// How far into a frame the program looks: farther than any header begins (an Ethernet header with two
/// tags, IPv6, four extension headers of 2,048 bytes at the most). A mask, since the verifier wants to
/// see a bound on every offset.
const REACH: usize = 1 << 14;

/// Whether frames may lie in several buffers, as large ones do: the loader sets it where the kernel has such frames (5.18), and the
/// verifier looks at nothing that depends on it where not.
#[unsafe(no_mangle)]
static SEVERAL_BUFFERS: u32 = 0;

/// The frame that the program was called for. Where it lies in several buffers, only the first one can be read.
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

    #[inline(always)]
    fn start(&self) -> usize {
        // SAFETY: the context is the one that the kernel called this program with.
        unsafe { (*self.xdp).data as usize }
    }

    #[inline(always)]
    fn end(&self) -> usize {
        // SAFETY: as above.
        unsafe { (*self.xdp).data_end as usize }
    }

    /// The length of all buffers together.
    #[inline(always)]
    fn whole_length(&self) -> usize {
        // SAFETY: it is a number, which the compiler must not take for the one that stands here.
        if unsafe { (&raw const SEVERAL_BUFFERS).read_volatile() } == 0 {
            return self.length();
        }
        // SAFETY: as above.
        unsafe { bpf_xdp_get_buff_len(self.xdp) as usize }
    }

    /// The address of a `T` at this offset, which is below [`REACH`]. The context's pointers are read anew each time, since
    /// moving the head makes older ones stale.
    #[inline(always)]
    fn at<T>(&self, offset: usize) -> Option<*mut T> {
        within(self.start(), self.end(), offset)
    }
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

impl Packet for Frame {
    #[inline(always)]
    fn length(&self) -> usize {
        self.end() - self.start()
    }

    #[inline(always)]
    fn reaches(&self, length: usize) -> bool {
        length <= self.length() || length <= self.whole_length()
    }

    #[inline(always)]
    fn ingress(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.xdp).ingress_ifindex }
    }

    #[inline(always)]
    fn read<T: FromBytes + Copy>(&self, offset: usize) -> Option<T> {
        // SAFETY: the whole T lies inside the frame, and any bytes are a T. It may lie at an address
        // that is not aligned for T: each load becomes one BPF instruction, which takes any address
        // in a packet where the machine does, and elsewhere the verifier refuses the program.
        self.at::<T>(offset).map(|value| unsafe { value.read() })
    }

    #[inline(always)]
    fn write<T: IntoBytes + Immutable>(&mut self, offset: usize, value: T) -> Option<()> {
        // SAFETY: the whole T lies inside the frame, which is this program's alone to write while it
        // runs; for the alignment see `read`.
        self.at::<T>(offset).map(|place| unsafe { place.write(value) })
    }

    #[inline(always)]
    fn move_head(&mut self, by: i32) -> Option<()> {
        // SAFETY: as above.
        let moved = unsafe { bpf_xdp_adjust_head(self.xdp, by) };
        (moved == 0).then_some(())
    }

    #[inline(always)]
    fn cut_to(&mut self, length: usize) -> Option<()> {
        let by = self.whole_length().checked_sub(length)?;
        // SAFETY: as above.
        let moved = unsafe { bpf_xdp_adjust_tail(self.xdp, -(by as i32)) };
        (moved == 0).then_some(())
    }
}
