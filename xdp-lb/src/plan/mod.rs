//! The wanted contents of the tables, and the ordered writes that lead to them.

#![forbid(unsafe_code)]

pub mod draft;
#[cfg(test)]
pub mod flow_memory;
pub mod places;
pub mod planner;
pub mod room;
pub mod settling;
pub mod wanted;
pub mod writes;
