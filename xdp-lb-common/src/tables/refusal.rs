//! `REFUSALS`: packets that were not forwarded, by service and backend, as long as the program is loaded.

use super::BackendIndex;
use crate::layout::key;

key! {
    /// The key of `REFUSALS`. The value is the number of packets.
    pub struct RefusalKey {
        /// The index of their service plus 1. 0: the service of the backend that sent them.
        pub service: u32,
        /// The backend that was selected, or that sent them. 0: none.
        pub backend: BackendIndex,
        /// Why, as the number of the [`Reason`](crate::reason::Reason).
        pub reason: u32,
    }
}
