//! How the flows of many clients are distributed.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use xdp_lb_common::reason::Reason;
use xdp_lb_common::tables::BackendIndex;

use super::asker::{Asker, Outcome};
use super::document::SpreadView;
use crate::datapath::explain::Processed;
use crate::model::refusal::Answer;

/// A flow's target.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Target {
    Backend(BackendIndex, SocketAddr),
    Nowhere(Option<Reason>),
}

impl Asker<'_> {
    /// The targets of the requested number of clients' flows, including the first one's.
    pub(super) fn spread(&self, first: &Processed) -> Answer<Vec<SpreadView>> {
        let mut targets: HashMap<Target, u64> = HashMap::new();
        *targets.entry(self.target(first)).or_default() += 1;
        for number in 1..self.request.clients {
            let processed = self.process(client(self.request.client, number))?;
            *targets.entry(self.target(&processed)).or_default() += 1;
        }
        let shares = self.ring_shares(first);
        let mut spread: Vec<_> =
            targets.into_iter().map(|(target, flows)| self.entry(target, flows, &shares)).collect();
        spread.sort_by_key(|it| (std::cmp::Reverse(it.flows), it.backend));
        Ok(spread)
    }

    fn entry(&self, target: Target, flows: u64, shares: &HashMap<BackendIndex, f64>) -> SpreadView {
        let share = flows as f64 / f64::from(self.request.clients);
        match target {
            Target::Backend(index, address) => SpreadView {
                backend: Some(address),
                reason: None,
                flows,
                share,
                ring_share: Some(shares.get(&index).copied().unwrap_or_default()),
            },
            Target::Nowhere(reason) => SpreadView {
                backend: None,
                reason: reason.map(|reason| reason.name().into()),
                flows,
                share,
                ring_share: None,
            },
        }
    }

    fn target(&self, processed: &Processed) -> Target {
        match Outcome::of(processed) {
            Outcome { reason: None, backend: Some((index, backend)) } => {
                Target::Backend(index, self.address(&backend))
            }
            Outcome { reason, .. } => Target::Nowhere(reason),
        }
    }

    /// The part of the service's ring that each backend owns.
    fn ring_shares(&self, processed: &Processed) -> HashMap<BackendIndex, f64> {
        let mut shares = HashMap::new();
        if let Some((_, service)) = processed.service() {
            let ring = self.snapshot.tables.ring(&service);
            for slot in ring {
                *shares.entry(slot.owner()).or_default() += 1.0 / ring.len() as f64;
            }
        }
        shares
    }
}

/// The client with this number: addresses and ports are counted from the first one's.
fn client(first: SocketAddr, number: u32) -> SocketAddr {
    let address = match first.ip() {
        IpAddr::V4(v4) => IpAddr::from(v4.to_bits().wrapping_add(number).to_be_bytes()),
        IpAddr::V6(v6) => IpAddr::from(v6.to_bits().wrapping_add(u128::from(number)).to_be_bytes()),
    };
    let port = (u32::from(first.port()).saturating_sub(1) + number) % u32::from(u16::MAX) + 1;
    SocketAddr::new(address, port as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_follow_the_first_one() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert_eq!(client(at("192.0.2.2:1234"), 1), at("192.0.2.3:1235"));
        assert_eq!(client(at("192.0.2.255:65535"), 1), at("192.0.3.0:1"));
        assert_eq!(client(at("[2001:db8::ffff]:1"), 2), at("[2001:db8::1:1]:3"));
    }
}
