//! Numbers as people read them.

use std::ops::RangeInclusive;
use std::time::Duration;

pub(super) use crate::model::text::grouped;
use crate::model::values;

/// A rate: `0/s`, `1.2/s`, `1.2 k/s`, `3.4 M/s`.
pub(super) fn rate(per_second: f64) -> String {
    scaled(per_second, "/s")
}

/// A rate of bytes: `0 B/s`, `3.4 MB/s` (powers of 1,000).
pub(super) fn byte_rate(per_second: f64) -> String {
    scaled(per_second, "B/s")
}

/// A number with a unit of a rate, in powers of 1,000.
pub(super) fn scaled(value: f64, unit: &str) -> String {
    const STEPS: [&str; 5] = ["", "k", "M", "G", "T"];
    let mut value = value.max(0.0);
    let mut step = 0;
    // 999.5 and more would be printed as 1000.
    while value >= 999.5 && step + 1 < STEPS.len() {
        value /= 1000.0;
        step += 1;
    }
    let number =
        if value < 9.95 && value != value.trunc() { format!("{value:.1}") } else { format!("{value:.0}") };
    let space = if step > 0 || !unit.starts_with('/') { " " } else { "" };
    format!("{number}{space}{}{unit}", STEPS[step])
}

/// A time span: `8s`, `5m12s`, `3h04m`, `2d03h`.
pub(super) fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m{:02}s", seconds % 60),
        3600..86_400 => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

/// A latency: `0.4 ms`, `12 ms`, `1.5 s`.
pub(super) fn latency(seconds: f64) -> String {
    let milliseconds = seconds * 1e3;
    if milliseconds < 9.95 {
        format!("{milliseconds:.1} ms")
    } else if milliseconds < 999.5 {
        format!("{milliseconds:.0} ms")
    } else {
        format!("{seconds:.1} s")
    }
}

/// A share, 0 to 1: `33.3 %`.
pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// `1 flow`, `2 flows`.
pub(super) fn counted(number: u64, one: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {one}{plural}", grouped(number))
}

/// Reads a time span as an operator writes it: `30s`, `5m`, `1h 30m`.
pub(super) fn parse_span(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write 30s, 5m or 1h"))
}

/// Reads a number of this range.
pub(super) fn number_of<T: TryFrom<u64> + Into<u64> + Copy>(
    range: RangeInclusive<T>,
) -> impl Fn(&str) -> Result<T, String> + Clone {
    let range = (*range.start()).into()..=(*range.end()).into();
    move |text| {
        let number = values::number(text, &range)?;
        T::try_from(number).map_err(|_| values::is_not(text, &values::whole_number(&range)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_keep_two_or_three_digits() {
        for (value, text) in [
            (0.0, "0/s"),
            (0.4, "0.4/s"),
            (7.0, "7/s"),
            (9.96, "10/s"),
            (999.4, "999/s"),
            (999.6, "1.0 k/s"),
            (1234.0, "1.2 k/s"),
            (999_600.0, "1.0 M/s"),
            (12_345_678.0, "12 M/s"),
            (-1.0, "0/s"),
        ] {
            assert_eq!(rate(value), text, "{value}");
        }
        assert_eq!(byte_rate(0.0), "0 B/s");
        assert_eq!(byte_rate(3_400_000.0), "3.4 MB/s");
        assert_eq!(byte_rate(1e18), "1000000 TB/s");
    }

    #[test]
    fn spans_name_their_two_largest_units() {
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (60, "1m00s"), (312, "5m12s"), (11_040, "3h04m"), (183_600, "2d03h")]
        {
            assert_eq!(span(seconds), text);
        }
    }

    #[test]
    fn latencies_change_their_unit_at_a_second() {
        assert_eq!([0.0004, 0.012, 0.9994, 1.5].map(latency), ["0.4 ms", "12 ms", "999 ms", "1.5 s"]);
    }

    #[test]
    fn numbers_are_grouped_in_threes() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(grouped(u64::MAX), "18,446,744,073,709,551,615");
        assert_eq!(counted(1, "flow"), "1 flow");
        assert_eq!(counted(1200, "flow"), "1,200 flows");
    }
}
