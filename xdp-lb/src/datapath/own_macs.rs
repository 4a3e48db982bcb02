//! Writes the table of [`xdp_lb_common::own_mac`].

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, ensure};
use xdp_lb_common::own_mac::{OwnMac, PROBES, WORDS};

use super::memory::{Misfit, Words};

/// `OWN_MACS`: the MACs whose frames are for this host.
pub struct OwnMacs {
    words: Words,
}

impl OwnMacs {
    /// # Errors
    /// If the table has another size.
    pub fn new(words: Words) -> Result<Self> {
        ensure!(words.length() == WORDS, Misfit(format!("OWN_MACS has {} words", words.length())));
        Ok(Self { words })
    }

    /// Makes the table contain exactly these. MACs that stay keep their places, and new ones are added before others are removed:
    /// frames for a MAC that stays are accepted throughout.
    ///
    /// # Errors
    /// If some do not fit. The others are in the table.
    pub fn set(&self, wanted: &BTreeSet<OwnMac>) -> Result<()> {
        let places = |mac: OwnMac| (0..PROBES).map(move |probe| self.word(mac.place(probe)));
        let has = |mac: OwnMac| places(mac).any(|word| word.load(Ordering::Relaxed) == mac.to_bits());
        let put = |mac: &&OwnMac| {
            let free = places(**mac).find(|word| word.load(Ordering::Relaxed) == 0);
            free.inspect(|word| word.store(mac.to_bits(), Ordering::Release)).is_none()
        };
        let unplaced: Vec<&OwnMac> = wanted.iter().filter(|mac| !has(**mac)).filter(put).collect();
        for word in self.words.all() {
            let bits = word.load(Ordering::Relaxed);
            if bits != 0 && !wanted.contains(&OwnMac::from_bits(bits)) {
                word.store(0, Ordering::Release);
            }
        }
        let unplaced = unplaced.into_iter().filter(put).count();
        ensure!(
            unplaced == 0,
            "the interfaces have {} MAC addresses, but there is no room for {unplaced} of them: packets to those \
             are passed to the host",
            wanted.len()
        );
        Ok(())
    }

    /// Whether the table contains exactly these.
    pub fn is(&self, wanted: &BTreeSet<OwnMac>) -> bool {
        let words = self.words.all().iter().map(|word| word.load(Ordering::Relaxed));
        let present: BTreeSet<OwnMac> = words.filter(|bits| *bits != 0).map(OwnMac::from_bits).collect();
        present == *wanted
    }

    fn word(&self, place: u32) -> &AtomicU64 {
        &self.words.all()[place as usize]
    }
}

#[cfg(test)]
mod tests {
    use xdp_lb_common::net::MacAddress;

    use super::*;

    fn mac(number: u32) -> OwnMac {
        let [_, _, high, low] = number.to_be_bytes();
        OwnMac::new(7, MacAddress::new([2, 0, 0, 0, high, low]))
    }

    fn held(table: &OwnMacs) -> BTreeSet<OwnMac> {
        let bits = table.words.all().iter().map(|word| word.load(Ordering::Relaxed));
        bits.filter(|bits| *bits != 0).map(OwnMac::from_bits).collect()
    }

    #[test]
    fn the_table_holds_what_was_set_last() {
        let table = OwnMacs::new(Words::anonymous(WORDS)).unwrap();
        for numbers in [0..3, 2..900, 500..600, 0..0] {
            let wanted: BTreeSet<_> = numbers.map(mac).collect();
            table.set(&wanted).unwrap();
            assert_eq!(held(&table), wanted);
        }
    }

    #[test]
    fn too_many_are_refused_and_most_of_them_taken() {
        let table = OwnMacs::new(Words::anonymous(WORDS)).unwrap();
        let wanted: BTreeSet<_> = (0..WORDS + 1).map(mac).collect();
        let error = table.set(&wanted).unwrap_err().to_string();
        assert!(error.contains("4097 MAC addresses"), "{error}");
        assert!(held(&table).len() > WORDS as usize / 2);
        table.set(&(0..10).map(mac).collect()).unwrap();
        assert_eq!(held(&table).len(), 10, "and there is room again");
    }
}
