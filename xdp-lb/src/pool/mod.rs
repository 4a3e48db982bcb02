//! What is known of services and backends, and what follows from it: who takes new flows, and how many.

pub mod agent;
pub mod breaker;
pub mod ejection;
pub mod evidence;
pub mod failing;
pub mod feedback;
pub mod fleet;
pub mod latency;
pub mod selection;
pub mod slow_start;
