//! What kind of a device an interface is.

use std::io;

use rtnetlink::packet_route::link::{LinkAttribute, LinkInfo};

use super::xdp::link;

/// The kind of the interface with this index, as `ip -details link` names it, in the calling thread's network namespace; nothing
/// where it is a NIC, whether of hardware or of a virtual machine.
///
/// # Errors
/// Where the interface does not exist, or the kernel does not answer.
pub fn of(ifindex: u32) -> io::Result<Option<String>> {
    let infos = link(ifindex)?.attributes.into_iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    Ok(infos.into_iter().flatten().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    }))
}
