//! From what is wanted to what is written: the tables as they should be, and the writes, in order, that make them so.

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
