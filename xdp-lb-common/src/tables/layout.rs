//! What both sides must agree on to share pinned tables.

use crate::net::Endpoint;
use crate::reason::REASONS;
use crate::tables::directory::Keyed;
use crate::tables::{
    Backend, FlowKey, FlowRecord, Fragment, FragmentKey, PortRanges, Reply, RouterAddresses, ServerKey,
    Service, Settings, SourceKey, Traffic, VlanDevice,
};

/// The version of the shared tables' layout; a daemon adopts only pins of its own version. Raise it when
/// the meaning of a key or value changes.
const MEANING: u32 = 6;

/// The version of the shared tables' layout: what its bytes mean, and a number that changes with every
/// size and with the list of reasons, so that nobody has to think of it.
pub const LAYOUT_VERSION: u32 = {
    let sizes = [
        size_of::<Endpoint>(),
        size_of::<Keyed<Service>>(),
        size_of::<Backend>(),
        size_of::<Keyed<Reply>>(),
        size_of::<FlowKey>(),
        size_of::<FlowRecord>(),
        size_of::<Settings>(),
        size_of::<Traffic>(),
        size_of::<VlanDevice>(),
        size_of::<SourceKey>(),
        size_of::<ServerKey>(),
        size_of::<FragmentKey>(),
        size_of::<Fragment>(),
        size_of::<PortRanges>(),
        size_of::<RouterAddresses>(),
        REASONS as usize,
    ];
    let mut number = 0u32;
    let mut at = 0;
    while at < sizes.len() {
        // The multiplier of FNV-1a.
        number = (number ^ sizes[at] as u32).wrapping_mul(0x0100_0193);
        at += 1;
    }
    MEANING * 10_000 + number % 10_000
};
