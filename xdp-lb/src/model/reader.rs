//! Reading the keys of a document, whatever it is written in.

use std::ops::RangeInclusive;

/// A table of a document. What is absent is `None` and not a problem; what is there and wrong is `None` and a problem.
pub(crate) trait Reader {
    /// A table within it.
    type Table<'t>: Reader;

    /// Whether the key is there.
    fn has(&self, key: &str) -> bool;

    /// Notes what is wrong with a key.
    fn problem(&mut self, key: &str, what: impl Into<String>);

    /// A string, read.
    fn parsed<T>(&mut self, key: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T>;

    /// A whole number in a range.
    fn integer<T: TryFrom<u64> + Into<u64> + Copy>(
        &mut self,
        key: &str,
        range: &RangeInclusive<T>,
    ) -> Option<T>;

    /// True or false.
    fn boolean(&mut self, key: &str) -> Option<bool>;

    /// A list of strings, each read.
    fn list<T>(&mut self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<Vec<Option<T>>>;

    /// A table under a key, which has these keys.
    fn section<T>(
        &mut self,
        key: &str,
        keys: &[&str],
        read: impl FnOnce(&mut Self::Table<'_>) -> T,
    ) -> Option<T>;

    /// A string that has to be there, read.
    fn required<T>(
        &mut self,
        key: &str,
        example: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        if !self.has(key) {
            self.problem(key, format!("is missing; write {example}"));
        }
        self.parsed(key, parse)
    }
}

/// A value that a key may have.
pub(crate) trait Value: Sized {
    /// What the key of this table has, where it is there and can be read.
    fn read(section: &mut impl Reader, key: &str) -> Option<Self>;
}

impl Value for String {
    fn read(section: &mut impl Reader, key: &str) -> Option<Self> {
        section.parsed(key, |text| Ok(text.to_owned()))
    }
}

impl Value for Vec<String> {
    fn read(section: &mut impl Reader, key: &str) -> Option<Self> {
        section.list(key, |text| Ok(text.to_owned())).map(|list| list.into_iter().flatten().collect())
    }
}

impl Value for bool {
    fn read(section: &mut impl Reader, key: &str) -> Option<Self> {
        section.boolean(key)
    }
}

impl Value for u8 {
    fn read(section: &mut impl Reader, key: &str) -> Option<Self> {
        section.integer(key, &(0..=Self::MAX))
    }
}

impl Value for u16 {
    fn read(section: &mut impl Reader, key: &str) -> Option<Self> {
        section.integer(key, &(0..=Self::MAX))
    }
}
