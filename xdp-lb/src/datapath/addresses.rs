//! Writes the [`xdp_lb_common::tables::filter`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use xdp_lb_common::net::Address;
use xdp_lb_common::tables::filter::Place;

use super::memory::Words;

/// The roles of addresses.
pub struct Addresses {
    words: Words,
    /// The number of endpoints with each bit.
    uses: HashMap<(Place, u8), u32>,
}

impl Addresses {
    /// The table in this map, if these addresses have endpoints. Does not write it: see [`Addresses::restore`].
    pub fn new(words: Words, present: impl IntoIterator<Item = (Address, u8)>) -> Self {
        let mut uses = HashMap::new();
        for (address, role) in present {
            *uses.entry((Place::of(&address), role)).or_default() += 1;
        }
        Self { words, uses }
    }

    /// Sets exactly the bits of the addresses, whatever else is in the table: an earlier daemon may have ended between two
    /// writes, or others may have changed it. Returns whether any bit was wrong.
    pub fn restore(&self) -> bool {
        let mut bits = vec![0; self.words.length() as usize];
        for (place, role) in self.uses.keys() {
            bits[place.word() as usize] |= place.bits(*role);
        }
        let differs = |(word, bits): (&AtomicU64, u64)| word.swap(bits, Ordering::AcqRel) != bits;
        self.words.all().iter().zip(bits).map(differs).fold(false, |any, differs| any | differs)
    }

    /// Adds an endpoint of this address, before packets can find it.
    pub fn add(&mut self, address: &Address, role: u8) {
        let place = Place::of(address);
        let uses = self.uses.entry((place, role)).or_default();
        *uses += 1;
        if *uses == 1 {
            self.words.all()[place.word() as usize].fetch_or(place.bits(role), Ordering::Release);
        }
    }

    /// Removes an endpoint of this address, after packets can no longer find it.
    pub fn remove(&mut self, address: &Address, role: u8) {
        let place = Place::of(address);
        let Some(uses) = self.uses.get_mut(&(place, role)) else { return };
        *uses -= 1;
        if *uses == 0 {
            self.uses.remove(&(place, role));
            self.words.all()[place.word() as usize].fetch_and(!place.bits(role), Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use xdp_lb_common::tables::filter::{BACKEND, VIP, WORDS};

    use super::*;

    fn address(number: u32) -> Address {
        IpAddr::from((0xc612_0000 + number).to_be_bytes()).into()
    }

    fn roles(addresses: &Addresses, address: &Address) -> u8 {
        let place = Place::of(address);
        place.roles(addresses.words.all()[place.word() as usize].load(Ordering::Acquire))
    }

    #[test]
    fn an_address_keeps_its_bits_until_its_last_endpoint_is_gone() {
        let words = Words::anonymous(WORDS);
        words.all()[7].store(u64::MAX, Ordering::Relaxed);
        let mut addresses =
            Addresses::new(words, [(address(1), VIP), (address(1), VIP), (address(1), BACKEND)]);
        assert_eq!(roles(&addresses, &address(1)), 0, "another daemon's table is only looked at");
        assert!(addresses.restore());
        assert_eq!(addresses.words.all()[7].load(Ordering::Relaxed), 0, "what was left is gone");
        assert!(!addresses.restore());
        assert_eq!(roles(&addresses, &address(1)), VIP | BACKEND);
        addresses.remove(&address(1), VIP);
        assert_eq!(roles(&addresses, &address(1)), VIP | BACKEND);
        addresses.remove(&address(1), VIP);
        assert_eq!(roles(&addresses, &address(1)), BACKEND);
        addresses.add(&address(1), VIP);
        assert_eq!(roles(&addresses, &address(1)), VIP | BACKEND);
    }

    #[test]
    fn addresses_that_share_a_place_do_not_take_it_from_each_other() {
        let mut addresses = Addresses::new(Words::anonymous(WORDS), []);
        for number in 0..40_000 {
            addresses.add(&address(number), VIP);
        }
        for number in 0..20_000 {
            addresses.remove(&address(number), VIP);
        }
        assert!((20_000..40_000).all(|number| roles(&addresses, &address(number)) == VIP));
        for number in 20_000..40_000 {
            addresses.remove(&address(number), VIP);
        }
        assert!(addresses.words.all().iter().all(|word| word.load(Ordering::Relaxed) == 0));
    }
}
