//! Every metric: its name, its help, its labels and where its value comes from.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use xdp_lb_common::reason::Kind;

use crate::model::state::{AdminState, TroubleKind};
use crate::report::documents::{BackendView, CounterView, ServiceView, StatusView, TrafficView};

/// What every name begins with.
pub(super) const PREFIX: &str = "xdp_lb";

/// What one scrape shows.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) status: StatusView,
    pub(super) counters: Vec<CounterView>,
    /// When the daemon started: seconds of Unix time.
    pub(super) start_time: u64,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct ServiceLabels {
    service: String,
    vip: String,
    protocol: String,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct ServiceTrafficLabels {
    #[prometheus(flatten)]
    service: ServiceLabels,
    direction: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct DiscoveryLabels {
    service: String,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct BackendLabels {
    service: String,
    backend: String,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct BackendTrafficLabels {
    #[prometheus(flatten)]
    backend: BackendLabels,
    direction: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct BackendStateLabels {
    #[prometheus(flatten)]
    backend: BackendLabels,
    state: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct ReasonLabels {
    reason: String,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct TableLabels {
    table: String,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct InterfaceLabels {
    interface: String,
    mode: String,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct LinkLabels {
    interface: String,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct TroubleLabels {
    kind: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct VipLabels {
    vip: String,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
    commit: &'static str,
}

/// One family of a snapshot, by its number from 0; nothing where there are not as many.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) number: usize,
}

impl Collector for Family {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families { encoder, before: Some(self.number) };
        self.snapshot.daemon(&mut families)?;
        self.snapshot.services(&mut families)?;
        self.snapshot.discovery(&mut families)?;
        self.snapshot.backends(&mut families)?;
        self.snapshot.packets(&mut families)?;
        self.snapshot.tables(&mut families)
    }
}

impl Snapshot {
    fn daemon(&self, families: &mut Families<'_>) -> fmt::Result {
        let build = BuildLabels { version: crate::VERSION, commit: crate::COMMIT };
        families.gauge("build_info", "The version and commit of the daemon; always 1", [(build, 1u64)])?;
        families.single_gauge(
            "start_time_seconds",
            "When the daemon started, in seconds of Unix time",
            self.start_time,
        )?;
        let interfaces = self.status.interfaces.iter().map(|interface| {
            let mode = interface.mode.map_or("none".into(), |mode| mode.to_string());
            (InterfaceLabels { interface: interface.name.clone(), mode }, 1u64)
        });
        families.gauge(
            "interface_info",
            "An interface of the config, and how the program is attached: native, generic or none; always 1",
            interfaces,
        )?;
        families.single_gauge(
            "node_drained",
            "Whether the node is drained: 1 or 0",
            u64::from(self.status.admin == AdminState::Draining),
        )?;
        families.gauge(
            "vip_present",
            "Whether the VIP is an address of this host, where the daemon sees to it: 1 or 0",
            self.status
                .vips
                .iter()
                .map(|vip| (VipLabels { vip: vip.address.to_string() }, u64::from(vip.interface.is_some()))),
        )?;
        let links = self
            .status
            .interfaces
            .iter()
            .map(|interface| (LinkLabels { interface: interface.name.clone() }, u64::from(interface.up)));
        families.gauge("interface_up", "Whether the interface is up and has a carrier: 1 or 0", links)?;
        let attached = self.status.interfaces.iter().map(|interface| {
            (LinkLabels { interface: interface.name.clone() }, u64::from(interface.mode.is_some()))
        });
        families.gauge(
            "interface_attached",
            "Whether the kernel has the program on the interface: 1 or 0",
            attached,
        )?;
        let has = |kind: TroubleKind| self.status.troubles.iter().any(|trouble| trouble.kind == kind);
        let tables = [TroubleKind::Tables, TroubleKind::Settling, TroubleKind::Flows];
        families.single_gauge(
            "tables_in_sync",
            "Whether the BPF tables are what they should be, and can be read: 1 or 0",
            u64::from(!tables.into_iter().any(has)),
        )?;
        families.gauge(
            "trouble",
            "Whether something of this kind is wrong, which `xdp-lb status` tells: 1 or 0",
            TroubleKind::ALL.map(|kind| (TroubleLabels { kind: kind.name() }, u64::from(has(kind)))),
        )?;
        families.single_counter(
            "restored",
            "Entries of tables, pins and attachments that were missing or changed by somebody else, and were restored",
            self.status.restored,
        )
    }

    fn services(&self, families: &mut Families<'_>) -> fmt::Result {
        let labelled = || self.status.services.iter().map(|service| (service_labels(service), service));
        let both_ways = |part: fn(&TrafficView) -> [(&'static str, u64); 2]| {
            labelled().flat_map(move |(service, view)| {
                part(&view.traffic).map(|(direction, value)| {
                    (ServiceTrafficLabels { service: service.clone(), direction }, value)
                })
            })
        };
        families.counter("service_packets", "Packets forwarded, by direction", both_ways(packets))?;
        families.counter("service_bytes", "Bytes forwarded, by direction", both_ways(bytes))?;
        families.counter(
            "service_new_flows",
            "Flows that began",
            labelled().map(|(labels, view)| (labels, view.traffic.new_flows)),
        )?;
        families.gauge(
            "service_max_flows",
            "How many flows the service may have at a time; absent where it may have any number",
            labelled()
                .filter(|(_, view)| view.max_flows != 0)
                .map(|(labels, view)| (labels, u64::from(view.max_flows))),
        )?;
        families.gauge(
            "service_backends",
            "Backends of the service",
            labelled().map(|(labels, view)| (labels, u64::from(view.backends))),
        )?;
        families.gauge(
            "service_backends_serving",
            "Backends of the service that take new flows",
            labelled().map(|(labels, view)| (labels, u64::from(view.backends_serving))),
        )?;
        families.gauge(
            "service_panic",
            "Whether backends that are down take new flows, since too few others are up: 1 or 0",
            labelled().map(|(labels, view)| (labels, u64::from(view.panic.is_some()))),
        )
    }

    fn discovery(&self, families: &mut Families<'_>) -> fmt::Result {
        let labelled = || {
            let labels = |service: &ServiceView| DiscoveryLabels { service: service.name.clone() };
            self.status.services.iter().filter_map(move |it| Some((labels(it), it.discovery.as_ref()?)))
        };
        families.gauge(
            "discovery_up",
            "Whether the last lookup of the service's backends succeeded: 1 or 0",
            labelled().map(|(labels, view)| {
                (
                    labels,
                    u64::from(view.failing_since_seconds.is_none() && view.last_answer_seconds.is_some()),
                )
            }),
        )?;
        families.gauge(
            "discovery_age_seconds",
            "Time since the last good answer",
            labelled().filter_map(|(labels, view)| Some((labels, view.last_answer_seconds?))),
        )?;
        families.counter(
            "discovery_answers",
            "Good answers",
            labelled().map(|(labels, view)| (labels, view.answers)),
        )?;
        families.counter(
            "discovery_failures",
            "Lookups that failed",
            labelled().map(|(labels, view)| (labels, view.failures)),
        )?;
        families.gauge(
            "discovery_backends",
            "Backends that are found and used",
            labelled().map(|(labels, view)| (labels, u64::from(view.found))),
        )?;
        families.gauge(
            "discovery_leaving_backends",
            "Backends that are not found any more and keep their flows until those end",
            labelled().map(|(labels, view)| (labels, u64::from(view.leaving))),
        )
    }

    fn backends(&self, families: &mut Families<'_>) -> fmt::Result {
        let labelled = || self.status.backends.iter().map(|backend| (backend_labels(backend), backend));
        let both_ways = |part: fn(&TrafficView) -> [(&'static str, u64); 2]| {
            labelled().flat_map(move |(backend, view)| {
                part(&view.traffic).map(|(direction, value)| {
                    (BackendTrafficLabels { backend: backend.clone(), direction }, value)
                })
            })
        };
        families.counter("backend_packets", "Packets forwarded, by direction", both_ways(packets))?;
        families.counter("backend_bytes", "Bytes forwarded, by direction", both_ways(bytes))?;
        families.counter(
            "backend_new_flows",
            "Flows that began",
            labelled().map(|(labels, view)| (labels, view.traffic.new_flows)),
        )?;
        families.counter(
            "backend_accepted",
            "SYNs that the backend accepted, where its replies pass this host",
            labelled().map(|(labels, view)| (labels, view.traffic.accepted)),
        )?;
        families.counter(
            "backend_resets",
            "Connections that the backend refused or reset, where its replies pass this host",
            labelled().map(|(labels, view)| (labels, view.traffic.resets)),
        )?;
        families.gauge(
            "backend_up",
            "Whether the backend takes new flows: 1 or 0",
            labelled().map(|(labels, view)| (labels, u64::from(view.state.takes_new_flows()))),
        )?;
        families.gauge(
            "backend_state",
            "The state that the backend is in; always 1",
            labelled()
                .map(|(backend, view)| (BackendStateLabels { backend, state: view.state.name() }, 1u64)),
        )?;
        families.gauge(
            "backend_weight",
            "The backend's weight",
            labelled().map(|(labels, view)| (labels, u64::from(view.weight))),
        )?;
        families.gauge(
            "backend_weight_ratio",
            "How much of the backend's weight counts, 1: all of it",
            labelled().map(|(labels, view)| (labels, view.weight_ratio)),
        )?;
        families.gauge(
            "backend_agent_up",
            "Whether the backend's agent gave an answer that can be read: 1 or 0",
            labelled().filter_map(|(labels, view)| {
                Some((labels, u64::from(view.agent.as_ref()?.trouble.is_none())))
            }),
        )?;
        families.counter(
            "backend_ejections",
            "How often the backend's circuit breaker has opened",
            labelled().map(|(labels, view)| (labels, view.ejections)),
        )?;
        families.gauge(
            "backend_share_ratio",
            "The share of new flows that the backend gets, 0 to 1",
            labelled().map(|(labels, view)| (labels, view.share)),
        )?;
        families.gauge(
            "backend_portion_ratio",
            "What the backend gets of the share that its weight gives it, 0 to 1: less than 1 while it warms up",
            labelled().map(|(labels, view)| (labels, view.portion)),
        )?;
        families.gauge(
            "backend_flows",
            "Flows of the backend that live now",
            labelled().map(|(labels, view)| (labels, view.flows)),
        )?;
        families.gauge(
            "backend_max_flows",
            "How many flows the backend may have at a time; absent where it may have any number",
            labelled()
                .filter(|(_, view)| view.max_flows != 0)
                .map(|(labels, view)| (labels, u64::from(view.max_flows))),
        )?;
        families.gauge(
            "backend_check_duration_seconds",
            "How long the last health check took",
            labelled().filter_map(|(labels, view)| Some((labels, view.check_latency_seconds?))),
        )
    }

    fn packets(&self, families: &mut Families<'_>) -> fmt::Result {
        let of = |kind: Kind| {
            self.counters
                .iter()
                .filter(move |counter| counter.verdict == kind.name())
                .map(|counter| (ReasonLabels { reason: counter.name.clone() }, counter.packets))
        };
        families.counter("packets_dropped", "Packets dropped, by reason", of(Kind::Drop))?;
        families.counter("packets_passed", "Packets left to the host, by reason", of(Kind::Pass))?;
        families.counter("packets_answered", "Packets answered by the program, by reason", of(Kind::Answer))
    }

    fn tables(&self, families: &mut Families<'_>) -> fmt::Result {
        let labelled =
            || self.status.tables.iter().map(|table| (TableLabels { table: table.name.clone() }, table));
        families.gauge(
            "table_entries",
            "Entries of the table that are in use",
            labelled().map(|(labels, table)| (labels, table.used)),
        )?;
        families.gauge(
            "table_size",
            "Entries that the table can hold",
            labelled().map(|(labels, table)| (labels, table.size)),
        )
    }
}

fn service_labels(service: &ServiceView) -> ServiceLabels {
    ServiceLabels {
        service: service.name.clone(),
        vip: service.vip.to_string(),
        protocol: service.protocol.to_string(),
    }
}

fn backend_labels(backend: &BackendView) -> BackendLabels {
    BackendLabels { service: backend.service.clone(), backend: backend.address.to_string() }
}

fn packets(traffic: &TrafficView) -> [(&'static str, u64); 2] {
    [("in", traffic.packets_in), ("out", traffic.packets_out)]
}

fn bytes(traffic: &TrafficView) -> [(&'static str, u64); 2] {
    [("in", traffic.bytes_in), ("out", traffic.bytes_out)]
}

/// The encoder of one family among all.
struct Families<'a> {
    encoder: DescriptorEncoder<'a>,
    /// How many are still to be passed over; `None` behind the one that is wanted.
    before: Option<usize>,
}

impl Families<'_> {
    /// The encoder of the next family, where that is the wanted one.
    fn next<'s>(
        &'s mut self,
        name: &'s str,
        help: &'s str,
        kind: MetricType,
    ) -> Result<Option<MetricEncoder<'s>>, fmt::Error> {
        let is_wanted = self.before == Some(0);
        self.before = self.before.and_then(|before| before.checked_sub(1));
        is_wanted.then(|| self.encoder.encode_descriptor(name, help, None, kind)).transpose()
    }

    fn counter<L: EncodeLabelSet, V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        metrics: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        let Some(mut family) = self.next(name, help, MetricType::Counter)? else { return Ok(()) };
        for (labels, value) in metrics {
            family.encode_family(&labels)?.encode_counter(&value, None::<&Exemplar<NoLabelSet, u64>>)?;
        }
        Ok(())
    }

    fn gauge<L: EncodeLabelSet, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        metrics: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        let Some(mut family) = self.next(name, help, MetricType::Gauge)? else { return Ok(()) };
        for (labels, value) in metrics {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn single_counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.next(name, help, MetricType::Counter)?
            .map_or(Ok(()), |mut family| family.encode_counter(&value, None::<&Exemplar<NoLabelSet, u64>>))
    }

    fn single_gauge(&mut self, name: &str, help: &str, value: impl EncodeGaugeValue) -> fmt::Result {
        self.next(name, help, MetricType::Gauge)?.map_or(Ok(()), |mut family| family.encode_gauge(&value))
    }
}
