//! The wanted contents of the tables, and the ordered writes that get them there.

#![forbid(unsafe_code)]

pub mod draft;
#[cfg(test)]
mod fleet_memory;
#[cfg(test)]
pub mod flow_memory;
pub mod places;
pub mod planner;
pub mod room;
pub mod settling;
pub mod tracking;
pub mod wanted;
pub mod writes;
