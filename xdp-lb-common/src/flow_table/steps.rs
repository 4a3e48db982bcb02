//! The steps as plain calls: where no verifier has to be spared.

use super::memory::{Memory, Steps};
use super::outcome::{Begun, Found, Manner, Noted};
use super::record::Room;
use super::{claim, find, note, port_words, ports};
use crate::hash::FlowHash;
use crate::tables::Settings;
use crate::tables::flow::Direction;

/// A memory whose steps are plain calls.
pub trait Plain: Memory {}

impl<M: Plain> Steps for M {
    #[inline(always)]
    fn find_flow(&self, settings: &Settings, room: &mut Room) -> Found {
        find::find(self, &settings.hash_keys, room)
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
    fn take_lines(&self, room: &mut Room, bucket: u32) -> bool {
        claim::take_lines(self, room, bucket).is_some()
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
    fn take_port(&self, settings: &Settings, room: &mut Room, from: FlowHash, scarce: bool) -> bool {
        ports::take_of_line(self, settings, room, from, scarce).is_some()
    }

    #[inline(always)]
    fn yields(&self, settings: &Settings, room: &mut Room, there: u64, scarce: bool) -> bool {
        ports::yields(self, settings, room, there, scarce)
    }

    #[inline(always)]
    fn note_packet(&self, room: &mut Room, direction: Direction, tcp_flags: u8) -> Noted {
        note::note_packet(self, room, direction, tcp_flags)
    }
}
