//! A network namespace of the daemon's own, in which no VIP is anybody's address: from there a connection to a VIP leaves
//! like a client's, also where the VIP is an address of this host, and what comes back in the VIP's name is no martian.
//!
//! A thread makes it, stays in it and makes the sockets that are asked for: to enter it later would take `CAP_SYS_ADMIN`
//! for good. It has no name, and ends with the thread, as the veth pair does that leads out of it.

use std::collections::HashSet;
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::process;
use std::thread;

use anyhow::{Context as _, Result};
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, unshare};
use socket2::{Domain, Socket, Type};
use tokio::sync::{OnceCell, mpsc, oneshot};
use tokio::task::JoinSet;
use xdp_lb_common::tables::{CHECKS_HOST_MAC, CHECKS_MAC};

use super::ethtool;
use super::kernel::{Kernel, VethEnd, connect};

/// linux/ethtool.h.
const ETHTOOL_STXCSUM: u32 = 0x17;
const ETHTOOL_SGRO: u32 = 0x2c;

/// What leaves is this large at the most: IPv6 takes it everywhere (RFC 8200 section 5), and there is room for a tunnel on
/// any other path. Bytes of IP.
const LARGEST_SENT: u32 = 1280;

/// What comes may be this large: as large as a veth takes.
const LARGEST_RECEIVED: u32 = 65_535;

/// `lo`, in every namespace.
const LOOPBACK: u32 = 1;

/// The inner end of the veth pair.
const INNER: &str = "checks";

/// The namespace. It ends when this is dropped.
#[derive(Debug)]
pub struct Namespace {
    orders: mpsc::UnboundedSender<Order>,
    door: OnceCell<u32>,
}

#[derive(Debug)]
enum Order {
    /// Make the veth pair: its outer end of this name in the namespace of this descriptor.
    Open(OwnedFd, String, oneshot::Sender<Result<()>>),
    /// Make a socket of this kind that can be bound to this address.
    Socket(Type, IpAddr, oneshot::Sender<Result<Socket>>),
}

impl Namespace {
    /// Makes it, with nothing in it. `confine`: what the thread is to do once it needs `CAP_SYS_ADMIN` no more.
    ///
    /// # Errors
    /// Without `CAP_SYS_ADMIN`, or where `confine` fails.
    pub fn start(confine: impl FnOnce() -> Result<()> + Send + 'static) -> Result<Self> {
        let (orders, received) = mpsc::unbounded_channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let run = move || {
            let entered = unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace");
            let is_in = entered.is_ok();
            let _ = ready.send(entered.and_then(|()| confine()));
            if is_in {
                serve(received);
            }
        };
        thread::Builder::new().name("checks".into()).spawn(run).context("cannot start a thread")?;
        is_ready.recv().context("the thread of the network namespace has ended")??;
        Ok(Self { orders, door: OnceCell::new() })
    }

    /// The index of the outer end of the veth pair that leads into it. The first call makes the pair, in the calling
    /// thread's namespace.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub async fn door(&self) -> Result<u32> {
        self.door.get_or_try_init(|| self.open()).await.copied()
    }

    async fn open(&self) -> Result<u32> {
        let name = format!("xdp-lb-{}", process::id());
        let home = File::open("/proc/thread-self/ns/net").context("cannot open the network namespace")?;
        let (answer, answered) = oneshot::channel();
        let _ = self.orders.send(Order::Open(home.into(), name.clone(), answer));
        answered.await.context("the namespace's thread has ended")??;
        let ifindex = if_nametoindex(name.as_str()).with_context(|| format!("cannot find {name}"))?;
        let (kernel, _connection) = connect()?;
        kernel.bring_up(ifindex).await.with_context(|| format!("cannot bring {name} up"))?;
        Ok(ifindex)
    }

    /// A socket in it, that does not block and can be bound to this address.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub async fn socket(&self, kind: Type, source: IpAddr) -> Result<Socket> {
        let (answer, answered) = oneshot::channel();
        let _ = self.orders.send(Order::Socket(kind, source, answer));
        answered.await.context("the namespace's thread has ended")?
    }
}

fn serve(orders: mpsc::UnboundedReceiver<Order>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(follow(orders)),
        Err(error) => tracing::error!("the namespace of health checks cannot be used: {error}"),
    }
}

async fn follow(mut orders: mpsc::UnboundedReceiver<Order>) {
    let mut inside = None;
    while let Some(order) = orders.recv().await {
        // Whoever asked may have gone, which is their affair.
        match order {
            Order::Open(home, name, answer) => {
                let opened = Inside::open(home, name).await.map(|opened| inside = Some(opened));
                let _ = answer.send(opened.context("cannot make the veth pair of health checks"));
            }
            Order::Socket(kind, source, answer) => {
                let _ = answer.send(match &mut inside {
                    Some(inside) => inside.socket(kind, source).await,
                    None => Err(anyhow::anyhow!("the veth pair of health checks is not there")),
                });
            }
        }
    }
}

/// What the thread knows of its namespace.
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
        kernel.add_veth(&inner, &outer, home).await?;
        let ifindex = if_nametoindex(INNER)?;
        // XDP sends a packet on as it is: nobody would fill in a checksum that the stack has left to the driver.
        ethtool::set(INNER, ETHTOOL_STXCSUM, 0).context("cannot turn its checksum offload off")?;
        // Without it the pair takes nothing from a native program (veth_xdp_xmit in drivers/net/veth.c; 5.13).
        ethtool::set(INNER, ETHTOOL_SGRO, 1).context("cannot turn its GRO on")?;
        kernel.add_default_routes(ifindex, LARGEST_SENT).await?;
        Ok(Self { kernel, ifindex, addresses: HashSet::new(), _connection: connection })
    }

    async fn socket(&mut self, kind: Type, source: IpAddr) -> Result<Socket> {
        if !self.addresses.contains(&source) {
            let added = self.kernel.add_address(self.ifindex, source).await;
            added.with_context(|| format!("cannot add {source} to the namespace of health checks"))?;
            self.addresses.insert(source);
        }
        let domain = if source.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        Ok(Socket::new(domain, kind.nonblocking().cloexec(), None)?)
    }
}
