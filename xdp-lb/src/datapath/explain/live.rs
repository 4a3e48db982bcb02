//! The datapath's tables, read while packets and the daemon use them.

use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use aya::maps::{Array, HashMap, LpmTrie, Map, MapData};
use xdp_lb_common::net::{Address, Endpoint};
use xdp_lb_common::tables::{
    Backend, Fragment, FragmentKey, PortRanges, Reply, RouterAddresses, RouterInterface, ServerKey, Service,
    Settings, SolePorts, SourceKey, VlanDevice,
};

use crate::datapath::memory::{FlowMemory, Records, Words};
use crate::datapath::plain::Plain;

/// A table with keys.
type Keyed<K, V> = HashMap<MapData, Plain<K>, Plain<V>>;

/// A directory's words and records.
pub struct Directory<R> {
    pub words: Words,
    pub records: Records<R>,
}

/// The tables, with their own descriptors and mappings.
pub struct LiveTables {
    pub(super) settings: Array<MapData, Plain<Settings>>,
    pub(super) own_macs: Words,
    pub(super) addresses: Words,
    pub(super) services: Directory<Service>,
    pub(super) vips: Keyed<Address, SolePorts>,
    pub(super) ranged_addresses: Words,
    pub(super) port_ranges: Keyed<Endpoint, PortRanges>,
    pub(super) slots: Words,
    pub(super) backends: Array<MapData, Plain<Backend>>,
    pub(super) snat_addresses: Array<MapData, Plain<Address>>,
    pub(super) own_addresses: HashMap<MapData, Plain<Address>, u32>,
    pub(super) replies: Directory<Reply>,
    pub(super) vlans: HashMap<MapData, u32, Plain<VlanDevice>>,
    pub(super) router_addresses: Keyed<RouterInterface, RouterAddresses>,
    pub(super) flows: FlowMemory,
    pub(super) quic_servers: HashMap<MapData, Plain<ServerKey>, u32>,
    pub(super) sources: LpmTrie<MapData, Plain<SourceKey>, u32>,
    pub(super) source_rates: HashMap<MapData, Plain<SourceKey>, u64>,
    pub(super) fragments: Keyed<FragmentKey, Fragment>,
    pub(super) service_flows: Words,
    pub(super) backend_flows: Words,
}

impl LiveTables {
    /// Opens the tables, each by the descriptor that `open` returns for its name.
    ///
    /// # Errors
    /// If one cannot be opened or mapped, or has another layout.
    pub(in crate::datapath) fn open(open: impl Fn(&'static str) -> Result<OwnedFd>) -> Result<Self> {
        let data =
            |name| MapData::from_fd(open(name)?).with_context(|| format!("cannot open the table {name}"));
        let array = |name| Ok::<_, anyhow::Error>(Map::Array(data(name)?));
        let hash = |name| Ok::<_, anyhow::Error>(Map::HashMap(data(name)?));
        let least_recent = |name| Ok::<_, anyhow::Error>(Map::LruHashMap(data(name)?));
        let words = |name| Words::new(&array(name)?);
        let flows = FlowMemory::new(
            words("FLOW_TAGS")?,
            &array("FLOW_LINES")?,
            words("FLOW_PORTS")?,
            words("FLOW_LOCKS")?,
        )?;
        Ok(Self {
            settings: array("SETTINGS")?.try_into()?,
            own_macs: words("OWN_MACS")?,
            addresses: words("ADDRESSES")?,
            services: Directory {
                words: words("SERVICE_PLACES")?,
                records: Records::new(&array("SERVICES")?)?,
            },
            vips: hash("VIPS")?.try_into()?,
            ranged_addresses: words("RANGED_ADDRESSES")?,
            port_ranges: hash("PORT_RANGES")?.try_into()?,
            slots: words("SLOTS")?,
            backends: array("BACKENDS")?.try_into()?,
            snat_addresses: array("SNAT_ADDRESSES")?.try_into()?,
            own_addresses: hash("OWN_ADDRESSES")?.try_into()?,
            replies: Directory { words: words("REPLY_PLACES")?, records: Records::new(&array("REPLIES")?)? },
            vlans: hash("VLANS")?.try_into()?,
            router_addresses: hash("ROUTER_ADDRESSES")?.try_into()?,
            flows,
            quic_servers: hash("QUIC_SERVERS")?.try_into()?,
            sources: Map::LpmTrie(data("SOURCES")?).try_into()?,
            source_rates: least_recent("SOURCE_RATES")?.try_into()?,
            fragments: least_recent("FRAGMENTS")?.try_into()?,
            service_flows: words("SERVICE_FLOWS")?,
            backend_flows: words("BACKEND_FLOWS")?,
        })
    }
}
