//! Loading, attaching, pinning and adopting the program, and its tables as types: the only place
//! that touches a BPF map.

mod addresses;
mod beside;
mod census;
mod checks;
mod classifier;
mod clock;
mod decapsulator;
mod directory;
mod events;
mod flow_counts;
mod flow_keeper;
mod former;
mod grace;
mod link;
mod links;
mod load;
mod maps;
mod memory;
mod own_macs;
mod pins;
mod plain;
mod program;
mod ranges;
mod rows;
mod settings;
mod unload;
mod verifier;
mod view;
mod vips;

pub use census::{Census, Count};
pub use checks::Checks;
pub use clock::monotonic_seconds;
pub use decapsulator::Decapsulator;
pub use events::Events;
pub use flow_counts::FlowCounts;
pub use flow_keeper::{Counted, FlowKeeper};
pub use former::check_layout;
pub use load::Options;
pub use maps::{Counters, FlowRecords, Sizes};
pub use pins::{is_denied, is_pinned};
pub use program::{Attached, Datapath, NoInterface, Prepared};
pub use ranges::port_ranges;
pub use settings::{Policy, hash_keys};
pub use unload::unload;
pub use view::TablesView;
