//! Where a backend's packet has to come in: by the interface and in the VLAN by which packets to it leave. Else anybody in
//! the clients' network could speak in a backend's name, and this host would pass it on in the VIP's.

use crate::parse::Parsed;
use crate::reason::Reason;
use crate::tables::{Backend, BackendIndex, Tables, VlanDevice};

/// The VLAN id in a tag; 0: no tag, or one that says a priority alone (IEEE 802.1Q section 9.6).
const VLAN_ID: u32 = 0xfff;

/// Refuses a packet in the name of this backend that comes from elsewhere.
///
/// A call of its own in the kernel, not inlined: the verifier would follow all that comes after once for each outcome.
#[inline(never)]
pub fn check<T: Tables>(tables: &T, parsed: &Parsed, index: BackendIndex) -> Result<(), Reason> {
    let backend = tables.backend(index).ok_or(Reason::Internal)?;
    if is_at(parsed, parsed.ingress, vlan(parsed), backend) {
        Ok(())
    } else {
        look_closer(tables, parsed, backend)
    }
}

#[inline(always)]
fn vlan(parsed: &Parsed) -> u32 {
    parsed.tags.outer & VLAN_ID
}

/// Whether this interface and VLAN are those towards the backend. With `&`: the verifier would follow each branch.
#[inline(always)]
fn is_at(parsed: &Parsed, ifindex: u32, vlan: u32, backend: &Backend) -> bool {
    (backend.ifindex == ifindex) & (u32::from(backend.vlan) == vlan) & (parsed.tags.inner == 0)
}

/// A packet may have come in by a VLAN device whose parent the backend is behind, or by a port of the bond or bridge. Where
/// nobody knows where the backend is, it may come from anywhere.
///
/// A call of its own in the kernel, not inlined: it is rare.
#[inline(never)]
fn look_closer<T: Tables>(tables: &T, parsed: &Parsed, backend: &Backend) -> Result<(), Reason> {
    let settings = tables.settings().ok_or(Reason::Internal)?;
    if (settings.asymmetric_replies != 0) | (backend.ifindex == 0) {
        return Ok(());
    }
    let (mut ifindex, mut id) = (parsed.ingress, vlan(parsed));
    // A VLAN device on a bond, of which the packet came in by a port.
    for _ in 0..2 {
        let Some(VlanDevice { parent, vlan }) = tables.device_below(ifindex) else { break };
        ifindex = parent;
        id = if vlan == 0 { id } else { vlan };
        if is_at(parsed, ifindex, id, backend) {
            return Ok(());
        }
    }
    Err(Reason::ReplyFromElsewhere)
}
