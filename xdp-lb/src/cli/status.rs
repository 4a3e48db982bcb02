//! `xdp-lb status`.

use std::process::ExitCode;

use clap::Args;
use comfy_table::Cell;

use super::output::{Screen, number, text, words};
use super::pinned::PinPath;
use super::repeat::Repeat;
use super::units::{counted, grouped, percent, span};
use super::{Done, IN_TROUBLE, backend, discovery, fleet, service};
use crate::api::client::Client;
use crate::model::state::{AdminState, BackendState};
use crate::report::documents::{BackendView, InterfaceView, ServiceView, StatusView};

/// Maximum number of backends on one screen.
const MAX_BACKENDS: usize = 30;

/// Maximum number of services, and of VIPs.
const MAX_SERVICES: usize = 30;

/// Maximum number of lines of a kind.
const MAX_LINES: usize = 10;

/// Show everything on one screen: interfaces, services, backends, health, rates
///
/// If no daemon is running, shows what it has left, by which forwarding goes on.
#[derive(Clone, Debug, Args)]
pub(super) struct Status {
    #[command(flatten)]
    repeat: Repeat,
    #[command(flatten)]
    pinned: PinPath,
}

impl Status {
    pub(super) async fn execute(self, client: &Client, screen: &Screen) -> anyhow::Result<Done> {
        let show = async || {
            let status = match client.status().await {
                Ok(status) => status,
                Err(error) => return self.pinned.status(error, screen),
            };
            let code = if status.trouble.is_some() { ExitCode::from(IN_TROUBLE) } else { ExitCode::SUCCESS };
            Ok(Done { text: screen.show(&status, || one_screen(screen, &status))?, code })
        };
        self.repeat.show(screen, show).await
    }
}

pub(super) fn one_screen(screen: &Screen, status: &StatusView) -> String {
    let adopted = if status.adopted { ", took over from the previous daemon" } else { "" };
    let head = format!(
        "xdp-lb {}, up {}, pid {}{adopted}\nconfig {}, pins {}\n",
        status.version,
        span(status.uptime_seconds),
        status.pid,
        status.config_file,
        status.pin_path
    );
    let packets = format!(
        "{} dropped, {} passed to the host; reasons: xdp-lb counters\n",
        counted(status.dropped_packets, "packet"),
        grouped(status.passed_packets)
    );
    let node = match status.admin {
        AdminState::Enabled => "",
        AdminState::Draining if status.vips.is_empty() => {
            "DRAINED until xdp-lb node undrain. The daemon does not manage the VIPs (no vips.interface): remove \
             their addresses or routes yourself\n"
        }
        AdminState::Draining => "DRAINED: the VIPs are withdrawn until xdp-lb node undrain\n",
    };
    let trouble = status.trouble.as_ref().map(|trouble| format!("TROUBLE: {trouble}\n"));
    let parts = [
        trouble.unwrap_or_default() + node + &head,
        interfaces(screen, status) + &vips(screen, status),
        status.fleet.as_ref().map(|it| fleet::shown(screen, it)).unwrap_or_default(),
        services(screen, &status.services)
            + &drained(&status.services)
            + &panics(&status.services)
            + &moving(&status.services)
            + &discovery_troubles(&status.services),
        backends(screen, &status.backends),
        tables(screen, status),
        packets,
    ];
    // Without a fleet, there is nothing to be said of one.
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n")
}

/// All services if they fit; else those without serving backends, or in panic.
fn services(screen: &Screen, services: &[ServiceView]) -> String {
    if services.len() <= MAX_SERVICES {
        return line(service::table(screen, services));
    }
    let is_troubled = |service: &&ServiceView| service.backends_serving == 0 || service.panic.is_some();
    let troubled: Vec<_> = services.iter().filter(is_troubled).cloned().collect();
    let well = counted((services.len() - troubled.len()) as u64, "service");
    let shown = &troubled[..troubled.len().min(MAX_SERVICES)];
    let table = if shown.is_empty() { String::new() } else { line(service::table(screen, shown)) };
    match troubled.len() - shown.len() {
        0 => format!("{table}{well} with serving backends; to list them: xdp-lb service list\n"),
        hidden => format!(
            "{table}{} more without, {well} with serving backends; to list them: xdp-lb service list\n",
            grouped(hidden as u64)
        ),
    }
}

/// The first lines, and the number of others.
fn few(lines: impl IntoIterator<Item = String>, more: &str) -> String {
    let mut lines: Vec<String> = lines.into_iter().collect();
    let hidden = lines.len().saturating_sub(MAX_LINES);
    lines.truncate(MAX_LINES);
    lines.extend((hidden > 0).then(|| format!("{} {more}\n", counted(hidden as u64, "more service"))));
    lines.concat()
}

/// A line for each drained service.
fn drained(services: &[ServiceView]) -> String {
    let drained = services.iter().filter(|service| service.admin == AdminState::Draining);
    let line = |service: &ServiceView| {
        let name = &service.name;
        format!("{name}: DRAINED: no new flows until xdp-lb service enable {name}\n")
    };
    few(drained.map(line), "drained: xdp-lb service show NAME")
}

/// A line for each service in panic.
fn panics(services: &[ServiceView]) -> String {
    let line = |service: &ServiceView| {
        Some(format!(
            "{}: PANIC: backends that are down take flows: {}\n",
            service.name,
            service.panic.as_ref()?
        ))
    };
    few(services.iter().filter_map(line), "in panic: xdp-lb service show NAME")
}

/// A line for each service whose ring is rebalancing.
fn moving(services: &[ServiceView]) -> String {
    let line = |service: &ServiceView| Some(format!("{}: {}\n", service.name, service::moving(service)?));
    few(services.iter().filter_map(line), "rebalancing: xdp-lb service show NAME")
}

/// A line for each problem of a service's discovery, and each unused backend.
fn discovery_troubles(services: &[ServiceView]) -> String {
    let lines = services
        .iter()
        .flat_map(|service| service.discovery.iter().flat_map(|it| discovery::troubles(&service.name, it)));
    let unused = services.iter().filter(|service| service.discovery.is_none());
    let unused = unused.flat_map(|service| service.unused.iter().map(|it| format!("{}: {it}", service.name)));
    few(lines.chain(unused).map(|line| line + "\n"), "with problems: xdp-lb service show NAME")
}

fn interfaces(screen: &Screen, status: &StatusView) -> String {
    let columns = [text("INTERFACE"), text("PROGRAM"), words("NOTE")];
    let rows = status.interfaces.iter().map(|interface| {
        vec![
            Cell::new(&interface.name),
            Cell::new(interface.mode.map_or("none".into(), |mode| mode.to_string())),
            Cell::new(note(interface)),
        ]
    });
    screen.table(&columns, rows)
}

/// The VIPs that the daemon manages; nothing if there are none.
fn vips(screen: &Screen, status: &StatusView) -> String {
    if status.vips.is_empty() {
        return String::new();
    }
    let columns = [text("VIP"), text("STATE"), text("INTERFACE"), words("NOTE")];
    let rows = status.vips.iter().take(MAX_SERVICES).map(|vip| {
        let is_foreign = vip.interface.is_some() && !vip.added_by_daemon;
        let foreign = is_foreign.then(|| "not added by the daemon, which leaves it alone".to_owned());
        vec![
            Cell::new(vip.address),
            Cell::new(vip.state.name()),
            Cell::new(vip.interface.as_deref().unwrap_or("-")),
            Cell::new(vip.note.clone().or(foreign).unwrap_or_default()),
        ]
    });
    let more = match status.vips.len().saturating_sub(MAX_SERVICES) {
        0 => String::new(),
        hidden => format!("{}: xdp-lb status --output json\n", counted(hidden as u64, "more VIP")),
    };
    format!("\n{}{more}", line(screen.table(&columns, rows)))
}

fn note(interface: &InterfaceView) -> String {
    let note = interface.note.clone().unwrap_or_default();
    match interface.up || interface.mode.is_none() {
        true => note,
        false if note.is_empty() => "the link is down".into(),
        false => format!("the link is down; {note}"),
    }
}

/// Whether a backend is in order.
fn is_well(backend: &BackendView) -> bool {
    matches!(backend.state, BackendState::Up | BackendState::Standby)
}

/// All backends if they fit; else those that are not up.
fn backends(screen: &Screen, backends: &[BackendView]) -> String {
    if backends.len() <= MAX_BACKENDS {
        return line(backend::table(screen, backends));
    }
    let troubled: Vec<_> = backends.iter().filter(|backend| !is_well(backend)).cloned().collect();
    let up = counted((backends.len() - troubled.len()) as u64, "backend");
    let shown = &troubled[..troubled.len().min(MAX_BACKENDS)];
    let table = if shown.is_empty() { String::new() } else { backend::table(screen, shown) };
    match troubled.len() - shown.len() {
        0 => format!("{table}{up} up; to list them: xdp-lb backend list\n"),
        hidden => format!(
            "{table}{} more not up, {up} up; to list them: xdp-lb backend list\n",
            grouped(hidden as u64)
        ),
    }
}

fn tables(screen: &Screen, status: &StatusView) -> String {
    let columns = [text("TABLE"), number("USED"), number("SIZE"), number("FULL")];
    let rows = status.tables.iter().map(|table| {
        let full = if table.size == 0 { 0.0 } else { table.used as f64 / table.size as f64 };
        vec![
            Cell::new(&table.name),
            Cell::new(grouped(table.used)),
            Cell::new(grouped(table.size)),
            Cell::new(percent(full)),
        ]
    });
    let memory = status.tables_bytes.map(|bytes| {
        format!("all tables together take {} MiB of memory\n", grouped(bytes.div_ceil(1 << 20)))
    });
    screen.table(&columns, rows) + memory.as_deref().unwrap_or_default()
}

fn line(text: String) -> String {
    if text.ends_with('\n') { text } else { text + "\n" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::Format;
    use crate::report;

    #[test]
    fn a_drained_node_without_vips_of_the_daemons_says_whose_task_they_are() {
        let screen = Screen { format: Format::Table, colour: false, width: None };
        let mut status = StatusView { admin: AdminState::Draining, ..report::testing::status() };
        assert!(one_screen(&screen, &status).starts_with("DRAINED: the VIPs are withdrawn until"));
        status.vips.clear();
        let said = one_screen(&screen, &status);
        assert!(
            said.starts_with("DRAINED until xdp-lb node undrain. The daemon does not manage the VIPs"),
            "{said}"
        );
    }
}
