//! The BPF programs that are filters at an interface's TC ingress, no matter who attached them, read over netlink.

use std::collections::BTreeSet;
use std::io;

use rtnetlink::packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption};

use super::xdp::ask;

/// The ids of the programs that are filters at TC ingress of the interface with this index, in the calling thread's network
/// namespace. Programs attached there by links (TCX) are not included.
///
/// # Errors
/// If the kernel does not answer.
pub fn programs(ifindex: u32) -> io::Result<BTreeSet<u32>> {
    let mut question = TcMessage::with_index(ifindex as i32);
    question.header.parent = TcHandle { major: TcHandle::CLSACT.major, minor: TcHandle::MIN_INGRESS };
    let socket = ask(RouteNetlinkMessage::GetTrafficFilter(question), NLM_F_REQUEST | NLM_F_DUMP)?;
    let mut programs = BTreeSet::new();
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .map_err(|error| io::Error::other(error.to_string()))?;
            match &message.payload {
                NetlinkPayload::Done(_) => return Ok(programs),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewTrafficFilter(filter)) => {
                    programs.extend(program(filter));
                }
                _ => {}
            }
            // Each message begins at a multiple of 4 bytes (netlink(7), NLMSG_ALIGN).
            let length = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

/// The id of a filter's program, if the filter is a BPF program.
fn program(filter: &TcMessage) -> Option<u32> {
    filter.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Options(options) => options.iter().find_map(|option| match option {
            TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => Some(*id),
            _ => None,
        }),
        _ => None,
    })
}
