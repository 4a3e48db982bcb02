//! The flow table as BPF maps.

use core::arch::asm;
use core::cell::UnsafeCell;

use xdp_lb_common::flow_table::claim::begin;
use xdp_lb_common::flow_table::find;
use xdp_lb_common::flow_table::memory::Eviction;
use xdp_lb_common::flow_table::outcome::{Begun, Found, Manner, Noted};
use xdp_lb_common::flow_table::record::Room;
use xdp_lb_common::flow_table::tags::Matches;
use xdp_lb_common::flow_table::{LOCKS, Line, Memory, Steps, Word, claim, note, port_words, ports};
use xdp_lb_common::hash::FlowHash;
use xdp_lb_common::tables::Settings;
use xdp_lb_common::tables::flow::Direction;

use crate::maps::{FLOW_LINES, FLOW_LOCKS, FLOW_PORTS, FLOW_TAGS, REASON_COUNTERS, SETTINGS};

/// The flow table.
pub struct FlowTable;

/// Finds the record of the flow in the room. Returns a [`Found`].
///
/// These are global functions (5.6; with pointers, 5.12): the verifier checks each of them once, for any room. It would check
/// others again for each caller and each state.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xdp_lb_find_flow(room: *mut Room) -> u32 {
    // SAFETY: the verifier only accepts callers that pass a room of their own, or null.
    match (unsafe { room.as_mut() }, SETTINGS.get(0)) {
        (Some(room), Some(settings)) => find::find(&FlowTable, settings, room) as u32,
        _ => Found::Nothing as u32,
    }
}

/// Finds the record of the flow to which the backend's packet in the room belongs. Returns a [`Found`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xdp_lb_find_flow_of_reply(room: *mut Room) -> u32 {
    // SAFETY: as above.
    match (unsafe { room.as_mut() }, SETTINGS.get(0)) {
        (Some(room), Some(settings)) => port_words::find(&FlowTable, &settings.hash_keys, room) as u32,
        _ => Found::Nothing as u32,
    }
}

/// Records the flow in the room, in a [`Manner`]. Returns a [`Begun`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xdp_lb_begin_flow(room: *mut Room, manner: u32) -> u32 {
    // SAFETY: as above.
    match (unsafe { room.as_mut() }, SETTINGS.get(0)) {
        (Some(room), Some(settings)) => begin(&FlowTable, settings, room, Manner(manner)) as u32,
        _ => Begun::Full as u32,
    }
}

/// See [`Steps::aim`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xdp_lb_aim(room: *mut Room) -> u32 {
    // SAFETY: as above.
    if let (Some(room), Some(settings)) = (unsafe { room.as_mut() }, SETTINGS.get(0)) {
        room.aim(&settings.hash_keys);
    }
    0
}

/// See [`Steps::find_in`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xdp_lb_find_in(room: *mut Room, place: u32, matches: u64) -> u32 {
    let matches = Matches::from_bits(matches);
    // SAFETY: as above.
    match unsafe { room.as_mut() } {
        Some(room) => find::find_in(&FlowTable, room, place, matches) as u32,
        None => Found::Nothing as u32,
    }
}

/// See [`Steps::take_lines`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xdp_lb_take_lines(room: *mut Room, behind: u32) -> u32 {
    // SAFETY: as above.
    unsafe { room.as_mut() }.is_some_and(|room| claim::take_lines(&FlowTable, room, behind).is_some()) as u32
}

/// See [`Steps::worth`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xdp_lb_worth(room: *mut Room, place: u32) -> u32 {
    // SAFETY: as above.
    match (unsafe { room.as_mut() }, SETTINGS.get(0)) {
        (Some(room), Some(settings)) => claim::worth(&FlowTable, settings, room, place),
        _ => u32::MAX,
    }
}

/// See [`Steps::make_way`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xdp_lb_make_way(room: *mut Room, place: u32) -> u32 {
    // SAFETY: as above.
    if let (Some(room), Some(settings)) = (unsafe { room.as_mut() }, SETTINGS.get(0)) {
        claim::make_way(&FlowTable, settings, room, place);
    }
    0
}

/// See [`Steps::take_port`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xdp_lb_take_port(room: *mut Room, from: u32) -> u32 {
    let from = FlowHash::from_bits(from);
    // SAFETY: as above.
    match (unsafe { room.as_mut() }, SETTINGS.get(0)) {
        (Some(room), Some(settings)) => {
            ports::take_of_line(&FlowTable, settings, room, from).is_some() as u32
        }
        _ => 0,
    }
}

/// See [`Steps::port_entry`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xdp_lb_port_entry(room: *mut Room, from: u32, number: u32) -> u64 {
    let from = FlowHash::from_bits(from);
    // SAFETY: as above.
    match (unsafe { room.as_mut() }, SETTINGS.get(0)) {
        (Some(room), Some(settings)) => {
            ports::entry_of_line(&FlowTable, settings, room, from, number).unwrap_or(0)
        }
        _ => 0,
    }
}

/// See [`Steps::take_port_of`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xdp_lb_take_port_of(room: *mut Room, from: u32, number: u32, there: u64) -> u32 {
    let from = FlowHash::from_bits(from);
    // SAFETY: as above.
    match (unsafe { room.as_mut() }, SETTINGS.get(0)) {
        (Some(room), Some(settings)) => {
            ports::take_one_of_line(&FlowTable, settings, room, from, number, there).is_some() as u32
        }
        _ => 0,
    }
}

/// See [`Steps::yields`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xdp_lb_yields(room: *mut Room, there: u64, patience: u32) -> u32 {
    // SAFETY: as above.
    match (unsafe { room.as_mut() }, SETTINGS.get(0)) {
        (Some(room), Some(settings)) => ports::yields(&FlowTable, settings, room, there, patience) as u32,
        _ => 0,
    }
}

/// See [`Steps::note_packet`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xdp_lb_note_packet(room: *mut Room, is_reply: u32, tcp_flags: u32) -> u32 {
    let direction = if is_reply != 0 { Direction::Reply } else { Direction::Forward };
    // SAFETY: as above.
    match unsafe { room.as_mut() } {
        Some(room) => note::note_packet(&FlowTable, room, direction, tcp_flags as u8) as u32,
        None => Noted::Gone as u32,
    }
}

impl Memory for FlowTable {
    type Word = SharedWord;

    #[inline(always)]
    fn buckets(&self) -> u32 {
        SETTINGS.get(0).map_or(0, |settings| settings.flow_buckets)
    }

    #[inline(always)]
    fn tags(&self, bucket: u32) -> Option<&SharedWord> {
        FLOW_TAGS.get_ptr_mut(bucket).map(shared)
    }

    #[inline(always)]
    fn line(&self, place: u32) -> Option<&Line<SharedWord>> {
        FLOW_LINES.get_ptr_mut(place).map(shared)
    }

    #[inline(always)]
    fn lock(&self, hash: FlowHash) -> Option<&SharedWord> {
        FLOW_LOCKS.get_ptr_mut(hash.bits() % LOCKS).map(shared)
    }

    #[inline(always)]
    fn port(&self, place: u32) -> Option<&SharedWord> {
        FLOW_PORTS.get_ptr_mut(place).map(shared)
    }

    #[inline(always)]
    fn reach(&self) -> u32 {
        SETTINGS.get(0).map_or(0, |settings| settings.flow_reach)
    }

    #[inline(always)]
    fn note_reach(&self, number: u32) {
        if let Some(settings) = SETTINGS.get_ptr_mut(0) {
            // SAFETY: an aligned word, which is written atomically.
            unsafe { (&raw mut (*settings).flow_reach).write_volatile(number) };
        }
    }

    #[inline(always)]
    fn count_eviction(&self, cause: Eviction) {
        if let Some(counter) = REASON_COUNTERS.get_ptr_mut(cause.counter()) {
            // SAFETY: each CPU has its own, and a program is not interrupted by another of its kind.
            unsafe { *counter += 1 };
        }
    }

    #[inline(always)]
    #[allow(clippy::pointers_in_nomem_asm_block, reason = "the pointer is computed with, not followed")]
    fn after(line: &Line<SharedWord>, loaded: u64) -> &Line<SharedWord> {
        let mut line = core::ptr::from_ref(line);
        // SAFETY: the pointer does not change. The processor does not know that before `loaded` has been loaded.
        unsafe {
            asm!("{loaded} &= 0", "{line} += {loaded}", line = inout(reg) line, loaded = inout(reg) loaded => _,
                 options(pure, nomem, nostack));
            &*line
        }
    }
}

impl Steps for FlowTable {
    #[inline(always)]
    fn find_flow(&self, _: &Settings, room: &mut Room) -> Found {
        Found::of(xdp_lb_find_flow(room))
    }

    #[inline(always)]
    fn find_flow_of_reply(&self, _: &Settings, room: &mut Room) -> Found {
        Found::of(xdp_lb_find_flow_of_reply(room))
    }

    #[inline(always)]
    fn begin_flow(&self, _: &Settings, room: &mut Room, manner: Manner) -> Begun {
        Begun::of(xdp_lb_begin_flow(room, manner.0))
    }

    #[inline(always)]
    fn aim(&self, _: &Settings, room: &mut Room) {
        xdp_lb_aim(room);
    }

    #[inline(always)]
    fn find_in(&self, room: &mut Room, place: u32, matches: Matches) -> Found {
        Found::of(xdp_lb_find_in(room, place, matches.to_bits()))
    }

    #[inline(always)]
    fn take_lines(&self, room: &mut Room, behind: u32) -> bool {
        xdp_lb_take_lines(room, behind) != 0
    }

    #[inline(always)]
    fn worth(&self, _: &Settings, room: &mut Room, place: u32) -> u32 {
        xdp_lb_worth(room, place)
    }

    #[inline(always)]
    fn make_way(&self, _: &Settings, room: &mut Room, place: u32) {
        xdp_lb_make_way(room, place);
    }

    #[inline(always)]
    fn take_port(&self, _: &Settings, room: &mut Room, from: FlowHash) -> bool {
        xdp_lb_take_port(room, from.bits()) != 0
    }

    #[inline(always)]
    fn port_entry(&self, _: &Settings, room: &mut Room, from: FlowHash, number: u32) -> u64 {
        xdp_lb_port_entry(room, from.bits(), number)
    }

    #[inline(always)]
    fn take_port_of(&self, _: &Settings, room: &mut Room, from: FlowHash, number: u32, there: u64) -> bool {
        xdp_lb_take_port_of(room, from.bits(), number, there) != 0
    }

    #[inline(always)]
    fn yields(&self, _: &Settings, room: &mut Room, there: u64, patience: u32) -> bool {
        xdp_lb_yields(room, there, patience) != 0
    }

    #[inline(always)]
    fn note_packet(&self, room: &mut Room, direction: Direction, tcp_flags: u8) -> Noted {
        Noted::of(xdp_lb_note_packet(room, (direction == Direction::Reply) as u32, tcp_flags.into()))
    }
}

/// A word of the flow table.
#[repr(transparent)]
pub struct SharedWord(UnsafeCell<u64>);

/// A part of the flow table as words, which others may change.
#[inline(always)]
fn shared<T, S>(place: *mut T) -> &'static S {
    const { assert!(size_of::<T>() == size_of::<S>()) };
    // SAFETY: a map's values exist as long as the program runs, are aligned for words, and consist of words. The result's type
    // allows others to change them.
    unsafe { &*place.cast() }
}

impl Word for SharedWord {
    #[inline(always)]
    fn load(&self) -> u64 {
        // SAFETY: the cell is aligned and valid. Volatile: one instruction, on which the kernel's own READ_ONCE also relies.
        unsafe { self.0.get().read_volatile() }
    }

    #[inline(always)]
    fn store(&self, value: u64) {
        // SAFETY: as for `load`.
        unsafe { self.0.get().write_volatile(value) }
    }

    #[inline(always)]
    fn replace(&self, old: u64, new: u64) -> bool {
        let seen: u64;
        // SAFETY: the instruction (5.12) exchanges an aligned word of a map, and does nothing else. The standard library lacks
        // this operation for targets without known compare-and-exchange support.
        #[cfg(target_arch = "bpf")]
        unsafe {
            asm!("r0 = cmpxchg_64({place} + 0, r0, {new})", place = in(reg) self.0.get(), new = in(reg) new,
                 inout("r0") old => seen, options(nostack));
        }
        // Clippy checks this as if built for the host, which has no such register.
        #[cfg(not(target_arch = "bpf"))]
        {
            seen = self.load() ^ new;
        }
        seen == old
    }

    #[inline(always)]
    fn add(&self, by: u64) {
        // SAFETY: as for `replace`. With fetch: otherwise it is not a barrier on arm64.
        unsafe {
            asm!("{by} = atomic_fetch_add((u64 *)({place} + 0), {by})", place = in(reg) self.0.get(),
                 by = inout(reg) by => _, options(nostack));
        }
    }
}
