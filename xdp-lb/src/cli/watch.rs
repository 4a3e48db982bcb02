//! `xdp-lb watch`.

use std::io::{self, Write};
use std::time::Duration;

use clap::Args;

use super::output::Screen;
use super::units::number_of;
use crate::api::client::{self, Client, Error};

/// How often to retry while there is no daemon.
const AGAIN: Duration = Duration::from_secs(1);

/// Print events as they happen: backends up, down and draining, services, the node, interfaces, reloads
///
/// Prints one line per event until Ctrl-C, or one document per line with --output json. If the daemon restarts, it
/// waits for it, and says where events may have been missed.
#[derive(Debug, Args)]
pub(super) struct Watch {
    /// Stop after this many events
    #[arg(long, value_name = "N", value_parser = number_of(1..=u64::MAX))]
    count: Option<u64>,
    /// Also a sample of dropped packets: the first of each reason and source in a second, at most 20 a second
    #[arg(long)]
    drops: bool,
}

impl Watch {
    pub(super) async fn execute(
        self,
        client: &Client,
        screen: &Screen,
        mut print: impl FnMut(&str) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let mut watch = open(client, self.drops, None).await?;
        let (mut last, mut printed) = (None, 0);
        while self.count.is_none_or(|count| printed < count) {
            match watch.next().await {
                Ok(Some(event)) => {
                    if !print(&screen.line(&event, || format!("{} {}", event.time, event.event))?)? {
                        return Ok(());
                    }
                    printed += 1;
                    last = Some(event.id);
                }
                Ok(None) | Err(Error::Broken { .. }) => {
                    let _ = writeln!(io::stderr(), "the daemon has stopped; waiting for it to come back");
                    watch = again(client, self.drops, last.as_deref()).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

async fn open(client: &Client, drops: bool, after: Option<&str>) -> client::Result<client::Watch> {
    if drops { client.watch_drops(after).await } else { client.watch(after).await }
}

/// Reconnects to a restarted daemon.
async fn again(client: &Client, drops: bool, last: Option<&str>) -> anyhow::Result<client::Watch> {
    loop {
        tokio::time::sleep(AGAIN).await;
        // A watcher that has seen no event yet may have missed some, too.
        match open(client, drops, Some(last.unwrap_or("0-0"))).await {
            Err(Error::NoDaemon(_) | Error::Broken { .. }) => {}
            watch => return Ok(watch?),
        }
    }
}
