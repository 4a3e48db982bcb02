//! Looks up a packet's endpoint where services may have one port, a range of ports, or all: the most specific one wins.
//!
//! The lookups after the exact port are not inlined: few packets need them. They take the whole key, since an endpoint would have
//! to be copied to the stack.

use crate::net::{Endpoint, Port};
use crate::tables::{FlowKey, Reply, Service, Tables};

/// The packet's service: the one on its port, else the one on a range, else the one on all ports of the address.
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

/// The service with this port of this address. Not inlined, as above.
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

/// The rule for this packet from a backend: that of its port, else that of all ports of the address.
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

/// Whether this packet's destination is a backend. Not inlined, as above.
#[inline(never)]
pub fn is_to_backend<T: Tables>(tables: &T, key: &FlowKey) -> bool {
    let backend = key.destination_endpoint();
    tables.reply(&backend).is_some() || tables.reply(&backend.with_port(Port::new(0))).is_some()
}

/// Whether this packet's source is a service or a backend.
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
