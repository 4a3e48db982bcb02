//! Loading, attaching, pinning and adopting the program, and its tables as types: the only place
//! that touches a BPF map.
