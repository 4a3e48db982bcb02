//! The state of services and backends, and which backends take new flows. Clock and randomness are passed in.

#![forbid(unsafe_code)]

pub mod agent;
pub mod breaker;
pub mod checks;
pub mod covered;
pub mod decide;
pub mod definition;
pub mod ejection;
pub mod evidence;
pub mod failing;
pub mod feedback;
pub mod known;
pub mod latency;
pub mod lower;
#[expect(clippy::module_inception, reason = "it holds what the files beside it decide on")]
pub mod pool;
pub mod selection;
pub mod slow_start;
#[cfg(test)]
mod testing;
pub mod vips;
pub mod weigh;
