//! The resolver's state: what is known, what is watched, and the next hops that follow. Pure; the resolver's task drives it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use xdp_lb_common::net::MacAddress;
use xdp_lb_common::tables::RouterInterface;

use super::kernel::{Change, HopId, Link, Neighbour, Route, Standing};
use super::router::{self, HostAddress};
use super::{Event, InterfaceMacs, NextHop, NoNextHop, OwnMacs, RouterAddressesOf};

/// The kernel solicits a neighbour three times, one second apart (`mcast_solicit`, `retrans_time_ms`). One that has not answered
/// for longer than that is unreachable.
const PATIENCE: Duration = Duration::from_secs(4);

/// A neighbour that does not answer is solicited again after this time, which doubles with each attempt...
const FIRST_RETRY: Duration = Duration::from_millis(500);

/// ... up to this.
const LAST_RETRY: Duration = Duration::from_secs(8);

/// The delay before a stale neighbour is confirmed, spread out because a thousand neighbours may become stale at once.
const STALE_FOR: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(3));

/// The delay before a neighbour whose entry is gone is solicited again: its table may be full, and another entry would be
/// evicted.
const LOST_FOR: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(150));

/// The index of the loopback interface in every network namespace (`LOOPBACK_IFINDEX`, include/net/flow.h).
const LOOPBACK: u32 = 1;

#[derive(Default)]
pub(super) struct State {
    links: BTreeMap<u32, Link>,
    neighbours: BTreeMap<HopId, Neighbour>,
    watched: BTreeMap<IpAddr, Watched>,
    /// The next hops of watched addresses.
    hops: BTreeMap<HopId, Hop>,
    /// When to solicit which hop.
    timetable: BTreeSet<(Instant, HopId)>,
    /// Watched addresses whose route must be looked up.
    lookups: BTreeSet<IpAddr>,
    /// Watched addresses whose next hop may differ from the last event.
    unsaid: BTreeSet<IpAddr>,
    /// Names of interfaces that may differ from the last event.
    unsaid_interfaces: BTreeSet<String>,
    /// Whether the VLAN devices may differ from the last event.
    unsaid_vlans: bool,
    /// Whether the MACs of interfaces may differ from the last event.
    unsaid_macs: bool,
    said_interfaces: BTreeMap<String, (u32, bool)>,
    said_vlans: Option<BTreeMap<u32, (u32, u16)>>,
    said_macs: Option<OwnMacs>,
    /// This host's addresses as last read, and whether they may have changed since.
    addresses: Vec<HostAddress>,
    addresses_are_old: bool,
    /// Whether they may differ from the last event.
    unsaid_addresses: bool,
    said_addresses: Option<BTreeSet<IpAddr>>,
    /// Whether the router's source addresses may have changed.
    unsaid_router_addresses: bool,
    said_router_addresses: Option<RouterAddressesOf>,
}

#[derive(Default)]
struct Watched {
    /// `None`: not looked up yet.
    route: Option<Result<Route, String>>,
    said: Option<Result<NextHop, NoNextHop>>,
}

#[derive(Default)]
struct Hop {
    /// The watched addresses whose next hop it is.
    users: BTreeSet<IpAddr>,
    /// How often it was solicited since it was last resolved.
    attempts: u32,
    /// When it is solicited next.
    due: Option<Instant>,
    /// Why it is not resolved, once that is certain.
    failure: Option<NoNextHop>,
}

/// How packets leave this host.
struct Path<'a> {
    /// The interface of the route.
    link: &'a Link,
    /// The interface that transmits: `link`, or its parent if it is a VLAN device.
    transmitter: &'a Link,
    source_mac: MacAddress,
}

impl State {
    /// Replaces the watched addresses.
    pub(super) fn watch(&mut self, addresses: &BTreeSet<IpAddr>) {
        let dropped: Vec<IpAddr> =
            self.watched.keys().filter(|address| !addresses.contains(address)).copied().collect();
        for address in dropped {
            self.leave_hop(address);
            self.watched.remove(&address);
            self.lookups.remove(&address);
            self.unsaid.remove(&address);
        }
        for address in addresses {
            self.watched.entry(*address).or_insert_with(|| {
                self.lookups.insert(*address);
                Watched::default()
            });
        }
    }

    /// Replaces what is known about links and neighbours, and has every route looked up again.
    pub(super) fn resync(&mut self, links: Vec<Link>, neighbours: Vec<(HopId, Neighbour)>, now: Instant) {
        let gone = self.links.values().map(|link| link.name.clone());
        self.unsaid_interfaces.extend(gone);
        self.unsaid_interfaces.extend(links.iter().map(|link| link.name.clone()));
        self.unsaid_vlans = true;
        self.unsaid_macs = true;
        self.unsaid_router_addresses = true;
        self.links = links.into_iter().map(|link| (link.index, link)).collect();
        let was = std::mem::replace(&mut self.neighbours, neighbours.into_iter().collect());
        let ids: Vec<HopId> = self.hops.keys().copied().collect();
        for id in ids {
            if was.get(&id) != self.neighbours.get(&id) || self.is_stale(id) {
                self.neighbour_changed(id, now);
            }
        }
        self.route_all();
    }

    /// Handles a change. False: changes were lost, and a resync is needed.
    pub(super) fn apply(&mut self, change: Change, now: Instant) -> bool {
        match change {
            Change::Link(link) => {
                if self.links.get(&link.index) != Some(&link) {
                    let index = link.index;
                    self.unsaid_interfaces.insert(link.name.clone());
                    let was = self.links.insert(index, link);
                    self.link_changed(index, was);
                }
            }
            Change::LinkGone(index) => {
                let was = self.links.remove(&index);
                self.link_changed(index, was);
            }
            Change::Neighbour(id, known) => {
                // The kernel announces a neighbour that was deleted by hand as failed first. One that
                // does not answer was probed before.
                let deleted = known == Some(Neighbour::Failed)
                    && matches!(
                        self.neighbours.get(&id),
                        Some(Neighbour::Resolved { standing: Standing::Confirmed | Standing::Stale, .. })
                    );
                match known.filter(|_| !deleted) {
                    Some(known) => self.neighbours.insert(id, known),
                    None => self.neighbours.remove(&id),
                };
                if self.hops.contains_key(&id) {
                    self.neighbour_changed(id, now);
                }
            }
            Change::Route(prefix, length) => {
                let (first, last) = range(prefix, length);
                let hit = self.watched.range(first..=last).map(|(address, _)| *address);
                self.lookups.extend(hit);
            }
            Change::Addresses(index) => {
                self.addresses_are_old = true;
                self.route_through(index);
            }
            Change::Rules => self.route_all(),
            Change::Overrun => return false,
        }
        true
    }

    /// The addresses whose route must be looked up. Each is returned once.
    pub(super) fn take_lookups(&mut self) -> BTreeSet<IpAddr> {
        std::mem::take(&mut self.lookups)
    }

    /// Whether routes must be looked up.
    pub(super) fn has_lookups(&self) -> bool {
        !self.lookups.is_empty()
    }

    /// Handles the result of a lookup.
    pub(super) fn routed(&mut self, address: IpAddr, route: Result<Route, String>, now: Instant) {
        let Some(watched) = self.watched.get(&address) else { return };
        if watched.route.as_ref() != Some(&route) {
            self.leave_hop(address);
            self.watched.entry(address).or_default().route = Some(route.clone());
        }
        self.unsaid.insert(address);
        let Ok(route) = route else { return };
        let id = HopId { ifindex: route.ifindex, address: route.hop };
        let is_new = !self.hops.contains_key(&id);
        let hop = self.hops.entry(id).or_default();
        hop.users.insert(address);
        if hop.due.is_none() {
            if is_new && !self.is_resolved(id) {
                self.put_in_timetable(id, now);
            } else {
                self.schedule(id, now);
            }
        }
    }

    /// When the next solicitation is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.timetable.first().map(|(due, _)| *due)
    }

    /// The neighbour to solicit now, if one is due.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<HopId> {
        loop {
            let (due, id) = *self.timetable.first()?;
            if due > now {
                return None;
            }
            self.timetable.pop_first();
            let resolved = self.is_resolved(id);
            let transmits = self.path(id.ifindex).is_ok();
            let silence = self.silence(id);
            let Some(hop) = self.hops.get_mut(&id) else { continue };
            hop.due = None;
            // When the link returns, its routes are looked up again, and then the neighbour.
            if !transmits {
                continue;
            }
            if !resolved {
                if hop.attempts > 0 && hop.failure.is_none() {
                    hop.failure = Some(NoNextHop::Silent(silence));
                    self.unsaid.extend(&hop.users);
                }
                hop.attempts += 1;
                let again = now + PATIENCE.max(retry_after(hop.attempts));
                self.put_in_timetable(id, again);
            }
            return Some(id);
        }
    }

    /// The kernel refused to solicit a neighbour.
    pub(super) fn refused(&mut self, id: HopId, reason: &str) {
        if self.is_resolved(id) {
            return;
        }
        let failure = NoNextHop::Here(format!("{} cannot be resolved: {reason}", self.on_link(id)));
        if let Some(hop) = self.hops.get_mut(&id) {
            hop.failure = Some(failure);
            self.say_users(id);
        }
    }

    /// The next event, if anything has changed since the last one.
    pub(super) fn next_event(&mut self) -> Option<Event> {
        // Before an interface's event: whoever attaches to it needs them.
        if std::mem::take(&mut self.unsaid_macs) {
            let macs = Some(self.own_macs());
            if self.said_macs != macs {
                self.said_macs.clone_from(&macs);
                return macs.map(Event::OwnMacs);
            }
        }
        while let Some(name) = self.unsaid_interfaces.pop_first() {
            let link = self.links.values().find(|link| link.name == name);
            let present = link.map(|link| (link.index, link.up && link.carrier));
            let said = match present {
                Some(present) => self.said_interfaces.insert(name.clone(), present),
                None => self.said_interfaces.remove(&name),
            };
            if said != present {
                let (index, up) = (present.map(|(index, _)| index), present.is_some_and(|(_, up)| up));
                return Some(Event::Interface { name, index, up });
            }
        }
        if std::mem::take(&mut self.unsaid_vlans) {
            let vlans = Some(self.vlans());
            if self.said_vlans != vlans {
                self.said_vlans.clone_from(&vlans);
                return vlans.map(Event::Vlans);
            }
        }
        if std::mem::take(&mut self.unsaid_addresses) {
            let addresses = Some(self.addresses.iter().map(|it| it.address).collect());
            if self.said_addresses != addresses {
                self.said_addresses.clone_from(&addresses);
                return addresses.map(Event::Addresses);
            }
        }
        if std::mem::take(&mut self.unsaid_router_addresses) {
            let addresses = Some(self.router_addresses());
            if self.said_router_addresses != addresses {
                self.said_router_addresses.clone_from(&addresses);
                return addresses.map(Event::RouterAddresses);
            }
        }
        while let Some(address) = self.unsaid.pop_first() {
            let Some(next_hop) = self.next_hop(address) else { continue };
            if let Some(watched) = self.watched.get_mut(&address)
                && watched.said.as_ref() != Some(&next_hop)
            {
                watched.said = Some(next_hop.clone());
                return Some(Event::NextHop { address, next_hop });
            }
        }
        None
    }

    /// The next hop of a watched address. `None` while it is being resolved: the last event stays valid, since a neighbour whose
    /// entry is gone may still be there.
    fn next_hop(&self, address: IpAddr) -> Option<Result<NextHop, NoNextHop>> {
        let here = |reason: String| Some(Err(NoNextHop::Here(reason)));
        let route = match self.watched.get(&address)?.route.as_ref()? {
            Ok(route) => route,
            Err(reason) => return here(reason.clone()),
        };
        let id = HopId { ifindex: route.ifindex, address: route.hop };
        let Path { link, transmitter, source_mac } = match self.path(route.ifindex) {
            Ok(path) => path,
            Err(reason) => return here(reason),
        };
        let Some(source) = route.source else {
            return here(format!("{} has no source address towards {address}", link.name));
        };
        match self.neighbours.get(&id) {
            Some(Neighbour::Resolved { mac, .. }) => Some(Ok(NextHop {
                interface: link.name.clone(),
                ifindex: transmitter.index,
                vlan: link.vlan.map(|vlan| vlan.id),
                source_mac,
                destination_mac: *mac,
                router: (route.hop != address).then_some(route.hop),
                source,
                on_link_bits: route.on_link_bits,
                mtu: route.mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu)),
            })),
            _ => self.hops.get(&id)?.failure.clone().map(Err),
        }
    }

    /// The interface that transmits for the one with this index, or why none does, in words.
    fn path(&self, index: u32) -> Result<Path<'_>, String> {
        let link =
            self.links.get(&index).ok_or_else(|| format!("the interface with index {index} is gone"))?;
        let name = &link.name;
        let source_mac = link.mac.ok_or_else(|| {
            format!("{name} is not an Ethernet device: the XDP program cannot send through it")
        })?;
        let transmitter = match link.vlan {
            None => link,
            Some(vlan) if !vlan.customer_tag => {
                return Err(format!("{name} is an 802.1ad VLAN, which is not supported (802.1Q is)"));
            }
            Some(_) => {
                let parent = link.lower.and_then(|parent| self.links.get(&parent));
                let parent =
                    parent.ok_or_else(|| format!("the parent of {name} is in another network namespace"))?;
                if parent.vlan.is_some() {
                    return Err(format!("{name} is a VLAN within a VLAN, which is not supported"));
                }
                parent
            }
        };
        for link in [transmitter, link] {
            if !link.up {
                return Err(format!("{} is down", link.name));
            }
            if !link.carrier {
                return Err(format!("{} has no carrier", link.name));
            }
        }
        Ok(Path { link, transmitter, source_mac })
    }

    /// Whether this host's addresses must be read again. Resets that.
    pub(super) fn take_addresses_are_old(&mut self) -> bool {
        std::mem::take(&mut self.addresses_are_old)
    }

    /// Replaces this host's addresses.
    pub(super) fn set_addresses(&mut self, addresses: Vec<HostAddress>) {
        self.addresses = addresses;
        self.unsaid_addresses = true;
        self.unsaid_router_addresses = true;
    }

    fn router_addresses(&self) -> RouterAddressesOf {
        let plain = self.links.values().filter(|link| link.vlan.is_none());
        let plain = plain.map(|link| (RouterInterface { ifindex: link.index, vlan: 0 }, link.index));
        // A port's entry has no VLAN, and a frame received on it counts as received on its device.
        let vlans =
            self.vlans().into_iter().filter(|(_, (_, vlan))| *vlan != 0).map(|(device, (parent, vlan))| {
                (RouterInterface { ifindex: parent, vlan: vlan.into() }, device)
            });
        router::addresses(&plain.chain(vlans).collect(), &self.addresses)
    }

    fn vlans(&self) -> BTreeMap<u32, (u32, u16)> {
        let plain = |index: &u32| self.links.get(index).is_some_and(|parent| parent.vlan.is_none());
        self.links
            .values()
            .filter_map(|link| {
                let Some(vlan) = link.vlan else { return Some((link.index, (link.port_of?, 0))) };
                let parent = link.lower.filter(|_| vlan.customer_tag).filter(plain)?;
                Some((link.index, (parent, vlan.id)))
            })
            .collect()
    }

    /// The MACs to which frames received on each interface may be addressed.
    pub(super) fn own_macs(&self) -> OwnMacs {
        let mut above = BTreeMap::<u32, Vec<u32>>::new();
        for link in self.links.values() {
            if let Some(lower) = link.lower {
                above.entry(lower).or_default().push(link.index);
            }
            above.entry(link.index).or_default().extend(link.master);
        }
        let interface = |link: &Link| {
            let (mut seen, mut next) = (BTreeSet::new(), vec![link.index]);
            while let Some(index) = next.pop() {
                if seen.insert(index) {
                    next.extend(above.get(&index).into_iter().flatten());
                }
            }
            let macs = seen.iter().filter_map(|index| frame_mac(self.links.get(index)?)).collect();
            (link.name.clone(), InterfaceMacs { index: link.index, master: link.master, macs })
        };
        self.links.values().filter(|link| frame_mac(link).is_some()).map(interface).collect()
    }

    fn link_changed(&mut self, index: u32, was: Option<Link>) {
        self.unsaid_interfaces.extend(was.map(|link| link.name));
        self.unsaid_vlans = true;
        self.unsaid_macs = true;
        self.unsaid_router_addresses = true;
        // A neighbour that was silent behind a dead link is solicited again.
        let hops: Vec<HopId> =
            self.hops.keys().filter(|id| self.leads_through(id.ifindex, index)).copied().collect();
        for id in hops {
            self.take_from_timetable(id);
            if let Some(hop) = self.hops.get_mut(&id) {
                hop.attempts = 0;
                hop.failure = None;
            }
        }
        self.route_through(index);
    }

    /// Whether packets sent through one interface leave by another.
    fn leads_through(&self, index: u32, transmitter: u32) -> bool {
        let is_its_parent = |link: &Link| link.vlan.is_some() && link.lower == Some(transmitter);
        index == transmitter || self.links.get(&index).is_some_and(is_its_parent)
    }

    /// Has the routes through an interface or a VLAN on it looked up again, and those of unreachable addresses. The kernel does not
    /// report the IPv4 routes that are removed with a link.
    fn route_through(&mut self, index: u32) {
        let touched = self.watched.iter().filter(|(_, watched)| match &watched.route {
            Some(Ok(route)) => self.leads_through(route.ifindex, index),
            Some(Err(_)) => true,
            None => false,
        });
        let touched: Vec<IpAddr> = touched.map(|(address, _)| *address).collect();
        self.unsaid.extend(&touched);
        self.lookups.extend(&touched);
    }

    fn route_all(&mut self) {
        self.unsaid.extend(self.watched.keys());
        self.lookups.extend(self.watched.keys());
    }

    fn neighbour_changed(&mut self, id: HopId, now: Instant) {
        let known = self.neighbours.get(&id).copied();
        let silence = self.silence(id);
        let Some(hop) = self.hops.get_mut(&id) else { return };
        match known {
            Some(Neighbour::Resolved { .. }) => {
                hop.attempts = 0;
                hop.failure = None;
            }
            Some(Neighbour::Failed) => {
                hop.failure.get_or_insert(NoNextHop::Silent(silence));
            }
            Some(Neighbour::Incomplete) | None => {}
        }
        self.say_users(id);
        self.schedule(id, now);
    }

    /// Decides when a hop is solicited next.
    fn schedule(&mut self, id: HopId, now: Instant) {
        let attempts = self.hops.get(&id).map_or(0, |hop| hop.attempts);
        let after = match self.neighbours.get(&id) {
            Some(Neighbour::Resolved { standing: Standing::Stale, .. }) => Some(between(STALE_FOR)),
            Some(Neighbour::Resolved { .. }) => None,
            Some(Neighbour::Incomplete) => Some(PATIENCE),
            Some(Neighbour::Failed) | None if attempts == 0 => Some(between(LOST_FOR)),
            Some(Neighbour::Failed) | None => Some(retry_after(attempts)),
        };
        self.take_from_timetable(id);
        if let Some(after) = after {
            self.put_in_timetable(id, now + after);
        }
    }

    fn put_in_timetable(&mut self, id: HopId, due: Instant) {
        if let Some(hop) = self.hops.get_mut(&id) {
            hop.due = Some(due);
            self.timetable.insert((due, id));
        }
    }

    fn take_from_timetable(&mut self, id: HopId) {
        if let Some(due) = self.hops.get_mut(&id).and_then(|hop| hop.due.take()) {
            self.timetable.remove(&(due, id));
        }
    }

    /// Removes a watched address from its next hop.
    fn leave_hop(&mut self, address: IpAddr) {
        let Some(Ok(route)) = self.watched.get(&address).and_then(|watched| watched.route.as_ref()) else {
            return;
        };
        let id = HopId { ifindex: route.ifindex, address: route.hop };
        let Some(hop) = self.hops.get_mut(&id) else { return };
        hop.users.remove(&address);
        if hop.users.is_empty() {
            self.take_from_timetable(id);
            self.hops.remove(&id);
        }
    }

    fn say_users(&mut self, id: HopId) {
        if let Some(hop) = self.hops.get(&id) {
            self.unsaid.extend(&hop.users);
        }
    }

    fn is_resolved(&self, id: HopId) -> bool {
        matches!(self.neighbours.get(&id), Some(Neighbour::Resolved { .. }))
    }

    fn is_stale(&self, id: HopId) -> bool {
        matches!(self.neighbours.get(&id), Some(Neighbour::Resolved { standing: Standing::Stale, .. }))
    }

    fn silence(&self, id: HopId) -> String {
        let protocol = if id.address.is_ipv4() { "ARP" } else { "neighbour discovery" };
        format!("{} does not answer {protocol}", self.on_link(id))
    }

    fn on_link(&self, id: HopId) -> String {
        match self.links.get(&id.ifindex) {
            Some(link) => format!("{} on {}", id.address, link.name),
            None => id.address.to_string(),
        }
    }
}

/// The MAC that frames for an interface are addressed to. Those on the loopback interface have zeros.
fn frame_mac(link: &Link) -> Option<MacAddress> {
    link.mac.or_else(|| (link.index == LOOPBACK).then(MacAddress::default))
}

/// How long to wait after this many attempts, jittered by a quarter.
fn retry_after(attempts: u32) -> Duration {
    let steady = FIRST_RETRY.saturating_mul(1 << attempts.saturating_sub(1).min(10)).min(LAST_RETRY);
    steady.mul_f64(rand::random_range(0.75..1.25))
}

fn between((least, most): (Duration, Duration)) -> Duration {
    rand::random_range(least..most)
}

/// The first and last address of a prefix.
fn range(prefix: IpAddr, length: u8) -> (IpAddr, IpAddr) {
    match prefix {
        IpAddr::V4(v4) => {
            let host = u32::MAX.checked_shr(length.into()).unwrap_or(0);
            let bits = v4.to_bits();
            (Ipv4Addr::from_bits(bits & !host).into(), Ipv4Addr::from_bits(bits | host).into())
        }
        IpAddr::V6(v6) => {
            let host = u128::MAX.checked_shr(length.into()).unwrap_or(0);
            let bits = v6.to_bits();
            (Ipv6Addr::from_bits(bits & !host).into(), Ipv6Addr::from_bits(bits | host).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use xdp_lb_common::net::MacAddress;

    use super::super::kernel::Vlan;
    use super::*;

    const GATEWAY: HopId = HopId { ifindex: 1, address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)) };
    const BACKEND: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 11));

    fn link(index: u32) -> Link {
        Link {
            index,
            name: format!("eth{index}"),
            mac: Some(MacAddress::new([2, 0, 0, 0, 0, index as u8])),
            up: true,
            carrier: true,
            mtu: 1500,
            lower: None,
            master: None,
            vlan: None,
            port_of: None,
        }
    }

    fn vlan(index: u32, parent: Option<u32>) -> Link {
        Link { lower: parent, vlan: Some(Vlan { id: 7, customer_tag: true }), mtu: 1400, ..link(index) }
    }

    fn route(hop: HopId) -> Route {
        let source = Some(IpAddr::from([192, 0, 2, 1]));
        Route { ifindex: hop.ifindex, hop: hop.address, source, mtu: None, on_link_bits: None }
    }

    fn resolved(last: u8, standing: Standing) -> Neighbour {
        Neighbour::Resolved { mac: MacAddress::new([2, 0, 0, 0, 1, last]), standing }
    }

    /// One backend behind the gateway, whose route is known.
    fn state(links: Vec<Link>, hop: HopId, known: Option<Neighbour>, now: Instant) -> State {
        let mut state = State::default();
        state.resync(links, known.map(|known| (hop, known)).into_iter().collect(), now);
        state.watch(&BTreeSet::from([BACKEND]));
        assert_eq!(state.take_lookups(), BTreeSet::from([BACKEND]));
        state.routed(BACKEND, Ok(route(hop)), now);
        state
    }

    /// The event about the backend.
    fn told(state: &mut State) -> Vec<Result<NextHop, NoNextHop>> {
        std::iter::from_fn(|| state.next_event())
            .filter_map(|event| match event {
                Event::NextHop { next_hop, .. } => Some(next_hop),
                _ => None,
            })
            .collect()
    }

    fn change(state: &mut State, known: Option<Neighbour>, now: Instant) {
        assert!(state.apply(Change::Neighbour(GATEWAY, known), now));
    }

    #[test]
    fn a_neighbour_that_is_not_known_is_solicited_at_once_and_told_when_the_kernel_gave_up() {
        let now = Instant::now();
        let mut state = state(vec![link(1)], GATEWAY, None, now);
        assert_eq!(told(&mut state), []);
        assert_eq!(state.take_due(now), Some(GATEWAY));
        assert_eq!(state.take_due(now), None);
        change(&mut state, Some(Neighbour::Incomplete), now);
        assert_eq!(told(&mut state), []);
        change(&mut state, Some(Neighbour::Failed), now);
        assert_eq!(
            told(&mut state),
            [Err(NoNextHop::Silent("192.0.2.2 on eth1 does not answer ARP".into()))]
        );
        assert_eq!(state.take_due(now + Duration::from_secs(1)), Some(GATEWAY), "it is asked again");
    }

    #[test]
    fn a_neighbour_of_which_the_kernel_says_nothing_is_told_as_silent() {
        let now = Instant::now();
        let mut state = state(vec![link(1)], GATEWAY, None, now);
        assert_eq!(state.take_due(now), Some(GATEWAY));
        assert_eq!(state.take_due(now + PATIENCE), Some(GATEWAY));
        assert_eq!(
            told(&mut state),
            [Err(NoNextHop::Silent("192.0.2.2 on eth1 does not answer ARP".into()))]
        );
    }

    #[test]
    fn a_refusal_of_the_kernel_is_told_in_its_words() {
        let now = Instant::now();
        let mut state = state(vec![link(1)], GATEWAY, None, now);
        state.refused(GATEWAY, "the table is full");
        assert_eq!(
            told(&mut state),
            [Err(NoNextHop::Here("192.0.2.2 on eth1 cannot be resolved: the table is full".into()))]
        );
    }

    #[test]
    fn a_stale_neighbour_is_in_use_and_has_itself_confirmed_soon() {
        let now = Instant::now();
        let mut state = state(vec![link(1)], GATEWAY, Some(resolved(1, Standing::Stale)), now);
        assert!(matches!(told(&mut state)[..], [Ok(_)]));
        assert_eq!(state.take_due(now), None);
        assert_eq!(state.take_due(now + STALE_FOR.1), Some(GATEWAY));
        assert_eq!(state.next_due(), None, "the kernel tells how it ended");
    }

    #[test]
    fn a_probed_neighbour_that_fails_is_told_at_once_and_a_deleted_one_is_asked_for_first() {
        let now = Instant::now();
        let mut state = state(vec![link(1)], GATEWAY, Some(resolved(1, Standing::Confirmed)), now);
        assert!(matches!(told(&mut state)[..], [Ok(_)]));
        change(&mut state, Some(Neighbour::Failed), now);
        change(&mut state, None, now);
        assert_eq!(told(&mut state), []);
        assert_eq!(state.take_due(now + LOST_FOR.1), Some(GATEWAY));
        change(&mut state, Some(resolved(1, Standing::Confirmed)), now);
        change(&mut state, Some(resolved(1, Standing::Probed)), now);
        assert_eq!(told(&mut state), []);
        change(&mut state, Some(Neighbour::Failed), now);
        assert!(matches!(told(&mut state)[..], [Err(_)]));
        change(&mut state, None, now);
        assert_eq!(told(&mut state), [], "forgetting a silent neighbour is not news");
    }

    #[test]
    fn a_new_gateway_takes_over_once_it_is_resolved() {
        let now = Instant::now();
        let mut state = state(vec![link(1)], GATEWAY, Some(resolved(1, Standing::Confirmed)), now);
        assert!(matches!(told(&mut state)[..], [Ok(_)]));
        let other = HopId { address: IpAddr::from([192, 0, 2, 3]), ..GATEWAY };
        state.routed(BACKEND, Ok(route(other)), now);
        assert_eq!(told(&mut state), []);
        assert!(state.apply(Change::Neighbour(other, Some(resolved(2, Standing::Confirmed))), now));
        let told = told(&mut state);
        let macs: Vec<_> = told.iter().flatten().map(|hop| hop.destination_mac).collect();
        assert_eq!(macs, [MacAddress::new([2, 0, 0, 0, 1, 2])]);
        assert_eq!(state.hops.len(), 1, "the old gateway is forgotten");
    }

    #[test]
    fn a_vlan_device_transmits_through_its_parent_and_goes_down_with_it() {
        let now = Instant::now();
        let hop = HopId { ifindex: 5, ..GATEWAY };
        let mut state =
            state(vec![link(1), vlan(5, Some(1))], hop, Some(resolved(1, Standing::Confirmed)), now);
        let expected = NextHop {
            interface: "eth5".into(),
            ifindex: 1,
            vlan: Some(7),
            source_mac: MacAddress::new([2, 0, 0, 0, 0, 5]),
            destination_mac: MacAddress::new([2, 0, 0, 0, 1, 1]),
            router: Some(GATEWAY.address),
            source: IpAddr::from([192, 0, 2, 1]),
            on_link_bits: None,
            mtu: 1400,
        };
        let events: Vec<_> = std::iter::from_fn(|| state.next_event()).collect();
        assert!(events.contains(&Event::Vlans(BTreeMap::from([(5, (1, 7))]))), "{events:?}");
        assert!(events.contains(&Event::NextHop { address: BACKEND, next_hop: Ok(expected) }), "{events:?}");
        assert!(state.apply(Change::Link(Link { up: false, ..link(1) }), now));
        assert_eq!(told(&mut state), [Err(NoNextHop::Here("eth1 is down".into()))]);
        assert!(state.has_lookups());
    }

    #[test]
    fn a_port_is_told_with_what_it_belongs_to() {
        let port = |index| Link { port_of: Some(2), ..link(index) };
        let mut state = State::default();
        // A VLAN device that is a port of a bridge is reported as a VLAN device.
        let vlan_port = Link { port_of: Some(2), ..vlan(5, Some(1)) };
        state.resync(vec![link(1), link(2), port(3), vlan_port], vec![], Instant::now());
        assert_eq!(state.vlans(), BTreeMap::from([(3, (2, 0)), (5, (1, 7))]));
    }

    #[test]
    fn this_hosts_addresses_are_told_when_one_comes_or_goes() {
        let [one, other] = [[192, 0, 2, 1], [192, 0, 2, 2]].map(IpAddr::from);
        let of = |all: &[(u32, IpAddr)]| -> Vec<HostAddress> {
            let of = |(ifindex, address): &(u32, IpAddr)| HostAddress {
                ifindex: *ifindex,
                address: *address,
                prefix: 24,
            };
            all.iter().map(of).collect()
        };
        let mut state = State::default();
        let told = |state: &mut State| {
            let all = std::iter::from_fn(|| state.next_event());
            all.filter_map(|event| match event {
                Event::Addresses(addresses) => Some(addresses.into_iter().collect()),
                _ => None,
            })
            .collect::<Vec<Vec<IpAddr>>>()
        };
        state.resync(vec![link(1)], vec![], Instant::now());
        assert_eq!(told(&mut state), Vec::<Vec<IpAddr>>::new(), "they have not been read yet");
        state.set_addresses(of(&[(1, one)]));
        assert_eq!(told(&mut state), [vec![one]]);
        state.set_addresses(of(&[(1, one)]));
        assert_eq!(told(&mut state), Vec::<Vec<IpAddr>>::new(), "that is not new");
        state.set_addresses(of(&[(1, one), (1, other)]));
        assert_eq!(told(&mut state), [vec![one, other]]);
        // It goes to another interface.
        state.set_addresses(of(&[(1, one), (2, other)]));
        assert_eq!(told(&mut state), Vec::<Vec<IpAddr>>::new());
        state.set_addresses(of(&[(1, one)]));
        assert_eq!(told(&mut state), [vec![one]]);
    }

    #[test]
    fn what_a_port_belongs_to_speaks_as_its_own_address() {
        let mut state = State::default();
        let port = Link { port_of: Some(2), ..link(3) };
        state.resync(vec![link(2), port], vec![], Instant::now());
        let address =
            |ifindex, last: u8| HostAddress { ifindex, address: [192, 0, 2, last].into(), prefix: 24 };
        state.set_addresses(vec![address(1, 1), address(2, 2)]);
        let bond = RouterInterface { ifindex: 2, vlan: 0 };
        let said: IpAddr = state.router_addresses()[&bond].v4.into();
        assert_eq!(said, IpAddr::from([192, 0, 2, 2]));
    }

    #[test]
    fn a_vlan_that_cannot_be_used_is_refused_in_words_and_not_told_to_the_datapath() {
        for (links, reason) in [
            (
                vec![link(1), vlan(5, Some(1)), vlan(6, Some(5))],
                "eth6 is a VLAN within a VLAN, which is not supported",
            ),
            (vec![link(1), vlan(6, None)], "the parent of eth6 is in another network namespace"),
        ] {
            let now = Instant::now();
            let hop = HopId { ifindex: 6, ..GATEWAY };
            let mut state = state(links, hop, Some(resolved(1, Standing::Confirmed)), now);
            assert_eq!(told(&mut state), [Err(NoNextHop::Here(reason.to_owned()))]);
            assert!(!state.vlans().contains_key(&6));
        }
    }

    #[test]
    fn an_interface_owns_its_mac_and_those_of_what_stands_on_it_or_has_it_as_a_port() {
        // eth7 and eth5 are ports of the bridge eth2, which has a VLAN device and a macvlan above it.
        let port = |index| Link { master: Some(2), ..link(index) };
        let macvlan = Link { lower: Some(2), ..link(4) };
        let mut state = State::default();
        let links = vec![port(7), link(2), vlan(3, Some(2)), macvlan, port(5), Link { mac: None, ..link(6) }];
        state.resync(links, vec![], Instant::now());
        let macs = |index: u32, master, owned: &[u8]| {
            let macs = owned.iter().map(|last| MacAddress::new([2, 0, 0, 0, 0, *last])).collect();
            (format!("eth{index}"), InterfaceMacs { index, master, macs })
        };
        let mut expected = OwnMacs::from([
            macs(7, Some(2), &[7, 2, 3, 4]),
            macs(2, None, &[2, 3, 4]),
            macs(3, None, &[3]),
            macs(4, None, &[4]),
            macs(5, Some(2), &[2, 3, 4, 5]),
        ]);
        assert_eq!(state.next_event(), Some(Event::OwnMacs(expected.clone())), "before the interfaces");
        while state.next_event().is_some() {}
        // The macvlan goes, as VRRP's does, and the VLAN's address changes.
        let now = Instant::now();
        assert!(state.apply(Change::LinkGone(4), now));
        let renamed = Link { mac: link(9).mac, ..vlan(3, Some(2)) };
        assert!(state.apply(Change::Link(renamed), now));
        expected.extend([
            macs(7, Some(2), &[7, 2, 9]),
            macs(2, None, &[2, 9]),
            macs(3, None, &[9]),
            macs(5, Some(2), &[2, 5, 9]),
        ]);
        expected.remove("eth4");
        assert_eq!(state.next_event(), Some(Event::OwnMacs(expected)));
    }

    #[test]
    fn a_route_change_asks_only_for_the_addresses_within_its_prefix() {
        let now = Instant::now();
        let addresses = ["198.51.100.11", "198.51.101.11", "2001:db8::11"];
        let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().expect("an address")).collect();
        let mut state = State::default();
        state.watch(&addresses.iter().copied().collect());
        state.take_lookups();
        let mut asked = |prefix: &str, length| {
            let prefix = prefix.parse().expect("an address");
            assert!(state.apply(Change::Route(prefix, length), now));
            state.take_lookups().into_iter().collect::<Vec<_>>()
        };
        assert_eq!(asked("198.51.100.0", 24), addresses[..1]);
        assert_eq!(asked("0.0.0.0", 0), addresses[..2]);
        assert_eq!(asked("::", 0), addresses[2..]);
        assert!(asked("198.51.100.12", 32).is_empty());
    }

    proptest! {
        #[test]
        fn a_prefix_ranges_over_exactly_the_addresses_that_share_its_bits(
            prefix: u32, length in 0..=32u8, other: u32,
        ) {
            let (first, last) = range(Ipv4Addr::from_bits(prefix).into(), length);
            let shares = u64::from(prefix ^ other) >> (32 - length) == 0;
            let other = IpAddr::from(Ipv4Addr::from_bits(other));
            prop_assert_eq!((first..=last).contains(&other), shares);
        }

        #[test]
        fn retries_become_rarer_up_to_a_bound(attempts in 0..100u32) {
            let after = retry_after(attempts);
            prop_assert!(after >= FIRST_RETRY.mul_f64(0.75));
            prop_assert!(after <= LAST_RETRY.mul_f64(1.25));
        }
    }
}
