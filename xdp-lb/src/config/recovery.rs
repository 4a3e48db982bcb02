//! What a service makes of its backends' health: which take flows when few are up.

use std::ops::RangeInclusive;

use super::place::{Place, Problems};
use super::rules::within;
use super::schema::Service;
use super::section::Section;

const PERCENT: RangeInclusive<u8> = 0..=100;

/// These keys of a service, where some of them may have been unreadable.
#[derive(Clone, Debug, Default)]
pub(super) struct RecoveryDraft {
    pub panic_threshold: u8,
}

impl RecoveryDraft {
    pub(super) fn of(service: &Service) -> Self {
        Self { panic_threshold: service.panic_threshold }
    }

    pub(super) fn read(service: &mut Section) -> Self {
        Self { panic_threshold: service.integer("panic_threshold", &PERCENT).unwrap_or_default() }
    }

    pub(super) fn check(&self, place: &Place, problems: &mut Problems) {
        let percent = within(self.panic_threshold, &PERCENT, |percent| percent.to_string());
        problems.take(&place.key("panic_threshold"), percent);
    }
}
