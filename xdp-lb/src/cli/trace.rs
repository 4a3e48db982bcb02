//! `xdp-lb trace`.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;

use super::output::Screen;
use super::pcapng::Capture;
use super::units::{counted, number_of, parse_span};
use crate::api::client::Client;
use crate::model::request::TraceRequest;
use crate::model::text::parse_endpoint;
use crate::report::trace::TraceView;

/// Follow packets: what came, what became of it and why, and what left
///
/// Prints a line for each packet that is all that is asked for; without options, any. Ends after --count packets or --time. While it
/// runs, the daemon has a program that follows packets in the place of the other one, which costs each packet some time; nobody
/// else pays for it. For administrators only.
#[derive(Debug, Args)]
pub(super) struct Trace {
    /// Only packets from or to this network or address
    #[arg(long, value_name = "PREFIX")]
    client: Option<String>,
    /// Only packets to and from the VIP of this service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Only packets to and from this backend
    #[arg(long, value_name = "ADDR:PORT", value_parser = parse_endpoint)]
    backend: Option<SocketAddr>,
    /// Only packets that are not forwarded for this reason: a name of `xdp-lb counters --all`
    #[arg(long, value_name = "NAME")]
    reason: Option<String>,
    /// Stop after this many packets
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = number_of(1..=TraceRequest::MOST_PACKETS))]
    count: u32,
    /// Stop after this time, at most 10m
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_span)]
    time: Duration,
    /// Also write the packets, before and after, to this file (pcapng), with what became of them as comments
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
    /// With their payload, up to 2,048 bytes a packet, not only their headers
    #[arg(long)]
    payload: bool,
}

impl Trace {
    pub(super) async fn execute(
        self,
        client: &Client,
        screen: &Screen,
        mut print: impl FnMut(&str) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let seconds = u32::try_from(self.time.as_millis().div_ceil(1000)).unwrap_or(u32::MAX);
        let request = TraceRequest {
            client: self.client,
            service: self.service,
            backend: self.backend,
            reason: self.reason,
            count: self.count,
            seconds,
            payload: self.payload,
        };
        let mut packets = client.trace(&request).await?;
        let mut capture = self.pcap.as_ref().map(|path| -> anyhow::Result<_> {
            let file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
            Ok(Capture::new(BufWriter::new(file))?)
        });
        let mut capture = capture.take().transpose()?;
        let (mut shown, mut skipped) = (0, 0);
        while let Some(packet) = packets.next().await? {
            shown += 1;
            skipped += packet.skipped;
            if let Some(capture) = &mut capture {
                capture.write(&packet).context("cannot write the packets")?;
            }
            if !print(&screen.line(&packet, || line(&packet))?)? {
                break;
            }
        }
        if let Some(capture) = capture {
            capture.finish().context("cannot write the packets")?;
        }
        let skipped = match skipped {
            0 => String::new(),
            skipped => format!("; {} came too fast to be shown", counted(skipped, "more packet")),
        };
        // A closed stderr is not an error.
        let _ = writeln!(io::stderr(), "{}{skipped}", counted(shown, "packet"));
        Ok(())
    }
}

fn line(packet: &TraceView) -> String {
    let TraceView { time, before, decision, service, after, reason, .. } = packet;
    let service = service.as_ref().map_or_else(String::new, |service| format!("{service}: "));
    let reason = reason.as_ref().map_or_else(String::new, |reason| format!("{reason}: "));
    let left = after
        .as_ref()
        .map_or_else(String::new, |after| format!(" | out {} {}", after.interface, after.summary));
    format!("{time} in {} {} | {service}{reason}{decision}{left}", before.interface, before.summary)
}
