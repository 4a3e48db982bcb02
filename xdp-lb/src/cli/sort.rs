//! The order of a list's rows.

use std::cmp::Ordering;

use clap::{Args, ValueEnum};

/// By what a list is ordered.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Order<K: ValueEnum + Send + Sync + 'static> {
    /// Order by this column: words by the alphabet, numbers from the highest down
    #[arg(long, value_name = "COLUMN", value_enum)]
    sort: Option<K>,
    /// The other way round
    #[arg(long, requires = "sort")]
    reverse: bool,
}

/// What a row is ordered by.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Key {
    Words(String),
    Number(f64),
}

impl<K: ValueEnum + Send + Sync + Copy + 'static> Order<K> {
    /// Orders rows; rows that are equal stay in their order.
    pub(super) fn sort<T>(self, rows: &mut [T], key: impl Fn(&T, K) -> Key) {
        let Some(by) = self.sort else { return };
        rows.sort_by(|one, other| {
            let order = key(one, by).compare(&key(other, by));
            if self.reverse { order.reverse() } else { order }
        });
    }
}

impl Key {
    fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Words(one), Self::Words(other)) => one.cmp(other),
            (Self::Number(one), Self::Number(other)) => other.total_cmp(one),
            (Self::Words(_), Self::Number(_)) => Ordering::Less,
            (Self::Number(_), Self::Words(_)) => Ordering::Greater,
        }
    }
}
