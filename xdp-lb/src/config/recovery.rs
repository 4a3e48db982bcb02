//! What a service makes of its backends' health: which take flows when few are up, and how fast those that come back.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::place::{Place, Problems};
use super::rules::within;
use super::schema::Service;
use super::section::Section;
use super::text::{self, print_duration};

const PERCENT: RangeInclusive<u8> = 0..=100;
const SLOW_START: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);

/// These keys of a service, where some of them may have been unreadable.
#[derive(Clone, Debug, Default)]
pub(super) struct RecoveryDraft {
    pub panic_threshold: u8,
    pub slow_start: Option<Duration>,
}

impl RecoveryDraft {
    pub(super) fn of(service: &Service) -> Self {
        Self { panic_threshold: service.panic_threshold, slow_start: service.slow_start }
    }

    pub(super) fn read(service: &mut Section) -> Self {
        Self {
            panic_threshold: service.integer("panic_threshold", &PERCENT).unwrap_or_default(),
            slow_start: service.parsed("slow_start", text::duration),
        }
    }

    pub(super) fn check(&self, place: &Place, problems: &mut Problems) {
        let percent = within(self.panic_threshold, &PERCENT, |percent| percent.to_string());
        problems.take(&place.key("panic_threshold"), percent);
        if let Some(time) = self.slow_start {
            problems.take(&place.key("slow_start"), within(time, &SLOW_START, print_duration));
        }
    }
}
