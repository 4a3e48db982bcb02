//! The steps of a packet's processing, in words.

use std::net::IpAddr;

use xdp_lb_common::process::Verdict;
use xdp_lb_common::reason::Kind;
use xdp_lb_common::tables::filter::{BACKEND, VIP};
use xdp_lb_common::tables::flow::Stage;
use xdp_lb_common::tables::slot::Slot;
use xdp_lb_common::tables::{BackendIndex, BackendState, Mode, Service, SlotIndex, SourceVerdict};

use super::asker::{Asker, Outcome, kind_in_words};
use super::document::{ExplainStep, SentView};
use crate::datapath::explain::{Lookup, Processed};
use crate::model::Protocol;

impl Asker<'_> {
    /// Every decision, in order.
    pub(super) fn steps(&self, processed: &Processed, outcome: &Outcome) -> Vec<ExplainStep> {
        let service = processed.service().map(|(_, service)| service);
        let slot = first_slot(processed);
        let steps = [
            ("packet", Some(self.packet())),
            ("address", address(processed, self.request.vip.ip())),
            ("service", self.service_step(processed, service.as_ref())),
            ("access", access(processed)),
            ("rate", rate(processed)),
            ("limit", limit(processed)),
            ("slot", service.zip(slot).map(|(service, slot)| self.slot_step(processed, &service, slot))),
            ("record", service.map(|_| self.record_step(processed))),
            ("backend", self.backend_step(processed, outcome, slot.map(|(_, slot)| slot))),
            ("rewrite", self.rewrite_step(processed, outcome)),
            ("routes", routes(processed)),
            ("end", Some(self.end(processed, outcome))),
        ];
        let step = |(step, finding): (&str, Option<String>)| {
            Some(ExplainStep { step: step.to_owned(), finding: finding? })
        };
        steps.into_iter().filter_map(step).collect()
    }

    fn packet(&self) -> String {
        let request = self.request;
        let kind = match request.protocol {
            Protocol::Udp => "UDP".to_owned(),
            Protocol::Tcp => {
                let flags: Vec<String> =
                    request.flags.iter().map(|flag| flag.to_string().to_uppercase()).collect();
                format!("TCP {}", if flags.is_empty() { "without flags".into() } else { flags.join("+") })
            }
        };
        format!(
            "{kind} from {} to {}, arriving on {} for this host's MAC",
            request.client, request.vip, self.interface.name
        )
    }

    fn service_step(&self, processed: &Processed, service: Option<&Service>) -> Option<String> {
        if let Some(service) = service {
            let name = self.name(service).unwrap_or_else(|| format!("number {}", service.index.0));
            let ring = match service.ring_len {
                0 => "which has never had a backend".to_owned(),
                slots => format!("ring of {slots} slots"),
            };
            return Some(format!("{name}, mode {}, {ring}", mode(service)));
        }
        let is_asked = |lookup: &Lookup| matches!(lookup, Lookup::Service(..));
        processed.lookups.iter().any(is_asked).then(|| {
            let request = self.request;
            format!("none at {} port {} for {}", request.vip.ip(), request.vip.port(), request.protocol)
        })
    }

    fn slot_step(
        &self,
        processed: &Processed,
        service: &Service,
        (index, slot): (SlotIndex, Slot),
    ) -> String {
        let place = index.0.wrapping_sub(service.ring_offset.0);
        let owner = self.backend_name(processed, slot.owner());
        let state = if !slot.is_tracked() {
            "settled: flows need no record".to_owned()
        } else if slot.is_recorded() {
            "every older flow has a record".to_owned()
        } else {
            let prior = self.backend_name(processed, slot.prior());
            format!("moving: flows without a record are {prior}'s")
        };
        format!("{place} of {}, owner {owner}, {state}", service.ring_len)
    }

    fn record_step(&self, processed: &Processed) -> String {
        match (&processed.record, processed.wants_record) {
            (None, false) => "not looked for".to_owned(),
            (None, true) => "none: the flow is new, or its record is gone".to_owned(),
            (Some(record), wanted) => {
                let stage = match record.life().stage(record.protocol()) {
                    Stage::Closing => "closing",
                    Stage::HalfOpen => "half-open",
                    Stage::Established => "established",
                };
                let idle = record.life().idle(processed.now);
                let backend = record.destination().socket();
                let ignored = if wanted { "" } else { "; not looked for, because the slot is settled" };
                format!("{stage}, to {backend}, last packet {idle}s ago{ignored}")
            }
        }
    }

    fn backend_step(&self, processed: &Processed, outcome: &Outcome, slot: Option<Slot>) -> Option<String> {
        let (index, backend) = outcome.backend?;
        let recorded = processed.record.as_ref().filter(|_| processed.wants_record);
        let named = |lookup: &Lookup| *lookup == Lookup::QuicServer(index);
        let why = if processed.service().is_none() {
            "the packet comes from it"
        } else if recorded.is_some_and(|record| record.backend() == index) {
            "the flow's record names it"
        } else if processed.lookups.iter().any(named) {
            "the QUIC connection ID names it"
        } else if slot.is_some_and(|slot| slot.owner() == index) {
            "the owner of the slot"
        } else if slot.is_some_and(|slot| slot.prior() == index) {
            "the slot's previous owner: the flow may be older than the move"
        } else {
            "the owner of a later slot, because those before take no new flows"
        };
        Some(format!("{}, {}: {why}", self.address(&backend), state(backend.state)))
    }

    fn rewrite_step(&self, processed: &Processed, outcome: &Outcome) -> Option<String> {
        if outcome.reason.is_some() {
            return None;
        }
        let SentView { source, destination, tunnel, .. } = self.sent(processed)?;
        let unchanged = (source, destination) == (self.request.client, self.request.vip);
        Some(match tunnel {
            Some(outer) => format!("put into a packet from {} to {}", outer.source, outer.destination),
            None if unchanged => {
                "only the Ethernet addresses change; the backend replies directly".to_owned()
            }
            None => format!("from {source} to {destination}"),
        })
    }

    fn end(&self, processed: &Processed, outcome: &Outcome) -> String {
        if let Some(reason) = outcome.reason {
            let answered = match self.sent(processed).filter(|_| reason.kind() == Kind::Answer) {
                Some(sent) => format!(" through {}", sent.interface),
                None => String::new(),
            };
            return format!(
                "{}{answered} ({}): {}",
                kind_in_words(reason.kind()),
                reason.name(),
                reason.words()
            );
        }
        let how = match processed.verdict {
            Verdict::Transmit => "transmitted through the interface that it came from",
            _ => "redirected",
        };
        match self.sent(processed) {
            Some(sent) => format!(
                "{how}: leaves through {}, from {} to {}",
                sent.interface, sent.source_mac, sent.destination_mac
            ),
            None => how.to_owned(),
        }
    }

    fn backend_name(&self, processed: &Processed, index: BackendIndex) -> String {
        if index == BackendIndex(0) {
            return "none".to_owned();
        }
        let present = self.snapshot.tables.backends.get(&index).copied();
        match processed.backend(index).or(present) {
            Some(backend) => self.address(&backend).to_string(),
            None => format!("backend {}", index.0),
        }
    }
}

/// The slot that the packet's hash selects.
fn first_slot(processed: &Processed) -> Option<(SlotIndex, Slot)> {
    processed.lookups.iter().find_map(|lookup| match lookup {
        Lookup::Slot(index, slot) => Some((*index, *slot)),
        _ => None,
    })
}

fn address(processed: &Processed, destination: IpAddr) -> Option<String> {
    let (address, roles) = processed.lookups.iter().find_map(|lookup| match lookup {
        Lookup::Roles(address, roles) if IpAddr::from(*address) == destination => Some((destination, *roles)),
        _ => None,
    })?;
    Some(match roles {
        roles if roles & VIP != 0 => format!("{address} is a VIP"),
        roles if roles & BACKEND != 0 => format!("{address} is not a VIP, but a backend's or this host's"),
        _ => format!("{address} is not a VIP"),
    })
}

fn access(processed: &Processed) -> Option<String> {
    let verdict = processed.lookups.iter().find_map(|lookup| match lookup {
        Lookup::SourceRange(verdict) => Some(*verdict),
        _ => None,
    })?;
    Some(if verdict == SourceVerdict::Allow as u32 {
        "the client is in a range that the service allows".to_owned()
    } else if verdict == SourceVerdict::Deny as u32 {
        "the client is in a range that the service denies".to_owned()
    } else {
        "the client is in none of the service's ranges".to_owned()
    })
}

fn rate(processed: &Processed) -> Option<String> {
    processed.lookups.iter().find_map(|lookup| match lookup {
        Lookup::Bucket(full_at, now) => Some(match full_at.and_then(|at| at.checked_sub(*now)) {
            None | Some(0) => "the client has its whole burst of new flows left".to_owned(),
            Some(wait) => format!(
                "the client has started flows recently: its burst is whole again in {:.1}s",
                wait as f64 / 1e9
            ),
        }),
        _ => None,
    })
}

fn limit(processed: &Processed) -> Option<String> {
    let counted = processed.lookups.iter().filter_map(|lookup| match lookup {
        Lookup::Flows(flows) => Some(flows.to_string()),
        _ => None,
    });
    let counted: Vec<String> = counted.collect();
    (!counted.is_empty()).then(|| format!("flows counted towards `max_flows`: {}", counted.join(", ")))
}

fn routes(processed: &Processed) -> Option<String> {
    processed.lookups.iter().find_map(|lookup| match lookup {
        Lookup::Route(address) => Some(format!(
            "the kernel's route to {} would decide, which `explain` does not ask: see `ip route get`",
            IpAddr::from(*address)
        )),
        _ => None,
    })
}

fn mode(service: &Service) -> &'static str {
    let modes = [
        (Mode::FullNat, "full-nat"),
        (Mode::Nat, "nat"),
        (Mode::Dsr, "dsr"),
        (Mode::Ipip, "ipip"),
        (Mode::Gue, "gue"),
    ];
    modes.iter().find(|(mode, _)| service.mode == *mode).map_or("unknown", |(_, name)| name)
}

fn state(state: xdp_lb_common::tables::Code<BackendState>) -> &'static str {
    let states = [
        (BackendState::Up, "up"),
        (BackendState::Draining, "keeps its flows and gets no new ones"),
        (BackendState::Failing, "fails its checks and keeps its flows"),
        (BackendState::Ending, "its flows end"),
        (BackendState::Down, "down"),
    ];
    states.iter().find(|(of, _)| state == *of).map_or("gone", |(_, words)| words)
}
