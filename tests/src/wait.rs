//! Waiting for a condition, not for a time.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long to sleep between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Waits until the condition holds, and returns how long that took. After the deadline: an error that says what was
/// waited for.
pub fn until(what: &str, deadline: Duration, mut holds: impl FnMut() -> Result<bool>) -> Result<Duration> {
    let start = Instant::now();
    until_some(what, deadline, || Ok(holds()?.then(|| start.elapsed())))
}

/// Waits until there is a value.
pub fn until_some<T>(
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = look()? {
            return Ok(value);
        }
        if start.elapsed() >= deadline {
            bail!("waited {:.1} s in vain for {what}", deadline.as_secs_f64());
        }
        sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_ends_when_the_condition_holds() {
        let mut looks = 0;
        let result = until("three looks", Duration::from_secs(60), || {
            looks += 1;
            Ok(looks == 3)
        });
        assert!(result.unwrap() < Duration::from_secs(60));
        assert_eq!(looks, 3);
    }

    #[test]
    fn waiting_in_vain_says_what_was_waited_for() {
        let error = until("the moon", Duration::ZERO, || Ok(false)).unwrap_err();
        assert!(error.to_string().contains("the moon"), "{error}");
    }

    #[test]
    fn an_error_ends_the_waiting_at_once() {
        let error = until("nothing", Duration::from_secs(60), || bail!("broken")).unwrap_err();
        assert_eq!(error.to_string(), "broken");
    }
}
