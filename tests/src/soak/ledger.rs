//! What the daemon has acknowledged, and whether it is there.

use std::collections::BTreeMap;

use serde_json::Value;

use super::kind::Kind;

/// A value that was acknowledged last, and those that were asked for since without an answer: any may be there.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Held<T> {
    acknowledged: T,
    asked: Vec<T>,
}

impl<T: Copy + PartialEq> Held<T> {
    fn new(acknowledged: T) -> Self {
        Self { acknowledged, asked: Vec::new() }
    }

    /// Takes what is there for what holds from now on; whether that may be so.
    fn is(&mut self, found: T) -> bool {
        let may_be = found == self.acknowledged || self.asked.contains(&found);
        *self = Self::new(found);
        may_be
    }
}

/// What is known of a backend of a service.
#[derive(Clone, Debug)]
struct Entry {
    is_there: Held<bool>,
    weight: Held<u16>,
    drains: Held<bool>,
}

/// A change of a backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// It is there, with this weight, and takes flows.
    Joins(u16),
    /// It has gone, or leaves.
    Leaves,
    /// Its weight is this.
    Weighs(u16),
    /// It is drained, or is not.
    Drains(bool),
}

/// What was acknowledged, of all services.
#[derive(Default)]
pub struct Ledger {
    entries: BTreeMap<(Kind, usize), Entry>,
}

impl Ledger {
    fn entry(&mut self, kind: Kind, backend: usize) -> &mut Entry {
        let none = Entry { is_there: Held::new(false), weight: Held::new(0), drains: Held::new(false) };
        self.entries.entry((kind, backend)).or_insert(none)
    }

    /// A change is asked for: until it is acknowledged, what was before may be there as well.
    pub fn asked(&mut self, kind: Kind, backend: usize, change: Change) {
        let entry = self.entry(kind, backend);
        match change {
            Change::Joins(weight) => {
                entry.is_there.asked.push(true);
                entry.weight.asked.push(weight);
                entry.drains.asked.push(false);
            }
            Change::Leaves => entry.is_there.asked.push(false),
            Change::Weighs(weight) => entry.weight.asked.push(weight),
            Change::Drains(drains) => entry.drains.asked.push(drains),
        }
    }

    /// A change was acknowledged.
    pub fn acknowledged(&mut self, kind: Kind, backend: usize, change: Change) {
        let entry = self.entry(kind, backend);
        match change {
            Change::Joins(weight) => {
                entry.is_there = Held::new(true);
                entry.weight = Held::new(weight);
                entry.drains = Held::new(false);
            }
            Change::Leaves => entry.is_there = Held::new(false),
            Change::Weighs(weight) => entry.weight = Held::new(weight),
            Change::Drains(drains) => entry.drains = Held::new(drains),
        }
    }

    /// Whether a backend is a member.
    pub fn has(&self, kind: Kind, backend: usize) -> bool {
        self.entries.get(&(kind, backend)).is_some_and(|entry| entry.is_there.acknowledged)
    }

    /// Whether a backend is a member, and takes new flows.
    pub fn serves(&self, kind: Kind, backend: usize) -> bool {
        self.has(kind, backend) && !self.drains(kind, backend)
    }

    /// Whether a backend is drained.
    pub fn drains(&self, kind: Kind, backend: usize) -> bool {
        self.entries.get(&(kind, backend)).is_some_and(|entry| entry.drains.acknowledged)
    }

    /// Compares with the backends that the daemon lists; says what is not as it was acknowledged, and goes on from what is.
    pub fn compare(&mut self, listed: &[Value]) -> Vec<String> {
        let mut lost = Vec::new();
        for ((kind, backend), entry) in &mut self.entries {
            let (service, address) = (kind.to_string(), kind.backend(*backend).to_string());
            let found = listed.iter().find(|it| it["service"] == *service && it["address"] == *address);
            let member = found.filter(|it| it["leaving"] != true);
            let mut miss = |what: String| lost.push(format!("{address} of {service}: {what}"));
            let before = entry.clone();
            if !entry.is_there.is(member.is_some()) {
                let states = ["is not there", "is there"];
                let (wanted, seen) = (before.is_there.acknowledged, member.is_some());
                miss(format!("{}, and should be: {}", states[usize::from(seen)], wanted));
            }
            let Some(member) = member else { continue };
            let weight = member["weight"].as_u64().and_then(|weight| weight.try_into().ok()).unwrap_or(0);
            if !entry.weight.is(weight) {
                miss(format!("weighs {weight}, and should be: {:?}", before.weight));
            }
            if !entry.drains.is(member["admin"] == "draining") {
                miss(format!("is {}, and should drain: {:?}", member["admin"], before.drains));
            }
        }
        lost
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn kind() -> Kind {
        Kind::all().next().unwrap()
    }

    fn listed(weight: u16) -> Value {
        json!({ "service": kind().to_string(), "address": kind().backend(1).to_string(), "weight": weight,
                "admin": "enabled", "leaving": false })
    }

    #[test]
    fn a_weight_that_was_acknowledged_has_to_be_there() {
        let mut ledger = Ledger::default();
        ledger.acknowledged(kind(), 1, Change::Joins(100));
        ledger.acknowledged(kind(), 1, Change::Weighs(50));
        assert_eq!(ledger.compare(&[listed(50)]), Vec::<String>::new());
        assert_eq!(ledger.compare(&[listed(100)]).len(), 1);
        assert_eq!(ledger.compare(&[]).len(), 1);
    }

    #[test]
    fn a_change_without_an_answer_may_be_there_or_not() {
        for found in [100, 50] {
            let mut ledger = Ledger::default();
            ledger.acknowledged(kind(), 1, Change::Joins(100));
            ledger.asked(kind(), 1, Change::Weighs(50));
            assert_eq!(ledger.compare(&[listed(found)]), Vec::<String>::new());
            // Not both, one after the other.
            assert_eq!(ledger.compare(&[listed(150 - found)]).len(), 1);
        }
    }

    #[test]
    fn a_backend_that_was_removed_may_leave_for_a_while() {
        let mut ledger = Ledger::default();
        ledger.acknowledged(kind(), 1, Change::Joins(100));
        ledger.acknowledged(kind(), 1, Change::Leaves);
        let mut leaving = listed(100);
        leaving["leaving"] = true.into();
        assert_eq!(ledger.compare(&[leaving]), Vec::<String>::new());
        assert_eq!(ledger.compare(&[listed(100)]).len(), 1);
    }
}
