//! Whose a packet's end is where services may have one port, a range of them, or all: what says most counts.
//!
//! What comes behind the exact port is a call of its own in the kernel, not inlined, which few packets make; it is
//! given the whole key, since an end of it would have to be put on the stack.

use crate::net::{Endpoint, Port};
use crate::tables::{FlowKey, Reply, Service, Tables};

/// The service that this packet is for: the one on its port, else the one on a range, else the one on all ports of the
/// address.
#[inline(always)]
pub fn service<'t, T: Tables>(tables: &'t T, key: &FlowKey) -> Option<&'t Service> {
    match tables.service(&key.destination_endpoint()) {
        None => behind_exact(tables, key),
        exact => exact,
    }
}

#[inline(never)]
fn behind_exact<'t, T: Tables>(tables: &'t T, key: &FlowKey) -> Option<&'t Service> {
    in_range(tables, &key.destination_endpoint())
}

/// The service that has this port of this address. A call of its own, as above.
#[inline(never)]
pub fn at<'t, T: Tables>(tables: &'t T, vip: &Endpoint) -> Option<&'t Service> {
    match tables.service(vip) {
        None => in_range(tables, vip),
        exact => exact,
    }
}

#[inline(always)]
fn in_range<'t, T: Tables>(tables: &'t T, vip: &Endpoint) -> Option<&'t Service> {
    if !tables.may_have_ranges(&vip.address) {
        return None;
    }
    let first = tables.port_ranges(&vip.with_port(Port::new(0)))?.find(vip.port)?;
    tables.service(&vip.with_port(first).range())
}

/// What to do with this packet from a backend: the rule of its port, else that of all of the address's ports.
#[inline(always)]
pub fn reply<'t, T: Tables>(tables: &'t T, key: &FlowKey) -> Option<&'t Reply> {
    match tables.reply(&key.source_endpoint()) {
        None => of_all_ports(tables, key),
        exact => exact,
    }
}

#[inline(never)]
fn of_all_ports<'t, T: Tables>(tables: &'t T, key: &FlowKey) -> Option<&'t Reply> {
    tables.reply(&key.source_endpoint().with_port(Port::new(0)))
}

/// Whether packets to this one's destination are a backend's. A call of its own, as above.
#[inline(never)]
pub fn is_to_backend<T: Tables>(tables: &T, key: &FlowKey) -> bool {
    let backend = key.destination_endpoint();
    tables.reply(&backend).is_some() || tables.reply(&backend.with_port(Port::new(0))).is_some()
}

/// Whether this packet's sender is a service or a backend.
#[inline(always)]
pub fn sender_is_ours<T: Tables>(tables: &T, key: &FlowKey) -> bool {
    sender_is_service(tables, key) || sender_is_backend(tables, key)
}

#[inline(never)]
fn sender_is_service<T: Tables>(tables: &T, key: &FlowKey) -> bool {
    let sender = key.source_endpoint();
    tables.service(&sender).is_some() || in_range(tables, &sender).is_some()
}

#[inline(never)]
fn sender_is_backend<T: Tables>(tables: &T, key: &FlowKey) -> bool {
    reply(tables, key).is_some_and(|rule| rule.is_from(key.source_port))
}
