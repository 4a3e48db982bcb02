//! The life of the process: start, upgrade, privileges, end.

#[expect(unsafe_code, reason = "it forks")]
pub mod orphan;
pub mod privilege;
#[expect(unsafe_code, reason = "it sets the allocator up")]
pub mod run;
pub mod standby;
pub mod upgrade;
