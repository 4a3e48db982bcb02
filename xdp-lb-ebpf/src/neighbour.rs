//! The program at TC ingress: has the kernel resolve the next hops that the XDP program did not know, and send what waits for
//! them. See [`xdp_lb_common::process::handover`].

use core::ptr;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, TC_ACT_UNSPEC, bpf_fib_lookup as FibLookup,
    bpf_redir_neigh as Neighbour,
};
use aya_ebpf::helpers::{bpf_fib_lookup, bpf_redirect_neigh};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use xdp_lb_common::net::{Address, Be32};
use xdp_lb_common::process::handover::{Target, is_to, target};
use xdp_lb_common::tables::BackendIndex;

use crate::maps::{BACKENDS, SETTINGS};
use crate::skb::Skb;
use crate::tables::{FAMILY_V4, FAMILY_V6, ask, next_hop};

/// Sends what the XDP program has marked. All else goes on, to other programs and to the host.
#[classifier]
pub fn tc_neighbour(context: TcContext) -> i32 {
    send_marked(&context)
}

/// The same for a packet that has been marked by now, if it was.
///
/// A call of its own, not inlined: it is rare, and the stack of the load balancer's program is full.
#[inline(never)]
pub fn send_marked(context: &TcContext) -> i32 {
    send(context).unwrap_or(TC_ACT_UNSPEC)
}

#[inline(always)]
fn send(context: &TcContext) -> Option<i32> {
    match target(&Skb::of(context), SETTINGS.get(0)?)? {
        Target::Interface(ifindex) => Some(redirect(ifindex, None)),
        Target::Backend(index) => send_to_backend(context, index),
    }
}

#[inline(always)]
fn send_to_backend(context: &TcContext, index: BackendIndex) -> Option<i32> {
    let backend = BACKENDS.get(index.0)?;
    // SAFETY: the context is this program's own.
    let ingress = unsafe { (*context.skb.skb).ingress_ifindex };
    // SAFETY: the struct is made of numbers; all zero is a valid one.
    let mut lookup: FibLookup = unsafe { core::mem::zeroed() };
    ask(&mut lookup, &backend.source, &backend.address, backend.port, ingress);
    // SAFETY: as above, and the length is the struct's.
    let answer =
        unsafe { bpf_fib_lookup(context.as_ptr(), &raw mut lookup, size_of::<FibLookup>() as i32, 0) };
    match answer as u32 {
        BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH => {
            Some(redirect(lookup.ifindex, Some(next_hop(&lookup))))
        }
        // This host forwards nothing: the kernel finds the next hop as for a packet of its own. One that is not to the
        // backend's address (`dsr`) goes to a backend on the link.
        _ if is_to(&Skb::of(context), backend) => Some(redirect(backend.ifindex, None)),
        _ => Some(redirect(backend.ifindex, Some(backend.address))),
    }
}

/// Sends the packet out of this interface, to this neighbour on its link, or to the one that the routes have for it.
#[inline(always)]
fn redirect(ifindex: u32, neighbour: Option<Address>) -> i32 {
    let Some(address) = neighbour else {
        // SAFETY: without parameters, their length is 0; the helper refuses an index that does not exist.
        return unsafe { bpf_redirect_neigh(ifindex, ptr::null_mut(), 0, 0) as i32 };
    };
    // SAFETY: the struct is made of numbers; all zero is a valid one.
    let mut neighbour: Neighbour = unsafe { core::mem::zeroed() };
    if address.is_v4() {
        neighbour.nh_family = FAMILY_V4.into();
        neighbour.__bindgen_anon_1.ipv4_nh = address.last().word();
    } else {
        neighbour.nh_family = FAMILY_V6.into();
        neighbour.__bindgen_anon_1.ipv6_nh = address.0.map(Be32::word);
    }
    // SAFETY: the length is the struct's.
    unsafe { bpf_redirect_neigh(ifindex, &raw mut neighbour, size_of::<Neighbour>() as i32, 0) as i32 }
}
