//! Which XDP program an interface has, whoever attached it: asked of the kernel over netlink.

use std::os::fd::AsFd as _;
use std::{fmt, io};

use aya::programs::loaded_programs;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::time::{TimeVal, TimeValLike as _};
use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage, LinkXdp, XdpAttached};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};

/// The kernel answers within microseconds: only a lost answer takes this long, in seconds.
const PATIENCE: i64 = 1;

/// An XDP program that is attached to an interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Program {
    /// The kernel's id of it.
    pub id: u32,
    /// How it is attached: "native", "generic" or "offloaded".
    pub mode: &'static str,
    /// Its name, where the kernel lets this process ask for it (`CAP_SYS_ADMIN`).
    pub name: Option<String>,
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, mode, name } = self;
        match name {
            Some(name) => write!(f, "{name}, id {id}, {mode}"),
            None => write!(f, "id {id}, {mode}: see `bpftool prog show id {id}`"),
        }
    }
}

/// The XDP program of the interface with this index, in the calling thread's network namespace; nothing where it has none.
///
/// # Errors
/// Where the interface does not exist, or the kernel does not answer.
pub fn program(ifindex: u32) -> io::Result<Option<Program>> {
    let message = link(ifindex)?;
    let xdp = message.attributes.into_iter().find_map(|attribute| match attribute {
        LinkAttribute::Xdp(xdp) => Some(xdp),
        _ => None,
    });
    let (mut mode, mut id) = (None, None);
    for part in xdp.into_iter().flatten() {
        match part {
            LinkXdp::Attached(XdpAttached::Driver) => mode = Some("native"),
            LinkXdp::Attached(XdpAttached::SocketBuffer) => mode = Some("generic"),
            LinkXdp::Attached(XdpAttached::Hardware) => mode = Some("offloaded"),
            LinkXdp::Attached(XdpAttached::Multiple) => mode = Some("several"),
            LinkXdp::ProgId(program) | LinkXdp::DrvProgId(program) | LinkXdp::SkbProgId(program) => {
                id = Some(program);
            }
            _ => {}
        }
    }
    Ok(mode.zip(id).map(|(mode, id)| Program { id, mode, name: name(id) }))
}

/// What the kernel says of one interface.
pub(super) fn link(ifindex: u32) -> io::Result<LinkMessage> {
    let mut question = LinkMessage::default();
    question.header.index = ifindex;
    let socket = ask(RouteNetlinkMessage::GetLink(question), NLM_F_REQUEST)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)
        .map_err(|error| io::Error::other(error.to_string()))?;
    match answer.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(message)) => Ok(message),
        NetlinkPayload::Error(error) => Err(error.to_io()),
        _ => Err(io::Error::other("unexpected response from the kernel")),
    }
}

/// Asks the kernel; the answer is to be read from the socket.
///
/// # Errors
/// Where the socket cannot be made, or the question not be sent.
pub(super) fn ask(question: RouteNetlinkMessage, flags: u16) -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    setsockopt(&socket.as_fd(), ReceiveTimeout, &TimeVal::seconds(PATIENCE))?;
    socket.bind_auto()?;
    let mut request = NetlinkMessage::from(question);
    request.header.flags = flags;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
    Ok(socket)
}

/// A program's name.
fn name(id: u32) -> Option<String> {
    let program = loaded_programs().map_while(Result::ok).find(|program| program.id() == id)?;
    program.name_as_str().filter(|name| !name.is_empty()).map(str::to_owned)
}
