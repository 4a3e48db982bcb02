//! `LOSSES`, `WATCHED`: packets that the kernel drops after the program's verdict.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::layout::{key, record};

/// [`LossKey::action`]: the packet was redirected. The numbers are the kernel's (`enum xdp_action`).
pub const REDIRECT: u32 = 4;
/// [`LossKey::action`]: the packet was to be sent by the interface on which it arrived.
pub const TRANSMIT: u32 = 3;

key! {
    /// The key of `LOSSES`: packets of one kind. The value is their number.
    pub struct LossKey {
        /// The interface that was to transmit them.
        pub ifindex: u32,
        /// The program's verdict: [`REDIRECT`], [`TRANSMIT`], or another one.
        pub action: u32,
        /// The error, as a negative error number (errno(3)); 0: the kernel does not report one.
        pub error: i32,
    }
}

/// The maximum number of programs that are watched.
pub const WATCHED: usize = 4;

record! {
    /// The value of `WATCHED`: the programs whose packets are counted, and the offsets in the kernel's structures by which they
    /// are identified, from the kernel's type information.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
    #[repr(C)]
    pub struct Watched {
        /// The kernel's ids of the programs; 0: none.
        pub programs: [u32; WATCHED],
        /// The offset of the pointer `aux` in `struct bpf_prog`, in bytes.
        pub program_aux: u32,
        /// The offset of the program's id in `struct bpf_prog_aux`, in bytes.
        pub aux_id: u32,
        /// The offset of the index in `struct net_device`, in bytes.
        pub device_ifindex: u32,
    }
}
