//! What must hold of every packet that comes to a backend of `ipip` or `gue`.

use std::cell::RefCell;

pub use xdp_lb_common::decap::Outcome;
use xdp_lb_common::decap::{ACCEPTS_GUE, ACCEPTS_IPIP, Settings, Tables, decapsulate};
use xdp_lb_common::host::Buffer;
use xdp_lb_common::net::{Address, Port};

use crate::dissect::{Dissection, UDP, dissect, error, sum, word};

/// A backend's tables.
pub struct Backend {
    pub settings: Settings,
    /// Whether whatever a packet is sent to is an address of this host.
    pub is_local: bool,
    /// Whether tunnelled packets may come from anywhere.
    pub is_allowed: bool,
    counted: RefCell<Vec<Outcome>>,
}

impl Backend {
    /// One that takes off whatever the load balancer puts on, on this port.
    pub fn open(gue_port: u16) -> Self {
        let accepts = ACCEPTS_IPIP | ACCEPTS_GUE;
        Self {
            settings: Settings { gue_port: Port::new(gue_port), accepts, checks_source: 0 },
            is_local: true,
            is_allowed: true,
            counted: RefCell::default(),
        }
    }

    /// Takes a frame apart, and looks at what is left of it.
    pub fn receive(&self, frame: &[u8]) -> (Outcome, Vec<u8>) {
        let mut packet = Buffer::new(frame, 1);
        let before = self.counted.borrow().len();
        let outcome = decapsulate(&mut packet, self);
        assert_eq!(self.counted.borrow()[before..], [outcome], "each packet is counted once");
        let left = packet.bytes().to_vec();
        match outcome {
            Outcome::NotTunnelled => assert_eq!(left, frame, "what is not tunnelled is left as it is"),
            Outcome::Ipip | Outcome::Gue => self.check(frame, outcome, &left),
            _ => assert!(outcome.is_drop()),
        }
        (outcome, left)
    }

    fn check(&self, frame: &[u8], outcome: Outcome, left: &[u8]) {
        assert!(self.is_local && (self.is_allowed || self.settings.checks_source == 0));
        let outer = dissect(frame).expect("what is opened is whole");
        let accepted = if outcome == Outcome::Gue { ACCEPTS_GUE } else { ACCEPTS_IPIP };
        assert!(self.settings.accepts & accepted != 0 && !outer.piece.is_fragment());
        let (at, is_v4) = self.inside(frame, &outer);
        let ethernet = 14 + 4 * outer.tags.len();
        assert_eq!(
            left[..ethernet - 2],
            frame[..ethernet - 2],
            "Ethernet addresses and tags are as they were"
        );
        assert_eq!(word(left, ethernet - 2), Some(if is_v4 { 0x0800 } else { 0x86dd }));
        let (old, new) = (&frame[at..], &left[ethernet..]);
        let (version, least, total) = if is_v4 { (4, 20, word(new, 2)) } else { (6, 40, word(new, 4)) };
        let total = usize::from(total.expect("what comes out has a header")) + if is_v4 { 0 } else { 40 };
        assert!(new[0] >> 4 == version && (least..=outer.end - at).contains(&total), "and is whole");
        // All but the two bits that tell of congestion, and the checksum over them.
        let (congestion, checksum) = if is_v4 { (3, 10..12) } else { (0x30, 0..0) };
        let blank = |ip: &[u8]| {
            let mut rest = ip.to_vec();
            rest[1] &= !congestion;
            rest[checksum.clone()].fill(0);
            rest
        };
        assert_eq!(blank(old), blank(new), "the packet inside is as it was");
        if is_v4 {
            let length = usize::from(new[0] & 15) * 4;
            assert_eq!(error(sum(&old[..length])), error(sum(&new[..length])), "with a checksum as right");
        }
    }

    /// Where the packet inside begins, and whether it is IPv4.
    fn inside(&self, frame: &[u8], outer: &Dissection) -> (usize, bool) {
        if outer.protocol != UDP {
            return (outer.l4, outer.protocol == 4);
        }
        assert_eq!(word(frame, outer.l4 + 2), Some(self.settings.gue_port.get()));
        let gue = outer.l4 + 8;
        match frame[gue] >> 4 {
            version @ (4 | 6) => (gue, version == 4),
            _ => (gue + 4 + usize::from(frame[gue] & 0x1f) * 4, frame[gue + 1] == 4),
        }
    }
}

impl Tables for Backend {
    fn settings(&self) -> Option<&Settings> {
        Some(&self.settings)
    }

    fn is_local(&self, _: &Address) -> bool {
        self.is_local
    }

    fn is_allowed(&self, _: &Address) -> bool {
        self.is_allowed
    }

    fn count(&self, outcome: Outcome) {
        self.counted.borrow_mut().push(outcome);
    }
}
