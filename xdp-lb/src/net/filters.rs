//! Which BPF programs are filters at an interface's TC ingress, whoever attached them: asked of the kernel over netlink.

use std::io;

use rtnetlink::packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption};

use super::xdp::ask;

/// A BPF program that is a filter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Filter {
    /// The kernel's id of the program.
    pub program: u32,
    /// What whoever added it has called it.
    pub name: Option<String>,
    /// Which of the filters it is.
    pub priority: u16,
    /// The same, among those of one priority.
    pub handle: u32,
}

/// The BPF programs that are filters at TC ingress of the interface with this index, in the calling thread's network namespace.
/// Programs that links hold there (TCX) are not among them.
///
/// # Errors
/// Where the kernel does not answer.
pub fn of(ifindex: u32) -> io::Result<Vec<Filter>> {
    let mut question = TcMessage::with_index(ifindex as i32);
    question.header.parent = TcHandle { major: TcHandle::CLSACT.major, minor: TcHandle::MIN_INGRESS };
    let socket = ask(RouteNetlinkMessage::GetTrafficFilter(question), NLM_F_REQUEST | NLM_F_DUMP)?;
    let mut filters = Vec::new();
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .map_err(|error| io::Error::other(error.to_string()))?;
            match &message.payload {
                NetlinkPayload::Done(_) => return Ok(filters),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewTrafficFilter(filter)) => {
                    filters.extend(read(filter));
                }
                _ => {}
            }
            // Each message begins at a multiple of 4 bytes (netlink(7), NLMSG_ALIGN).
            let length = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

/// A filter that is a program.
fn read(filter: &TcMessage) -> Option<Filter> {
    let options = filter.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    })?;
    let program = options.iter().find_map(|option| match option {
        TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => Some(*id),
        _ => None,
    })?;
    let name = options.iter().find_map(|option| match option {
        TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => Some(name.clone()),
        _ => None,
    });
    // `TC_H_MAKE` (include/uapi/linux/pkt_sched.h): the priority, and the protocol.
    let priority = (filter.header.info >> 16) as u16;
    let handle = u32::from(filter.header.handle);
    Some(Filter { program, name, priority, handle })
}
