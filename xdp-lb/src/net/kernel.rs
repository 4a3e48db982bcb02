//! Requests to the kernel over netlink, and its answers, as types of this module.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;
use std::{future, io};

use anyhow::{Context as _, anyhow};
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, pin_mut};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, CacheInfo};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoPortKind, InfoVeth, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType,
    LinkMessage, LinkXdp, VlanProtocol, XdpAttached,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState as Nud,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteScope, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, MulticastGroup, RouteMessageBuilder};
use tokio::task::JoinSet;
use tokio::time::timeout;
use xdp_lb_common::net::MacAddress;

use super::router::HostAddress;

/// The kernel answers within microseconds. Only a lost answer takes this long.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The socket's receive buffer, in bytes. The default (212,992) overflows when a few hundred neighbours change at once.
const CHANGES_BUFFER: usize = 4 << 20;

/// A network interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    /// `None`: not an Ethernet device.
    pub(super) mac: Option<MacAddress>,
    /// Whether it is administratively up.
    pub(super) up: bool,
    pub(super) carrier: bool,
    /// The MTU, in bytes of IP.
    pub(super) mtu: u32,
    /// The lower interface (of a VLAN, macvlan, macvtap, ipvlan) in this network namespace.
    pub(super) lower: Option<u32>,
    /// The bridge, bond, team or similar device of which it is a port.
    pub(super) master: Option<u32>,
    pub(super) vlan: Option<Vlan>,
    /// The index of the bond, team or bridge of which it is a port.
    pub(super) port_of: Option<u32>,
}

/// The properties of a VLAN device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Vlan {
    /// 1 to 4094.
    pub(super) id: u16,
    /// Whether it uses IEEE 802.1Q tags, not those of 802.1ad (provider bridges).
    pub(super) customer_tag: bool,
}

/// A neighbour: an address on the link of an interface.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct HopId {
    /// The interface's index.
    pub(super) ifindex: u32,
    pub(super) address: IpAddr,
}

/// What the kernel knows about a neighbour (RFC 4861 section 7.3.2, used for ARP too).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Neighbour {
    /// Its Ethernet address is known.
    Resolved { mac: MacAddress, standing: Standing },
    /// It was solicited and has not answered yet.
    Incomplete,
    /// It did not answer.
    Failed,
}

/// How recently the kernel confirmed an Ethernet address that it knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// It was confirmed, or the operator set it.
    Confirmed,
    /// It was not confirmed recently.
    Stale,
    /// The kernel solicits it and has no answer yet.
    Probed,
}

/// Where the kernel would send a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Route {
    pub(super) ifindex: u32,
    /// The gateway, or the address itself if it is on-link.
    pub(super) hop: IpAddr,
    /// `None`: the interface has no address of the family.
    pub(super) source: Option<IpAddr>,
    /// The MTU in bytes of IP, if the route has one of its own.
    pub(super) mtu: Option<u32>,
    /// The length of the route's prefix, if the address is on-link.
    pub(super) on_link_bits: Option<u8>,
}

/// A change that the kernel reported.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Change {
    Link(Link),
    /// The interface with this index is gone.
    LinkGone(u32),
    /// `None`: forgotten.
    Neighbour(HopId, Option<Neighbour>),
    /// A route to this prefix was added, removed or changed.
    Route(IpAddr, u8),
    /// The addresses of the interface with this index changed.
    Addresses(u32),
    /// The policy routing rules changed.
    Rules,
    /// Changes were lost.
    Overrun,
}

/// A connection for requests. Answers come on a separate socket, so a burst of changes cannot overrun them.
#[derive(Clone)]
pub(super) struct Kernel {
    handle: Handle,
}

/// One end of a veth pair.
pub(super) struct VethEnd {
    pub(super) name: String,
    pub(super) mac: MacAddress,
    /// The MTU, in bytes of IP.
    pub(super) mtu: u32,
}

impl VethEnd {
    fn of<T>(&self, builder: LinkMessageBuilder<T>) -> LinkMessageBuilder<T> {
        let mac = self.mac.octets().to_vec();
        builder.name(&self.name).address(mac).mtu(self.mtu).arp(false)
    }
}

/// A connection for changes, and the changes received on it. It ends when the connection breaks.
pub(super) struct Changes {
    stream: Box<dyn Stream<Item = Change> + Unpin + Send>,
    /// Ends the connection with this.
    _connection: JoinSet<()>,
}

impl Changes {
    /// Subscribes to the changes of these groups in the calling thread's network namespace.
    pub(super) fn of(groups: &[MulticastGroup]) -> anyhow::Result<Self> {
        let (mut connection, _, messages) = rtnetlink::new_multicast_connection(groups)
            .context("cannot open a netlink socket for network changes")?;
        let socket = connection.socket_mut();
        if let Err(error) =
            setsockopt(rtnetlink::sys::AsyncSocket::socket_ref(socket), RcvBufForce, &CHANGES_BUFFER)
        {
            tracing::debug!(%error, "cannot enlarge the netlink socket's buffer");
        }
        let mut tasks = JoinSet::new();
        tasks.spawn(connection);
        let stream = messages.filter_map(|(message, _)| future::ready(change(message)));
        Ok(Self { stream: Box::new(stream), _connection: tasks })
    }

    /// The next change.
    pub(super) async fn next(&mut self) -> Option<Change> {
        self.stream.next().await
    }
}

/// Opens a connection for requests in the calling thread's network namespace. It ends with the `JoinSet`.
pub(super) fn connect() -> anyhow::Result<(Kernel, JoinSet<()>)> {
    let mut tasks = JoinSet::new();
    let (connection, handle, _) = rtnetlink::new_connection().context("cannot open a netlink socket")?;
    tasks.spawn(connection);
    Ok((Kernel { handle }, tasks))
}

impl Kernel {
    /// All interfaces.
    pub(super) async fn links(&self) -> anyhow::Result<Vec<Link>> {
        let all = self.handle.link().get().execute();
        let all: Vec<LinkMessage> = answer(all.try_collect()).await.context("cannot list the interfaces")?;
        Ok(all.into_iter().filter_map(link).collect())
    }

    /// The indices of the interfaces that have an XDP program.
    pub(super) async fn links_with_xdp(&self) -> anyhow::Result<BTreeSet<u32>> {
        let all = self.handle.link().get().execute();
        let all: Vec<LinkMessage> = answer(all.try_collect()).await.context("cannot list the interfaces")?;
        let is_attached = |xdp: &LinkXdp| matches!(xdp, LinkXdp::Attached(how) if *how != XdpAttached::None);
        let has_xdp = |attribute: &LinkAttribute| match attribute {
            LinkAttribute::Xdp(xdp) => xdp.iter().any(is_attached),
            _ => false,
        };
        let with_xdp = all.into_iter().filter(|message| message.attributes.iter().any(has_xdp));
        Ok(with_xdp.map(|message| message.header.index).collect())
    }

    /// All neighbours.
    pub(super) async fn neighbours(&self) -> anyhow::Result<Vec<(HopId, Neighbour)>> {
        let all = self.handle.neighbours().get().execute();
        let all: Vec<NeighbourMessage> =
            answer(all.try_collect()).await.context("cannot list the neighbours")?;
        Ok(all.iter().filter_map(neighbour).filter_map(|(id, known)| Some((id, known?))).collect())
    }

    /// The addresses of this host, with their prefixes.
    pub(super) async fn host_addresses(&self) -> anyhow::Result<Vec<HostAddress>> {
        let all = self.handle.address().get().execute();
        let all: Vec<AddressMessage> =
            answer(all.try_collect()).await.context("cannot list the addresses")?;
        Ok(all.iter().filter_map(host_address).collect())
    }

    /// The addresses of this host, each with the index of its interface.
    pub(super) async fn addresses(&self) -> anyhow::Result<Vec<(u32, IpAddr)>> {
        let all = self.handle.address().get().execute();
        let all: Vec<AddressMessage> =
            answer(all.try_collect()).await.context("cannot list the addresses")?;
        Ok(all.iter().filter_map(address).collect())
    }

    /// Adds a host address (/32 or /128) to an interface. It is not an error if it is already there.
    pub(super) async fn add_address(&self, ifindex: u32, address: IpAddr) -> anyhow::Result<()> {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let mut order = self.handle.address().add(ifindex, address, bits);
        if address.is_ipv6() {
            let message = order.message_mut();
            // No duplicate address detection: it is announced instead. Deprecated, so the host's own connections do not use it.
            message.header.flags |= AddressHeaderFlags::Nodad;
            let mut lifetime = CacheInfo::default();
            (lifetime.ifa_preferred, lifetime.ifa_valid) = (0, u32::MAX);
            message.attributes.push(AddressAttribute::CacheInfo(lifetime));
        }
        done(order.execute(), libc::EEXIST).await
    }

    /// Makes a veth pair: this end in this namespace, up, and the other end in the namespace of this descriptor, down. Both ends
    /// have neither ARP nor neighbour discovery.
    pub(super) async fn add_veth(
        &self,
        this: &VethEnd,
        other: &VethEnd,
        home: OwnedFd,
    ) -> anyhow::Result<()> {
        let other = other.of(LinkMessageBuilder::<LinkUnspec>::new()).setns_by_fd(home.as_raw_fd()).build();
        let pair = this.of(LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)).up();
        let pair = pair.set_info_data(InfoData::Veth(InfoVeth::Peer(other))).build();
        let order = self.handle.link().add(pair).execute();
        done(order, 0).await
    }

    /// Removes an interface, and with an end of a veth pair the other end.
    pub(super) async fn remove_link(&self, ifindex: u32) -> anyhow::Result<()> {
        done(self.handle.link().del(ifindex).execute(), libc::ENODEV).await
    }

    /// Brings an interface up.
    pub(super) async fn bring_up(&self, ifindex: u32) -> anyhow::Result<()> {
        let up = LinkMessageBuilder::<LinkUnspec>::new().index(ifindex).up().build();
        done(self.handle.link().set(up).execute(), 0).await
    }

    /// Adds a default route through an interface, with an MTU in bytes of IP.
    pub(super) async fn add_default_routes(&self, ifindex: u32, mtu: u32) -> anyhow::Result<()> {
        let v4 = RouteMessageBuilder::<Ipv4Addr>::new().output_interface(ifindex).scope(RouteScope::Link);
        let v6 = RouteMessageBuilder::<Ipv6Addr>::new().output_interface(ifindex);
        for mut route in [v4.build(), v6.build()] {
            route.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
            done(self.handle.route().add(route).execute(), libc::EEXIST).await?;
        }
        Ok(())
    }

    /// Removes an address from an interface. It is not an error if it is already gone.
    pub(super) async fn remove_address(&self, ifindex: u32, address: IpAddr) -> anyhow::Result<()> {
        let mut message = AddressMessage::default();
        message.header.index = ifindex;
        (message.header.family, message.header.prefix_len) = match address {
            IpAddr::V4(_) => (AddressFamily::Inet, 32),
            IpAddr::V6(_) => (AddressFamily::Inet6, 128),
        };
        message.attributes.push(AddressAttribute::Local(address));
        done(self.handle.address().del(message).execute(), libc::EADDRNOTAVAIL).await
    }

    /// Where the kernel would send a packet to `address`, or why it would not, in words.
    pub(super) async fn route(&self, address: IpAddr) -> Result<Route, String> {
        let answers = self.handle.route().get(route_query(address)).execute();
        pin_mut!(answers);
        match timeout(ANSWER_TIMEOUT, answers.next()).await {
            Ok(Some(Ok(message))) => {
                let route = route(address, &message)?;
                let is_on_link = route.hop == address;
                Ok(Route {
                    on_link_bits: if is_on_link { self.route_bits(address).await } else { None },
                    ..route
                })
            }
            Ok(Some(Err(rtnetlink::Error::NetlinkError(error)))) => {
                Err(no_route(address, error.raw_code().saturating_abs()))
            }
            Ok(Some(Err(error))) => Err(format!("cannot read the route to {address}: {error}")),
            Ok(None) | Err(_) => Err(format!("the kernel did not answer the route lookup for {address}")),
        }
    }

    /// The length of the prefix of the route to this address. `None` if the route is already gone: the kernel reports that, too.
    async fn route_bits(&self, address: IpAddr) -> Option<u8> {
        let mut query = route_query(address);
        query.header.flags |= RouteFlags::FibMatch;
        let answers = self.handle.route().get(query).execute();
        pin_mut!(answers);
        let message = timeout(ANSWER_TIMEOUT, answers.next()).await.ok()??.ok()?;
        Some(message.header.destination_prefix_length)
    }

    /// Makes the kernel resolve a neighbour, or confirm it if it is stale. Succeeds once the kernel has accepted the request.
    pub(super) async fn solicit(&self, hop: HopId) -> Result<(), String> {
        // NTF_USE: as if a packet had been sent to it (neigh_add in net/core/neighbour.c).
        let order = self.handle.neighbours().add(hop.ifindex, hop.address);
        let order = order.state(Nud::None).flags(NeighbourFlags::Use).replace().execute();
        match timeout(ANSWER_TIMEOUT, order).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(rtnetlink::Error::NetlinkError(error))) => Err(match error.raw_code().saturating_abs() {
                libc::ENOBUFS => format!(
                    "the kernel's neighbour table is full (raise net.{}.neigh.default.gc_thresh3)",
                    if hop.address.is_ipv4() { "ipv4" } else { "ipv6" },
                ),
                code => io::Error::from_raw_os_error(code).to_string(),
            }),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the kernel did not answer".into()),
        }
    }
}

fn route_query(address: IpAddr) -> RouteMessage {
    match address {
        IpAddr::V4(v4) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(v4, 32).build(),
        IpAddr::V6(v6) => RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(v6, 128).build(),
    }
}

async fn answer<T>(request: impl Future<Output = Result<T, rtnetlink::Error>>) -> anyhow::Result<T> {
    match timeout(ANSWER_TIMEOUT, request).await {
        Ok(Ok(all)) => Ok(all),
        Ok(Err(error)) => Err(anyhow!("{error}")),
        Err(_) => Err(anyhow!("the kernel did not answer within {ANSWER_TIMEOUT:?}")),
    }
}

/// Waits for a request to complete. This error code means that it was already done.
async fn done(order: impl Future<Output = Result<(), rtnetlink::Error>>, already: i32) -> anyhow::Result<()> {
    match timeout(ANSWER_TIMEOUT, order).await {
        Ok(Err(rtnetlink::Error::NetlinkError(error))) => match error.raw_code().saturating_abs() {
            code if code == already => Ok(()),
            code => Err(io::Error::from_raw_os_error(code).into()),
        },
        Ok(Err(error)) => Err(anyhow!("{error}")),
        Ok(Ok(())) => Ok(()),
        Err(_) => Err(anyhow!("the kernel did not answer within {ANSWER_TIMEOUT:?}")),
    }
}

fn host_address(message: &AddressMessage) -> Option<HostAddress> {
    let (ifindex, address) = address(message)?;
    Some(HostAddress { ifindex, address, prefix: message.header.prefix_len })
}

fn address(message: &AddressMessage) -> Option<(u32, IpAddr)> {
    let find = |is_local| {
        message.attributes.iter().find_map(move |attribute| match attribute {
            AddressAttribute::Local(address) if is_local => Some(*address),
            AddressAttribute::Address(address) if !is_local => Some(*address),
            _ => None,
        })
    };
    // On a point-to-point link, the other address is the peer's.
    Some((message.header.index, find(true).or_else(|| find(false))?))
}

fn change(message: NetlinkMessage<RouteNetlinkMessage>) -> Option<Change> {
    let message = match message.payload {
        NetlinkPayload::InnerMessage(message) => message,
        NetlinkPayload::Overrun(_) => return Some(Change::Overrun),
        _ => return None,
    };
    match message {
        RouteNetlinkMessage::NewLink(message) => link(message).map(Change::Link),
        // A port that leaves its bridge is reported as a deleted link, too.
        RouteNetlinkMessage::DelLink(message) if message.header.interface_family == AddressFamily::Unspec => {
            Some(Change::LinkGone(message.header.index))
        }
        RouteNetlinkMessage::NewNeighbour(message) => {
            neighbour(&message).map(|(id, known)| Change::Neighbour(id, known))
        }
        RouteNetlinkMessage::DelNeighbour(message) => {
            neighbour(&message).map(|(id, _)| Change::Neighbour(id, None))
        }
        RouteNetlinkMessage::NewRoute(message) | RouteNetlinkMessage::DelRoute(message) => {
            let destination = message.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Destination(address) => ip(address),
                _ => None,
            });
            let any = match message.header.address_family {
                AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
                _ => return None,
            };
            Some(Change::Route(destination.unwrap_or(any), message.header.destination_prefix_length))
        }
        RouteNetlinkMessage::NewAddress(message) | RouteNetlinkMessage::DelAddress(message) => {
            Some(Change::Addresses(message.header.index))
        }
        RouteNetlinkMessage::NewRule(_) | RouteNetlinkMessage::DelRule(_) => Some(Change::Rules),
        _ => None,
    }
}

fn link(message: LinkMessage) -> Option<Link> {
    // Messages of other families are about the link's bridge port or its IPv6 settings.
    if message.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: None,
        up: message.header.flags.contains(LinkFlags::Up),
        carrier: message.header.flags.contains(LinkFlags::LowerUp),
        mtu: 0,
        lower: None,
        master: None,
        vlan: None,
        port_of: None,
    };
    let ethernet = message.header.link_layer_type == LinkLayerType::Ether;
    let mut lower_is_elsewhere = false;
    let mut stands_on_another = false;
    let mut is_port = false;
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(bytes) if ethernet => link.mac = mac(&bytes),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Link(index) => link.lower = Some(index),
            LinkAttribute::LinkNetNsId(_) => lower_is_elsewhere = true,
            LinkAttribute::Controller(index) => link.master = Some(index),
            LinkAttribute::LinkInfo(infos) => {
                link.vlan = vlan(&infos);
                stands_on_another = infos.iter().any(stands_on_another_interface);
                // Packets routed through a VRF's port leave by that port itself.
                is_port = infos
                    .iter()
                    .any(|info| matches!(info, LinkInfo::PortKind(kind) if *kind != InfoPortKind::Vrf));
            }
            _ => {}
        }
    }
    // For a veth this is its peer, for a tunnel the interface of its outer packets.
    link.lower = link.lower.filter(|_| stands_on_another && !lower_is_elsewhere);
    link.master = link.master.filter(|index| *index != 0);
    link.port_of = link.master.filter(|_| is_port);
    Some(link)
}

fn stands_on_another_interface(info: &LinkInfo) -> bool {
    let LinkInfo::Kind(kind) = info else { return false };
    matches!(kind, InfoKind::Vlan | InfoKind::MacVlan | InfoKind::MacVtap | InfoKind::IpVlan)
}

fn vlan(infos: &[LinkInfo]) -> Option<Vlan> {
    if !infos.contains(&LinkInfo::Kind(InfoKind::Vlan)) {
        return None;
    }
    let data = infos.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vlan(data)) => Some(data),
        _ => None,
    })?;
    let id = data.iter().find_map(|info| match info {
        InfoVlan::Id(id) => Some(*id),
        _ => None,
    })?;
    let customer_tag = !data
        .iter()
        .any(|info| matches!(info, InfoVlan::Protocol(protocol) if *protocol != VlanProtocol::Ieee8021Q));
    Some(Vlan { id, customer_tag })
}

fn neighbour(message: &NeighbourMessage) -> Option<(HopId, Option<Neighbour>)> {
    let header = &message.header;
    let ours = matches!(header.family, AddressFamily::Inet | AddressFamily::Inet6)
        && !header.flags.contains(NeighbourFlags::Proxy);
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        _ => None,
    })?;
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => mac(bytes),
        _ => None,
    });
    let resolved = |standing| mac.map(|mac| Neighbour::Resolved { mac, standing });
    let known = match header.state {
        Nud::Reachable | Nud::Delay | Nud::Permanent | Nud::Noarp => resolved(Standing::Confirmed),
        Nud::Stale => resolved(Standing::Stale),
        Nud::Probe => resolved(Standing::Probed),
        Nud::Failed => Some(Neighbour::Failed),
        Nud::Incomplete => Some(Neighbour::Incomplete),
        _ => None,
    };
    ours.then_some((HopId { ifindex: header.ifindex, address }, known))
}

fn route(address: IpAddr, message: &RouteMessage) -> Result<Route, String> {
    match message.header.kind {
        RouteType::Unicast => {}
        RouteType::Local => {
            return Err(format!(
                "{address} is an address of this host: XDP cannot reach a backend on the load balancer itself"
            ));
        }
        RouteType::Broadcast | RouteType::Multicast | RouteType::Anycast => {
            return Err(format!("{address} is not a unicast address"));
        }
        RouteType::BlackHole => return Err(no_route(address, libc::EINVAL)),
        RouteType::Unreachable => return Err(no_route(address, libc::EHOSTUNREACH)),
        RouteType::Prohibit => return Err(no_route(address, libc::EACCES)),
        _ => return Err(no_route(address, libc::ENETUNREACH)),
    }
    let mut ifindex = None;
    let mut hop = address;
    let mut source = None;
    let mut mtu = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            RouteAttribute::Gateway(gateway) => hop = ip(gateway).unwrap_or(hop),
            // An IPv4 route through an IPv6 gateway (RFC 8950).
            RouteAttribute::Via(RouteVia::Inet(v4)) => hop = IpAddr::V4(*v4),
            RouteAttribute::Via(RouteVia::Inet6(v6)) => hop = IpAddr::V6(*v6),
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(bytes) if *bytes > 0 => Some(*bytes),
                    _ => None,
                });
            }
            RouteAttribute::EncapType(_) => {
                return Err(format!(
                    "the route to {address} uses encapsulation, which the XDP program does not support"
                ));
            }
            _ => {}
        }
    }
    match ifindex {
        Some(ifindex) => Ok(Route { ifindex, hop, source, mtu, on_link_bits: None }),
        None => Err(no_route(address, libc::ENETUNREACH)),
    }
}

/// The error codes of fib_props (net/ipv4/fib_semantics.c) and of ip6_null_entry, in words.
fn no_route(address: IpAddr, code: i32) -> String {
    match code {
        libc::ENETUNREACH => format!("no route to {address}"),
        libc::EHOSTUNREACH => format!("the route to {address} is an unreachable route"),
        libc::EACCES => format!("the route to {address} is a prohibit route"),
        libc::EINVAL => format!("the route to {address} is a blackhole route"),
        code => format!("no route to {address}: {}", io::Error::from_raw_os_error(code)),
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

fn mac(bytes: &[u8]) -> Option<MacAddress> {
    bytes.try_into().ok().map(MacAddress::new)
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::LinkHeader;

    use super::*;

    fn vlan_device(extra: Vec<LinkAttribute>, protocol: VlanProtocol) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = 7;
        message.header.link_layer_type = LinkLayerType::Ether;
        message.header.flags = LinkFlags::Up | LinkFlags::LowerUp;
        message.attributes = vec![
            LinkAttribute::IfName("eth1.100".into()),
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, 7]),
            LinkAttribute::Mtu(1496),
            LinkAttribute::Link(3),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Vlan),
                LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(100), InfoVlan::Protocol(protocol)])),
            ]),
        ];
        message.attributes.extend(extra);
        message
    }

    #[test]
    fn a_vlan_device_is_read_with_its_parent_and_id() {
        let expected = Link {
            index: 7,
            name: "eth1.100".into(),
            mac: Some(MacAddress::new([2, 0, 0, 0, 0, 7])),
            up: true,
            carrier: true,
            mtu: 1496,
            lower: Some(3),
            master: None,
            vlan: Some(Vlan { id: 100, customer_tag: true }),
            port_of: None,
        };
        assert_eq!(link(vlan_device(vec![], VlanProtocol::Ieee8021Q)), Some(expected));
    }

    #[test]
    fn a_port_of_a_bond_or_bridge_is_read_with_what_it_belongs_to_and_one_of_a_vrf_is_none() {
        let port_of = |kind| {
            let mut message = LinkMessage::default();
            message.attributes =
                vec![LinkAttribute::LinkInfo(vec![LinkInfo::PortKind(kind)]), LinkAttribute::Controller(9)];
            link(message).expect("a link").port_of
        };
        assert_eq!(port_of(InfoPortKind::Bond), Some(9));
        assert_eq!(port_of(InfoPortKind::Bridge), Some(9));
        assert_eq!(port_of(InfoPortKind::Other("team".into())), Some(9));
        assert_eq!(port_of(InfoPortKind::Vrf), None);
    }

    #[test]
    fn a_vlan_device_whose_parent_is_in_another_namespace_has_no_parent() {
        let read = link(vlan_device(vec![LinkAttribute::LinkNetNsId(0)], VlanProtocol::Ieee8021Q));
        assert_eq!(read.map(|link| link.lower), Some(None));
    }

    #[test]
    fn a_veth_does_not_stand_on_its_peer() {
        let mut message = vlan_device(vec![], VlanProtocol::Ieee8021Q);
        message.attributes.pop();
        message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth)]));
        message.attributes.push(LinkAttribute::Controller(9));
        let read = link(message);
        assert_eq!(read.map(|link| (link.lower, link.master)), Some((None, Some(9))));
    }

    #[test]
    fn a_provider_tag_is_told_from_a_customer_tag() {
        let read = link(vlan_device(vec![], VlanProtocol::Ieee8021Ad));
        assert_eq!(read.and_then(|link| link.vlan).map(|vlan| vlan.customer_tag), Some(false));
    }

    #[test]
    fn a_port_that_leaves_its_bridge_is_not_a_link_that_is_gone() {
        let gone = |family| {
            let mut message = LinkMessage::default();
            message.header = LinkHeader { interface_family: family, index: 7, ..LinkHeader::default() };
            change(NetlinkMessage::from(RouteNetlinkMessage::DelLink(message)))
        };
        assert_eq!(gone(AddressFamily::Bridge), None);
        assert_eq!(gone(AddressFamily::Unspec), Some(Change::LinkGone(7)));
    }
}
