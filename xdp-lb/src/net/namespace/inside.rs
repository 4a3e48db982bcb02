//! Inside the namespace: serves the requests.

use std::collections::HashSet;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result, bail};
use nix::net::if_::if_nametoindex;
use socket2::{Domain, Socket, Type};
use tokio::task::JoinSet;
use xdp_lb_common::tables::{CHECKS_HOST_MAC, CHECKS_MAC};

use super::order::{Answer, Order, receive, send};
use crate::logging;
use crate::net::ethtool;
use crate::net::kernel::{Kernel, VethEnd, connect};

/// linux/ethtool.h.
const ETHTOOL_STXCSUM: u32 = 0x17;
const ETHTOOL_SGRO: u32 = 0x2c;

/// The route's MTU, in bytes of IP. IPv6 takes packets of this size on any path (RFC 8200 section 5), and others have room for a
/// tunnel.
const LARGEST_SENT: u32 = 1280;

/// The interface's MTU: the maximum of a veth.
const LARGEST_RECEIVED: u32 = 65_535;

/// The index of `lo`, in every namespace.
const LOOPBACK: u32 = 1;

/// The inner end of the veth pair.
const INNER: &str = "checks";

/// The command that serves standard input ([`super::serve_on_stdin`]).
pub(super) const COMMAND: &str = "serve-checks";

/// Serves the requests from this socket in the calling thread's namespace, until the other end closes.
///
/// # Errors
/// If the socket cannot be used.
pub(super) fn serve(socket: &OwnedFd) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut inside = None;
    while let Some((order, descriptor)) = receive(socket)? {
        let made = runtime.block_on(follow(&mut inside, order, descriptor));
        let (answer, made): (Answer, _) = match made {
            Ok(made) => (Ok(()), made),
            Err(error) => (Err(format!("{error:#}")), None),
        };
        send(socket, &answer, made.as_ref().map(|made| made.as_fd()))?;
    }
    Ok(())
}

/// The descriptor that is sent back, if any.
async fn follow(
    inside: &mut Option<Inside>,
    order: Order,
    descriptor: Option<OwnedFd>,
) -> Result<Option<OwnedFd>> {
    let descriptor = || descriptor.context("a request came without its descriptor");
    match order {
        Order::Build(build) if build == super::build() => Ok(None),
        Order::Build(build) => {
            bail!("the namespace belongs to {}, not to {build}", super::build())
        }
        Order::Open { name } => {
            let opened = Inside::open(descriptor()?, name).await;
            *inside = Some(opened.context("cannot create the veth pair for health checks")?);
            Ok(None)
        }
        Order::Socket { is_stream, source } => {
            let inside = inside.as_mut().context("the veth pair for health checks is missing")?;
            let kind = if is_stream { Type::STREAM } else { Type::DGRAM };
            Ok(Some(inside.socket(kind, source).await?.into()))
        }
        Order::Heir { program } => start_heir(&program, descriptor()?).map(|()| None),
    }
}

/// Starts this program here, to serve this socket.
fn start_heir(program: &Path, socket: OwnedFd) -> Result<()> {
    let mut heir = Command::new(program);
    logging::hand_on(&mut heir);
    let mut heir = heir.arg(COMMAND).stdin(socket).spawn()?;
    // It ends with its daemon. Without a wait it would stay as a zombie.
    let awaits = thread::Builder::new().name("heir".into()).spawn(move || heir.wait().map(drop));
    awaits.map(drop).context("cannot start a thread")
}

/// The state of the namespace.
struct Inside {
    kernel: Kernel,
    /// The inner end's index.
    ifindex: u32,
    addresses: HashSet<IpAddr>,
    /// Ends the connection for requests with this.
    _connection: JoinSet<()>,
}

impl Inside {
    async fn open(home: OwnedFd, name: String) -> Result<Self> {
        let (kernel, connection) = connect()?;
        let outer = VethEnd { name, mac: CHECKS_HOST_MAC, mtu: LARGEST_RECEIVED };
        let inner = VethEnd { name: INNER.into(), mac: CHECKS_MAC, mtu: LARGEST_RECEIVED };
        kernel.bring_up(LOOPBACK).await?;
        if let Ok(former) = if_nametoindex(INNER) {
            kernel.remove_link(former).await.context("cannot remove the existing one")?;
        }
        kernel.add_veth(&inner, &outer, home).await?;
        let ifindex = if_nametoindex(INNER)?;
        // XDP forwards a packet as it is: a checksum that the stack leaves to the driver would never be filled in.
        ethtool::set(INNER, ETHTOOL_STXCSUM, 0).context("cannot turn off its checksum offload")?;
        // Without it, the pair takes no frames from a native program (veth_xdp_xmit in drivers/net/veth.c; 5.13).
        ethtool::set(INNER, ETHTOOL_SGRO, 1).context("cannot turn on its GRO")?;
        kernel.add_default_routes(ifindex, LARGEST_SENT).await?;
        Ok(Self { kernel, ifindex, addresses: HashSet::new(), _connection: connection })
    }

    async fn socket(&mut self, kind: Type, source: IpAddr) -> Result<Socket> {
        if !self.addresses.contains(&source) {
            let added = self.kernel.add_address(self.ifindex, source).await;
            added.with_context(|| format!("cannot add {source} to the health checks' network namespace"))?;
            self.addresses.insert(source);
        }
        let domain = if source.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        Ok(Socket::new(domain, kind.nonblocking().cloexec(), None)?)
    }
}
