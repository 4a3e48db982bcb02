//! Every metric: its name, its help, its labels and where its value comes from.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use xdp_lb_common::reason::Kind;

use crate::model::state::{AdminState, PeerState, TroubleKind};
use crate::report::documents::{
    BackendView, BucketView, ChecksView, CounterView, HistogramView, LossView, ServiceView, StatusView,
    TrafficView,
};

/// What every name begins with.
pub(super) const PREFIX: &str = "xdp_lb";

/// What one scrape shows.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) status: StatusView,
    pub(super) counters: Vec<CounterView>,
    pub(super) losses: Vec<LossView>,
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
struct CheckLabels {
    #[prometheus(flatten)]
    backend: BackendLabels,
    result: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct SlotLabels {
    #[prometheus(flatten)]
    service: ServiceLabels,
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
struct LossLabels {
    interface: String,
    verdict: String,
    error: String,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct TroubleLabels {
    kind: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct FleetLabels {
    fleet: String,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct PeerLabels {
    node: String,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct PeerStateLabels {
    #[prometheus(flatten)]
    peer: PeerLabels,
    state: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct PeerReasonLabels {
    #[prometheus(flatten)]
    peer: PeerLabels,
    reason: String,
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
        let mut families = Families::new(encoder, self.number);
        self.snapshot.daemon(&mut families)?;
        self.snapshot.config(&mut families)?;
        self.snapshot.fleet(&mut families)?;
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
            "Start time of the daemon, in seconds of Unix time",
            self.start_time,
        )?;
        let interfaces = self.status.interfaces.iter().map(|interface| {
            let mode = interface.mode.map_or("none".into(), |mode| mode.to_string());
            (InterfaceLabels { interface: interface.name.clone(), mode }, 1u64)
        });
        families.gauge(
            "interface_info",
            "A configured interface and how the program is attached: xdp, tc, xdp-generic or none; always 1",
            interfaces,
        )?;
        families.single_gauge(
            "node_drained",
            "1 while the node is drained, else 0",
            u64::from(self.status.admin == AdminState::Draining),
        )?;
        families.gauge(
            "vip_present",
            "1 if the VIP is an address of this host, else 0; only with vips.interface",
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
        families.gauge("interface_up", "1 if the interface is up and has a carrier, else 0", links)?;
        let attached = self.status.interfaces.iter().map(|interface| {
            (LinkLabels { interface: interface.name.clone() }, u64::from(interface.mode.is_some()))
        });
        families.gauge(
            "interface_attached",
            "1 if the program is attached to the interface, else 0",
            attached,
        )?;
        let has = |kind: TroubleKind| self.status.troubles.iter().any(|trouble| trouble.kind == kind);
        let tables = [TroubleKind::Tables, TroubleKind::Settling, TroubleKind::Flows];
        families.single_gauge(
            "tables_in_sync",
            "1 if the BPF tables are in sync with the configuration and can be read, else 0",
            u64::from(!tables.into_iter().any(has)),
        )?;
        families.gauge(
            "trouble",
            "1 while there is trouble of this kind (see `xdp-lb status`), else 0",
            TroubleKind::ALL.map(|kind| (TroubleLabels { kind: kind.name() }, u64::from(has(kind)))),
        )?;
        families.single_counter(
            "restored",
            "Table entries, pins and attachments that the daemon restored after something else removed or changed \
             them",
            self.status.restored,
        )
    }

    fn config(&self, families: &mut Families<'_>) -> fmt::Result {
        families.single_gauge(
            "config_reload_successful",
            "1 if the last reload of the config file succeeded, or there was none yet; else 0",
            u64::from(self.status.reload.error.is_none()),
        )?;
        families.single_gauge(
            "config_reload_success_timestamp_seconds",
            "When the config file was last read with success, in seconds of Unix time",
            self.status.reload.success_time,
        )
    }

    fn fleet(&self, families: &mut Families<'_>) -> fmt::Result {
        let fleet = self.status.fleet.iter();
        families.gauge(
            "fleet_joined",
            "1 if this node has the flows of all nodes that it can reach, else 0; only with [fleet]",
            fleet.map(|it| (FleetLabels { fleet: it.name.clone() }, u64::from(it.joined))),
        )?;
        let peers = || {
            let peers = self.status.fleet.iter().flat_map(|fleet| &fleet.peers);
            peers.map(|peer| (PeerLabels { node: peer.node.clone() }, peer))
        };
        families.gauge(
            "fleet_peer_state",
            "1 for the state of the other node, 0 for the other states: synced, syncing, unreachable",
            peers().flat_map(|(peer, view)| {
                PeerState::ALL.map(|state| {
                    let labels = PeerStateLabels { peer: peer.clone(), state: state.name() };
                    (labels, u64::from(view.state == state))
                })
            }),
        )?;
        families.counter(
            "fleet_sent_flows",
            "Flows that the other node was told of, updates included",
            peers().map(|(peer, view)| (peer, view.sent_flows)),
        )?;
        families.counter(
            "fleet_received_flows",
            "Flows that the other node has told of, updates included",
            peers().map(|(peer, view)| (peer, view.received_flows)),
        )?;
        families.counter(
            "fleet_refused_flows",
            "Flows of the other node that were not taken over, by reason; a reason is absent until it occurs",
            peers().flat_map(|(peer, view)| {
                view.refused_flows.iter().map(move |(reason, flows)| {
                    (PeerReasonLabels { peer: peer.clone(), reason: reason.clone() }, *flows)
                })
            }),
        )?;
        families.counter(
            "fleet_sent_bytes",
            "Bytes sent to the other node",
            peers().map(|(peer, view)| (peer, view.sent_bytes)),
        )?;
        families.counter(
            "fleet_resent_datagrams",
            "Datagrams that were sent again because the other node had not acknowledged them",
            peers().map(|(peer, view)| (peer, view.resent_datagrams)),
        )?;
        families.counter(
            "fleet_forged_datagrams",
            "Datagrams that came from the other node's address and were not its own, or were played back",
            peers().map(|(peer, view)| (peer, view.forged_datagrams)),
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
            "New flows",
            labelled().map(|(labels, view)| (labels, view.traffic.new_flows)),
        )?;
        families.gauge(
            "service_max_flows",
            "Maximum number of concurrent flows of the service; absent if unlimited",
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
        let slots = labelled().flat_map(|(service, view)| {
            let unsettled = [("moving", view.moving.moving_slots), ("recorded", view.moving.recorded_slots)];
            unsettled.map(|(state, slots)| (SlotLabels { service: service.clone(), state }, u64::from(slots)))
        });
        families.gauge(
            "service_unsettled_slots",
            "Slots of the ring that have moved: moving until all of their flows are recorded, then recorded until the last flow \
             of another backend has ended",
            slots,
        )?;
        families.gauge(
            "service_ring_slots",
            "Slots of the ring",
            labelled().map(|(labels, view)| (labels, u64::from(view.ring_slots))),
        )?;
        families.histogram(
            "service_check_seconds",
            "Durations of successful health checks",
            labelled().filter_map(|(labels, view)| Some((labels, view.check_seconds.clone()?))),
        )?;
        families.gauge(
            "service_panic",
            "1 while backends that are down take new flows because too few others are up, else 0",
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
            "1 if the last lookup of the service's backends succeeded, else 0",
            labelled().map(|(labels, view)| {
                (
                    labels,
                    u64::from(view.failing_since_seconds.is_none() && view.last_answer_seconds.is_some()),
                )
            }),
        )?;
        families.gauge(
            "discovery_age_seconds",
            "Time since the last successful lookup",
            labelled().filter_map(|(labels, view)| Some((labels, view.last_answer_seconds?))),
        )?;
        families.counter(
            "discovery_answers",
            "Successful lookups",
            labelled().map(|(labels, view)| (labels, view.answers)),
        )?;
        families.counter(
            "discovery_failures",
            "Failed lookups",
            labelled().map(|(labels, view)| (labels, view.failures)),
        )?;
        families.gauge(
            "discovery_backends",
            "Discovered backends in use",
            labelled().map(|(labels, view)| (labels, u64::from(view.found))),
        )?;
        families.gauge(
            "discovery_leaving_backends",
            "Backends that are no longer found and are draining",
            labelled().map(|(labels, view)| (labels, u64::from(view.leaving))),
        )
    }

    fn backends(&self, families: &mut Families<'_>) -> fmt::Result {
        self.backend_traffic(families)?;
        self.backend_states(families)?;
        self.backend_load(families)
    }

    fn labelled_backends(&self) -> impl Iterator<Item = (BackendLabels, &BackendView)> {
        self.status.backends.iter().map(|backend| (backend_labels(backend), backend))
    }

    fn backend_traffic(&self, families: &mut Families<'_>) -> fmt::Result {
        let labelled = || self.labelled_backends();
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
            "New flows",
            labelled().map(|(labels, view)| (labels, view.traffic.new_flows)),
        )?;
        families.counter(
            "backend_accepted",
            "SYNs that the backend accepted, if its replies pass this host",
            labelled().map(|(labels, view)| (labels, view.traffic.accepted)),
        )?;
        families.counter(
            "backend_resets",
            "Connections that the backend refused or reset, if its replies pass this host",
            labelled().map(|(labels, view)| (labels, view.traffic.resets)),
        )
    }

    fn backend_states(&self, families: &mut Families<'_>) -> fmt::Result {
        let labelled = || self.labelled_backends();
        families.gauge(
            "backend_up",
            "1 if the backend takes new flows, else 0",
            labelled().map(|(labels, view)| (labels, u64::from(view.state.takes_new_flows()))),
        )?;
        families.gauge(
            "backend_state",
            "The state of the backend; always 1",
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
            "The part of its weight that the backend has now; 1: all of it",
            labelled().map(|(labels, view)| (labels, view.weight_ratio)),
        )?;
        families.gauge(
            "backend_agent_up",
            "1 if the backend's agent gave a valid answer, else 0",
            labelled().filter_map(|(labels, view)| {
                Some((labels, u64::from(view.agent.as_ref()?.trouble.is_none())))
            }),
        )?;
        families.counter(
            "backend_ejections",
            "Times the backend's circuit breaker has opened",
            labelled().map(|(labels, view)| (labels, view.ejections)),
        )
    }

    fn backend_load(&self, families: &mut Families<'_>) -> fmt::Result {
        let labelled = || self.labelled_backends();
        families.gauge(
            "backend_share_ratio",
            "The backend's share of new flows, 0 to 1",
            labelled().map(|(labels, view)| (labels, view.share)),
        )?;
        families.gauge(
            "backend_portion_ratio",
            "The part that the backend gets of the share of its weight, 0 to 1; less than 1 during slow start",
            labelled().map(|(labels, view)| (labels, view.portion)),
        )?;
        families.gauge(
            "backend_flows",
            "Active flows of the backend",
            labelled().map(|(labels, view)| (labels, view.flows)),
        )?;
        families.gauge(
            "backend_max_flows",
            "Maximum number of concurrent flows of the backend; absent if unlimited",
            labelled()
                .filter(|(_, view)| view.max_flows != 0)
                .map(|(labels, view)| (labels, u64::from(view.max_flows))),
        )?;
        let checks = labelled().flat_map(|(backend, view)| {
            let ChecksView { passed, failed, not_made } = view.checks;
            let results = [("passed", passed), ("failed", failed), ("not_made", not_made)];
            results.map(|(result, checks)| (CheckLabels { backend: backend.clone(), result }, checks))
        });
        families.counter(
            "backend_checks",
            "Health checks by result: passed, failed, or not made because of this host",
            checks,
        )?;
        families.gauge(
            "backend_check_duration_seconds",
            "Duration of the last health check",
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
        families.counter("packets_passed", "Packets passed to the host, by reason", of(Kind::Pass))?;
        families.counter(
            "packets_answered",
            "Packets answered by the program, by reason",
            of(Kind::Answer),
        )?;
        let lost = self.losses.iter().map(|loss| {
            let labels = LossLabels {
                interface: loss.interface.clone(),
                verdict: loss.verdict.clone(),
                error: loss.error.to_string(),
            };
            (labels, loss.packets)
        });
        families.counter(
            "interface_lost_packets",
            "Packets that the kernel dropped after they were forwarded, by interface, verdict and error number",
            lost,
        )
    }

    fn tables(&self, families: &mut Families<'_>) -> fmt::Result {
        let labelled =
            || self.status.tables.iter().map(|table| (TableLabels { table: table.name.clone() }, table));
        families.gauge(
            "table_entries",
            "Entries in use",
            labelled().map(|(labels, table)| (labels, table.used)),
        )?;
        families.gauge(
            "table_size",
            "Capacity of the table, in entries",
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
pub(super) struct Families<'a> {
    encoder: DescriptorEncoder<'a>,
    /// How many are still to be passed over; `None` behind the one that is wanted.
    before: Option<usize>,
}

impl<'a> Families<'a> {
    /// The one of this number, from 0.
    pub(super) fn new(encoder: DescriptorEncoder<'a>, number: usize) -> Self {
        Self { encoder, before: Some(number) }
    }

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

    fn histogram<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        metrics: impl IntoIterator<Item = (L, HistogramView)>,
    ) -> fmt::Result {
        let Some(mut family) = self.next(name, help, MetricType::Histogram)? else { return Ok(()) };
        for (labels, HistogramView { buckets, sum, count }) in metrics {
            // The last bucket has what is above all bounds.
            let bound = |bucket: &BucketView| (bucket.up_to.unwrap_or(f64::INFINITY), bucket.count);
            let buckets: Vec<_> = buckets.iter().map(bound).collect();
            family.encode_family(&labels)?.encode_histogram(
                sum,
                count,
                &buckets,
                None::<&HashMap<usize, Exemplar<NoLabelSet, f64>>>,
            )?;
        }
        Ok(())
    }

    pub(super) fn single_counter(
        &mut self,
        name: &str,
        help: &str,
        value: impl EncodeCounterValue,
    ) -> fmt::Result {
        self.next(name, help, MetricType::Counter)?
            .map_or(Ok(()), |mut family| family.encode_counter(&value, None::<&Exemplar<NoLabelSet, u64>>))
    }

    pub(super) fn single_gauge(
        &mut self,
        name: &str,
        help: &str,
        value: impl EncodeGaugeValue,
    ) -> fmt::Result {
        self.next(name, help, MetricType::Gauge)?.map_or(Ok(()), |mut family| family.encode_gauge(&value))
    }
}
