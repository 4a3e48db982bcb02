//! The steps as plain calls, outside the kernel.

use super::memory::{Memory, Steps};
use super::outcome::{Begun, Found, Manner, Noted};
use super::record::Room;
use super::tags::Matches;
use super::{claim, find, note, port_words, ports};
use crate::hash::FlowHash;
use crate::tables::Settings;
use crate::tables::flow::Direction;

/// A memory whose steps are plain calls.
pub trait Plain: Memory {}

impl<M: Plain> Steps for M {
    #[inline(always)]
    fn find_flow(&self, settings: &Settings, room: &mut Room) -> Found {
        find::find(self, settings, room)
    }

    #[inline(always)]
    fn find_flow_of_reply(&self, settings: &Settings, room: &mut Room) -> Found {
        port_words::find(self, &settings.hash_keys, room)
    }

    #[inline(always)]
    fn begin_flow(&self, settings: &Settings, room: &mut Room, manner: Manner) -> Begun {
        claim::begin(self, settings, room, manner)
    }

    #[inline(always)]
    fn aim(&self, settings: &Settings, room: &mut Room) {
        room.aim(&settings.hash_keys);
    }

    #[inline(always)]
    fn find_in(&self, room: &mut Room, place: u32, matches: Matches) -> Found {
        find::find_in(self, room, place, matches)
    }

    #[inline(always)]
    fn take_lines(&self, room: &mut Room, behind: u32) -> bool {
        claim::take_lines(self, room, behind).is_some()
    }

    #[inline(always)]
    fn worth(&self, settings: &Settings, room: &mut Room, place: u32) -> u32 {
        claim::worth(self, settings, room, place)
    }

    #[inline(always)]
    fn make_way(&self, settings: &Settings, room: &mut Room, place: u32) {
        claim::make_way(self, settings, room, place);
    }

    #[inline(always)]
    fn take_port(&self, settings: &Settings, room: &mut Room, from: FlowHash) -> bool {
        ports::take_of_line(self, settings, room, from).is_some()
    }

    #[inline(always)]
    fn port_entry(&self, settings: &Settings, room: &mut Room, from: FlowHash, number: u32) -> u64 {
        ports::entry_of_line(self, settings, room, from, number).unwrap_or(0)
    }

    #[inline(always)]
    fn take_port_of(
        &self,
        settings: &Settings,
        room: &mut Room,
        from: FlowHash,
        number: u32,
        there: u64,
    ) -> bool {
        ports::take_one_of_line(self, settings, room, from, number, there).is_some()
    }

    #[inline(always)]
    fn yields(&self, settings: &Settings, room: &mut Room, there: u64, patience: u32) -> bool {
        ports::yields(self, settings, room, there, patience)
    }

    #[inline(always)]
    fn note_packet(&self, room: &mut Room, direction: Direction, tcp_flags: u8) -> Noted {
        note::note_packet(self, room, direction, tcp_flags)
    }
}
