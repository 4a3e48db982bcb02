//! `xdp-lb counters`.

use clap::Args;
use comfy_table::Cell;

use super::output::{Screen, number, text, words};
use super::units::{counted, grouped};
use crate::api::client::Client;
use crate::report::documents::{CounterView, LossView};

/// Show why packets were dropped or passed to the host: every counter with its meaning
///
/// Counters that are zero are left out of the table. With --output json, all counters are printed.
#[derive(Debug, Args)]
pub(super) struct Counters {
    /// Also list the counters that are zero
    #[arg(long)]
    all: bool,
}

impl Counters {
    pub(super) async fn execute(self, client: &Client, screen: &Screen) -> anyhow::Result<String> {
        let view = client.counters().await?;
        screen.show(&view, || self.table(screen, &view.counters) + &losses(screen, &view.losses))
    }

    fn table(&self, screen: &Screen, counters: &[CounterView]) -> String {
        let shown: Vec<_> = counters.iter().filter(|it| self.all || it.packets > 0).collect();
        if shown.is_empty() {
            return "no packet was dropped, answered or passed to the host; to list all counters: xdp-lb counters --all"
                .into();
        }
        let columns = [text("VERDICT"), text("NAME"), number("PACKETS"), words("MEANING")];
        let rows = shown.iter().map(|counter| {
            vec![
                Cell::new(&counter.verdict),
                Cell::new(&counter.name),
                Cell::new(grouped(counter.packets)),
                Cell::new(&counter.meaning),
            ]
        });
        let table = screen.table(&columns, rows);
        match counters.len() - shown.len() {
            0 => table,
            zero => format!(
                "{table}{} at zero; to list them: xdp-lb counters --all\n",
                counted(zero as u64, "counter")
            ),
        }
    }
}

/// What the kernel dropped after the program's verdict.
fn losses(screen: &Screen, losses: &[LossView]) -> String {
    if losses.is_empty() {
        return String::new();
    }
    let columns =
        [text("LOST AT"), text("VERDICT"), number("ERROR"), number("PACKETS"), words("CAUSE AND FIX")];
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
