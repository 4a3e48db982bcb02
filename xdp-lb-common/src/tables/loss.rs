//! `LOSSES`, `WATCHED`: packets that the kernel drops after the program's verdict.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::layout::{key, record};

/// [`LossKey::action`]: the packet was redirected. The numbers are the kernel's (`enum xdp_action`).
pub const REDIRECT: u32 = 4;
/// [`LossKey::action`]: it was to be transmitted by the interface that it came in by.
pub const TRANSMIT: u32 = 3;

key! {
    /// The key of `LOSSES`: packets of one kind. The value is how many.
    pub struct LossKey {
        /// The interface that was to transmit them.
        pub ifindex: u32,
        /// The program's verdict: [`REDIRECT`], [`TRANSMIT`], or another one.
        pub action: u32,
        /// Why, as a negative error number (errno(3)); 0: the kernel does not tell.
        pub error: i32,
    }
}

/// How many programs are watched at most.
pub const WATCHED: usize = 4;

record! {
    /// The value of `WATCHED`: whose packets are counted, and where the kernel's structures say so. The places follow from the kernel's
    /// type information.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
    #[repr(C)]
    pub struct Watched {
        /// The kernel's ids of the programs; 0: none.
        pub programs: [u32; WATCHED],
        /// Where in `struct bpf_prog` the pointer `aux` is, bytes.
        pub program_aux: u32,
        /// Where in `struct bpf_prog_aux` the program's id is, bytes.
        pub aux_id: u32,
        /// Where in `struct net_device` its index is, bytes.
        pub device_ifindex: u32,
    }
}
