//! Checks that a backend's packet arrives on the interface and VLAN by which packets to the backend leave. Otherwise anyone in
//! the clients' network could spoof a backend's packets, and this host would forward them in the VIP's name.

use crate::packet::parse::Parsed;
use crate::reason::Reason;
use crate::tables::{ASYMMETRIC_REPLIES, Backend, BackendIndex, Route, Tables, VlanDevice};

/// The VLAN id in a tag. 0: no tag, or a priority tag (IEEE 802.1Q section 9.6).
const VLAN_ID: u32 = 0xfff;

/// Refuses a packet with this backend's source address that arrives elsewhere.
///
/// Not inlined: the verifier would follow everything after the call once for each outcome.
#[inline(never)]
pub fn check<T: Tables>(tables: &T, parsed: &Parsed, index: BackendIndex) -> Result<(), Reason> {
    let backend = tables.backend(index).ok_or(Reason::Internal)?;
    if is_at(parsed, parsed.ingress, vlan(parsed), backend.ifindex, u32::from(backend.vlan)) {
        Ok(())
    } else {
        look_closer(tables, parsed, backend)
    }
}

#[inline(always)]
fn vlan(parsed: &Parsed) -> u32 {
    parsed.tags.outer & VLAN_ID
}

/// Whether a packet that arrived on this interface and VLAN came from the backend's. With `&`, since the verifier would follow
/// each branch.
#[inline(always)]
fn is_at(parsed: &Parsed, ifindex: u32, vlan: u32, backend_ifindex: u32, backend_vlan: u32) -> bool {
    (backend_ifindex == ifindex) & (backend_vlan == vlan) & (parsed.tags.inner == 0)
}

/// The slower check: the packet may have arrived on a VLAN device whose parent leads to the backend, or on a port of the bond or
/// bridge. If it is not known where the backend is, its packets may arrive anywhere.
///
/// Not inlined, since it is rare.
#[inline(never)]
fn look_closer<T: Tables>(tables: &T, parsed: &Parsed, backend: &Backend) -> Result<(), Reason> {
    let settings = tables.settings().ok_or(Reason::Internal)?;
    if (settings.options & ASYMMETRIC_REPLIES != 0) | (backend.ifindex == 0) {
        return Ok(());
    }
    let (mut ifindex, mut vlan) = (backend.ifindex, u32::from(backend.vlan));
    // Without a daemon, packets to the backend leave as `handover::freshen` decides, which may be on another interface by now.
    if settings.alone != 0 {
        match tables.way(backend, parsed.ingress) {
            Route::Via { ifindex: index, tags, .. } => (ifindex, vlan) = (index, tags.outer & VLAN_ID),
            Route::NeighbourMissing { ifindex: index } => (ifindex, vlan) = device(tables, index),
            Route::Unroutable if backend.vlan == 0 => return Ok(()),
            Route::Unroutable | Route::Local | Route::TooBig { .. } => {}
        }
    }
    is_behind(tables, parsed, ifindex, vlan)
}

/// The interface that transmits for this one, and the VLAN.
#[inline(always)]
fn device<T: Tables>(tables: &T, ifindex: u32) -> (u32, u32) {
    tables.device_below(ifindex).map_or((ifindex, 0), |VlanDevice { parent, vlan }| (parent, vlan))
}

/// Refuses a packet that did not arrive on this interface and VLAN, a device on top of them, or one of their ports.
#[inline(always)]
fn is_behind<T: Tables>(
    tables: &T,
    parsed: &Parsed,
    backend_ifindex: u32,
    backend_vlan: u32,
) -> Result<(), Reason> {
    let (mut ifindex, mut id) = (parsed.ingress, vlan(parsed));
    if is_at(parsed, ifindex, id, backend_ifindex, backend_vlan) {
        return Ok(());
    }
    // A VLAN device on a bond, if the packet arrived on one of its ports.
    for _ in 0..2 {
        let Some(VlanDevice { parent, vlan }) = tables.device_below(ifindex) else { break };
        ifindex = parent;
        id = if vlan == 0 { id } else { vlan };
        if is_at(parsed, ifindex, id, backend_ifindex, backend_vlan) {
            return Ok(());
        }
    }
    Err(Reason::ReplyFromElsewhere)
}
