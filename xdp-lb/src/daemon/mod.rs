//! The life of the process: start, upgrade, privileges, end.

pub mod orphan;
pub mod privilege;
pub mod run;
pub mod standby;
pub mod upgrade;
