//! The interfaces to which the program is attached.

use std::collections::BTreeSet;

use crate::model::Mode;
use crate::net::NextHop;

/// The interfaces to which the program is attached.
#[derive(Clone, Debug, Default)]
pub struct Covered {
    /// Those in the config file, by name.
    pub names: BTreeSet<String>,
    /// Those to which it is attached, by index.
    pub indices: BTreeSet<u32>,
}

impl Covered {
    /// The warning if the program does not see replies from this next hop.
    pub(super) fn warning(&self, mode: Mode, hop: &NextHop) -> Option<String> {
        if mode.keeps_destination() {
            // Replies do not pass here.
            return None;
        }
        if self.names.contains(&hop.interface) || self.indices.contains(&hop.ifindex) {
            return None;
        }
        let (which, what) = if hop.vlan.is_some() { ("whose parent", "the parent") } else { ("which", "it") };
        Some(format!(
            "reached through {}, {which} is not in `interfaces`: the program may never see its replies; add {what}",
            hop.interface
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::model::state::{AdminState, BackendState};
    use crate::model::{Effective, Probe};
    use crate::pool::known::Hop;
    use crate::pool::pool::Pool;
    use crate::pool::testing::{backend, known, service};
    use crate::tables::Tables;

    #[test]
    fn a_backend_behind_an_interface_without_the_program_says_so() {
        let now = Instant::now();
        let mut pool = Pool::new(&Tables::default());
        let mut web = service(Probe::None);
        web.backends.push(backend(100, AdminState::Enabled));
        pool.set_effective(Effective { services: vec![web] }, &Tables::default(), now);
        let Hop::Known(hop) = known() else { unreachable!() };
        let address = "198.51.100.11".parse().unwrap();
        let names = |name: &str| Covered { names: [name.into()].into(), indices: [9].into() };
        for (covered, hop, words) in [
            (names("eth0"), hop.clone(), None),
            (names("eth1"), NextHop { ifindex: 9, ..hop.clone() }, None),
            (
                names("eth1"),
                hop.clone(),
                Some(
                    "reached through eth0, which is not in `interfaces`: the program may never see its replies; add \
                     it",
                ),
            ),
            (
                names("eth1"),
                NextHop { interface: "eth0.7".into(), vlan: Some(7), ..hop.clone() },
                Some(
                    "reached through eth0.7, whose parent is not in `interfaces`: the program may never see its \
                     replies; add the parent",
                ),
            ),
        ] {
            pool.set_covered(covered);
            pool.set_next_hop(address, Ok(hop));
            pool.decide_at(now);
            let id = pool.targets()[0].0.id.clone();
            let condition = pool.known(&id).unwrap().condition.clone();
            assert_eq!(condition.state, BackendState::Up);
            let said = condition.reason.strip_prefix("not checked").unwrap().strip_prefix("; ");
            assert_eq!(said, words);
            pool.effective.services[0].service.mode = Mode::Ipip;
            assert!(pool.uncovered().is_empty(), "replies do not come this way");
            pool.effective.services[0].service.mode = Mode::FullNat;
            let uncovered = pool.uncovered();
            assert_eq!(uncovered.values().next().map(|(_, words)| words.as_str()), words);
        }
    }
}
