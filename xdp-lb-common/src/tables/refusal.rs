//! `REFUSALS`: packets that were not forwarded, by service and backend, for as long as the program is there.

use super::BackendIndex;
use crate::layout::key;

key! {
    /// The key of `REFUSALS`: packets that one reason met. The value is how many.
    pub struct RefusalKey {
        /// The index of the service that they were for, with 1 added; 0: that of the backend that they were from.
        pub service: u32,
        /// The backend, where one was chosen or had sent them; 0: none.
        pub backend: BackendIndex,
        /// Why, as the number of the [`Reason`](crate::reason::Reason).
        pub reason: u32,
    }
}
