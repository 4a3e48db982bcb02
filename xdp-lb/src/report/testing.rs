//! Documents with a value in each field, for tests of their display.

use std::time::Duration;

use xdp_lb_common::reason::Reason;

use super::documents::{
    BackendView, BucketView, ChecksView, CounterView, HistogramView, InterfaceView, LastReloadView, LossView,
    MovingView, NextHopView, ServiceView, StatusView, TableView, TrafficView, VipView,
};
use crate::model::state::{AdminState, BackendState, HealthState, Origin, VipState};
use crate::model::{Attach, Backend, HealthCheck, Http, Probe, Service};

pub(crate) fn status() -> StatusView {
    StatusView {
        version: "0.1.0".into(),
        host: "lb-1".into(),
        pid: 4242,
        uptime_seconds: 312,
        adopted: true,
        config_file: "/etc/xdp-lb/config.toml".into(),
        pin_path: "/sys/fs/bpf/xdp-lb".into(),
        trouble: None,
        troubles: vec![],
        restored: 3,
        admin: AdminState::Enabled,
        upgrade: None,
        reload: LastReloadView { success_time: 1_800_000_100, error: None },
        interfaces: vec![
            interface("eth0", 2, Some(Attach::Xdp), None),
            interface("eth1", 3, Some(Attach::Tc), Some("the driver of eth1 has no XDP")),
            interface("eth2", 0, None, Some("not attached: the interface is gone")),
        ],
        vips: vec![VipView {
            address: "192.0.2.10".parse().unwrap(),
            state: VipState::Present,
            interface: Some("eth0".into()),
            added_by_daemon: true,
            note: None,
        }],
        services: vec![service("web", "192.0.2.10:80"), service("web6", "[2001:db8::10]:80")],
        backends: vec![
            backend("web", "198.51.100.11:8080"),
            backend("web", "198.51.100.12:8080"),
            backend("web6", "[2001:db8:1::11]:8080"),
        ],
        tables: vec![TableView { name: "flows".into(), used: 524_288, size: 1_048_576 }],
        tables_bytes: Some(412 << 20),
        dropped_packets: 7,
        passed_packets: 1_234_567,
        dropped_per_second: 0.0,
        passed_per_second: 12.5,
    }
}

fn interface(name: &str, index: u32, mode: Option<Attach>, note: Option<&str>) -> InterfaceView {
    InterfaceView { name: name.into(), index, mode, up: true, note: note.map(str::to_owned) }
}

pub(crate) fn service(name: &str, vip: &str) -> ServiceView {
    ServiceView {
        options: Service {
            down_grace: Some(Duration::from_secs(2)),
            health_check: Some(HealthCheck::new(Probe::Http(Http::get("/healthz")))),
            ..Service::new(name, vip.parse().unwrap())
        },
        moving: MovingView::default(),
        check_seconds: Some(HistogramView {
            buckets: vec![BucketView { up_to: Some(0.001), count: 3 }, BucketView { up_to: None, count: 1 }],
            sum: 1.25,
            count: 4,
        }),
        panic: None,
        admin: AdminState::Enabled,
        discovery: None,
        origin: Origin::File,
        leaving: false,
        unused: vec![],
        backends: 2,
        backends_serving: 2,
        ring_slots: 251,
        traffic: TrafficView { packets_in: 1000, bytes_in: 64_000, new_flows: 10, ..Default::default() },
    }
}

pub(crate) fn backend(service: &str, address: &str) -> BackendView {
    BackendView {
        flows_known_in_seconds: None,
        service: service.into(),
        options: Backend::new(address.parse().unwrap(), 100),
        weight_ratio: 1.0,
        share: 0.5,
        portion: 1.0,
        tried_in_seconds: None,
        ejections: 0,
        agent: None,
        state: BackendState::Up,
        reason: "HTTP 200 in 1.2 ms".into(),
        since_seconds: 312,
        admin: AdminState::Enabled,
        health: HealthState::Up,
        checks: ChecksView { passed: 300, failed: 7, not_made: 1 },
        check_latency_seconds: Some(0.0012),
        check_latency_average_seconds: Some(0.0013),
        next_hop: Some(NextHopView {
            interface: "eth1".into(),
            mac: "02:00:00:00:00:11".into(),
            vlan: None,
            mtu: 1500,
        }),
        origin: Origin::File,
        leaving: false,
        leaves_in_seconds: None,
        flows: 42,
        flows_complete: true,
        traffic: TrafficView {
            packets_in: 500,
            bytes_in: 32_000,
            new_flows: 5,
            packets_per_second: 1234.0,
            bytes_per_second: 3_400_000.0,
            new_flows_per_second: 12.0,
            ..Default::default()
        },
    }
}

pub(crate) fn counters() -> Vec<CounterView> {
    let counters = Reason::ALL.iter().map(|reason| CounterView {
        name: reason.name().into(),
        verdict: reason.kind().name().into(),
        packets: *reason as u64 * 10,
        packets_per_second: 0.0,
        meaning: reason.words().into(),
    });
    counters.collect()
}

pub(crate) fn losses() -> Vec<LossView> {
    vec![LossView {
        interface: "eth1".into(),
        verdict: "redirect".into(),
        error: 95,
        packets: 20,
        cause: "the driver of eth1 does not transmit redirected frames".into(),
        fix: "write attach = \"tc\"".into(),
    }]
}
