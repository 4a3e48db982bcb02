//! What the daemon knows of services and backends.

use super::Finding;
use crate::model::Mode;
use crate::model::state::BackendState;
use crate::net::ingress;
use crate::report::documents::{BackendView, RecentView, ServiceView, StatusView};

/// How many backends of one service are named.
const NAMED: usize = 3;

pub(super) fn examine(daemon: &StatusView) -> Vec<Finding> {
    let mut findings = Vec::new();
    for service in &daemon.services {
        let backends: Vec<&BackendView> =
            daemon.backends.iter().filter(|backend| backend.service == service.name).collect();
        findings.extend(serving(service, &backends));
        findings.extend(discovery(service));
        for backend in backends {
            let silent = backend.recent.filter(|recent| recent.silent);
            findings.extend(silent.map(|recent| unanswered(service, backend, recent)));
        }
    }
    findings
}

/// Backends that take no flows, for reasons that no other check tells.
fn serving(service: &ServiceView, backends: &[&BackendView]) -> Option<Finding> {
    let name = &service.name;
    if backends.is_empty() {
        return Some(Finding::new(
            "services",
            format!("service {name} has no backends, so its clients are refused"),
            format!("add one: xdp-lb backend add {name} ADDR:PORT"),
        ));
    }
    // The next hop of those that are unresolved is told of by itself.
    let is_down =
        |backend: &&&BackendView| matches!(backend.state, BackendState::Down | BackendState::Ejected);
    let down: Vec<&&BackendView> = backends.iter().filter(is_down).collect();
    let first = down.first()?;
    let named: Vec<String> =
        down.iter().take(NAMED).map(|it| format!("{} ({})", it.address, it.reason)).collect();
    let more = match down.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let none = if service.backends_serving == 0 { "; no backend takes new flows" } else { "" };
    Some(Finding::new(
        "services",
        format!(
            "service {name}: {} of {} backends are down: {}{more}{none}",
            down.len(),
            backends.len(),
            named.join(", ")
        ),
        format!(
            "start or fix the server at {}; the daemon uses it again as soon as its check succeeds",
            first.address
        ),
    ))
}

fn discovery(service: &ServiceView) -> Option<Finding> {
    let view = service.discovery.as_ref()?;
    let since = view.failing_since_seconds?;
    let why = view.trouble.as_deref().unwrap_or("lookups fail");
    let fix =
        format!("fix what answers {}; xdp-lb service show {} shows when it does", view.source, service.name);
    Some(Finding::new(
        "discovery",
        format!(
            "service {}: backends have not been found for {since} s ({}): {why}",
            service.name, view.source
        ),
        fix,
    ))
}

/// A backend that gets flows and does not answer them.
fn unanswered(service: &ServiceView, backend: &BackendView, recent: RecentView) -> Finding {
    let what = format!(
        "service {}: backend {} is {}, but {} of {} new flows in {} s heard nothing from it",
        service.name,
        backend.address,
        backend.state.name(),
        recent.unanswered,
        recent.new_flows,
        recent.seconds
    );
    if service.mode != Mode::Nat {
        return Finding::new(
            "services",
            what,
            format!("see what keeps the server at {} from accepting connections", backend.address),
        );
    }
    let here =
        backend.next_hop.as_ref().and_then(|hop| ingress::address(&hop.interface, backend.address.ip()));
    let gateway = here.map_or_else(|| "THIS_HOST".to_owned(), |address| address.to_string());
    let family = if backend.address.is_ipv4() { "" } else { "-6 " };
    Finding::new(
        "services",
        format!("{what}: in mode nat, its replies must come back through this host"),
        format!("on the backend: ip {family}route replace default via {gateway}"),
    )
}
