//! `xdp-lb counters`.

use clap::Args;
use comfy_table::Cell;
use xdp_lb_common::reason::Reason;

use super::Done;
use super::output::{Screen, number, text, words};
use super::pinned::PinPath;
use super::repeat::Repeat;
use super::units::{counted, grouped, rate};
use crate::api::client::Client;
use crate::report::documents::{CounterView, CountersView, EvictionView, LossView, RefusalView};

/// Show why packets were dropped or passed to the host: every counter with its meaning
///
/// Counters that are zero are left out of the table. With --output json, all counters are printed, unless with --nonzero.
#[derive(Clone, Debug, Args)]
pub(super) struct Counters {
    /// Also list the counters that are zero
    #[arg(long, conflicts_with = "nonzero")]
    all: bool,
    /// Only counters that are not zero, also with --output json; with --rate, only those that rise now
    #[arg(long)]
    nonzero: bool,
    /// Also show packets per second over the last few seconds, and begin with the highest
    #[arg(long)]
    rate: bool,
    /// Only what is known to be of this service, by backend, since the daemon started
    #[arg(long, value_name = "NAME", conflicts_with_all = ["all", "nonzero", "rate"])]
    service: Option<String>,
    #[command(flatten)]
    repeat: Repeat,
    #[command(flatten)]
    pinned: PinPath,
}

impl Counters {
    pub(super) async fn execute(self, client: &Client, screen: &Screen) -> anyhow::Result<Done> {
        self.repeat.show(screen, async || Ok(self.show(client, screen).await?.into())).await
    }

    async fn show(&self, client: &Client, screen: &Screen) -> anyhow::Result<String> {
        if let Some(name) = &self.service {
            let refusals = client.service(name).await?.refusals;
            return screen.show(&refusals, || refused(screen, &refusals));
        }
        let CountersView { mut counters, losses, refusals, evictions } = self.pinned.counters(client).await?;
        let all = counters.len();
        if self.nonzero {
            counters.retain(|it| if self.rate { it.packets_per_second > 0.0 } else { it.packets > 0 });
        }
        if self.rate {
            counters.sort_by(|one, other| other.packets_per_second.total_cmp(&one.packets_per_second));
        }
        let view = CountersView { counters, losses, refusals, evictions };
        screen.show(&view, || {
            self.table(screen, &view.counters, all)
                + &evicted(screen, &view.evictions)
                + &lost(screen, &view.losses)
        })
    }

    /// The table of these counters, of so many.
    fn table(&self, screen: &Screen, counters: &[CounterView], all: usize) -> String {
        let shown: Vec<_> = counters.iter().filter(|it| self.all || it.packets > 0).collect();
        if shown.is_empty() {
            return if self.nonzero && self.rate {
                "no packet was dropped, answered or passed to the host within the last few seconds".into()
            } else {
                "no packet was dropped, answered or passed to the host; to list all counters: xdp-lb counters --all"
                    .into()
            };
        }
        let rates = self.rate.then(|| number("RATE"));
        let head = [text("VERDICT").leaves(1), text("NAME"), number("PACKETS")];
        let columns: Vec<_> = head.into_iter().chain(rates).chain([words("MEANING")]).collect();
        let rows = shown.iter().map(|counter| {
            let head =
                [Cell::new(&counter.verdict), Cell::new(&counter.name), Cell::new(grouped(counter.packets))];
            let rates = self.rate.then(|| Cell::new(rate(counter.packets_per_second)));
            head.into_iter().chain(rates).chain([Cell::new(&counter.meaning)]).collect()
        });
        let table = screen.table(&columns, rows);
        match all - shown.len() {
            0 => table,
            _ if self.nonzero => table,
            zero => format!(
                "{table}{} at zero; to list them: xdp-lb counters --all\n",
                counted(zero as u64, "counter")
            ),
        }
    }
}

/// The table of what was not forwarded of a service.
pub(super) fn refused(screen: &Screen, refusals: &[RefusalView]) -> String {
    if refusals.is_empty() {
        return "no packet of this service was dropped, answered or passed to the host since the daemon started"
            .into();
    }
    let columns =
        [text("VERDICT").leaves(1), text("NAME"), text("BACKEND"), number("PACKETS"), words("MEANING")];
    let rows = refusals.iter().map(|it| {
        let meaning = Reason::ALL.iter().find(|reason| reason.name() == it.reason);
        vec![
            Cell::new(&it.verdict),
            Cell::new(&it.reason),
            Cell::new(it.backend.map_or_else(|| "-".to_owned(), |backend| backend.to_string())),
            Cell::new(grouped(it.packets)),
            Cell::new(meaning.map_or("", |reason| reason.words())),
        ]
    });
    screen.table(&columns, rows)
}

/// Flows that lost their records to others.
pub(super) fn evicted(screen: &Screen, evictions: &[EvictionView]) -> String {
    let shown: Vec<_> = evictions.iter().filter(|it| it.flows > 0).collect();
    if shown.is_empty() {
        return String::new();
    }
    let columns = [text("EVICTED FOR"), number("FLOWS"), words("MEANING")];
    let rows = shown.iter().map(|it| {
        let meaning = if it.cause == "room" {
            "unproven flows whose records new ones took in the flow table: raise limits.flows if this keeps rising"
        } else {
            "unproven flows whose source ports new ones took: widen snat_ports or add snat_addresses if this keeps rising"
        };
        vec![Cell::new(&it.cause), Cell::new(grouped(it.flows)), Cell::new(meaning)]
    });
    format!("\n{}", screen.table(&columns, rows))
}

/// What the kernel dropped after the program's verdict.
fn lost(screen: &Screen, losses: &[LossView]) -> String {
    if losses.is_empty() {
        return String::new();
    }
    let columns = [
        text("LOST AT"),
        text("VERDICT").leaves(1),
        number("ERROR").leaves(2),
        number("PACKETS"),
        words("CAUSE AND FIX"),
    ];
    let rows = losses.iter().map(|loss| {
        vec![
            Cell::new(&loss.interface),
            Cell::new(&loss.verdict),
            Cell::new(loss.error),
            Cell::new(grouped(loss.packets)),
            Cell::new(format!("{}: {}", loss.cause, loss.fix)),
        ]
    });
    format!("\n{}", screen.table(&columns, rows))
}
