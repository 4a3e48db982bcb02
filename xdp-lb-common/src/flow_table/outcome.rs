//! The results of operations on the table.

/// The result of a lookup.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Found {
    /// The flow has no record.
    Nothing = 0,
    /// The flow has a record, which was copied.
    Record = 1,
    /// Another CPU took too long to write it.
    Busy = 2,
}

impl Found {
    /// From its number.
    #[inline(always)]
    pub const fn of(number: u32) -> Self {
        match number {
            0 => Self::Nothing,
            1 => Self::Record,
            _ => Self::Busy,
        }
    }
}

/// The result of an insertion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Begun {
    /// It is recorded: `Room::new` is its record.
    New = 0,
    /// Another CPU has already recorded it: `Room::record` is its record.
    Already = 1,
    /// There is no room.
    Full = 2,
    /// No port is free.
    NoPort = 3,
    /// Another CPU took too long with a lock or a line.
    Busy = 4,
}

impl Begun {
    /// From its number.
    #[inline(always)]
    pub const fn of(number: u32) -> Self {
        match number {
            0 => Self::New,
            1 => Self::Already,
            2 => Self::Full,
            3 => Self::NoPort,
            _ => Self::Busy,
        }
    }
}

/// How a flow is recorded: bits of a number, with its progress in the lowest eight.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Manner(pub u32);

impl Manner {
    /// It gets an SNAT port.
    pub const PORT: u32 = 1 << 8;
    /// It keeps its record's SNAT port, if it can: rather than another one, or else none.
    pub const OWN_PORT: u32 = 1 << 9;
    /// It takes the lines of the record that was found, which is no longer valid.
    pub const ANEW: u32 = 1 << 10;

    /// Whether this bit is set.
    #[inline(always)]
    pub const fn has(self, bit: u32) -> bool {
        self.0 & bit != 0
    }

    /// The flow's progress.
    #[inline(always)]
    pub const fn progress(self) -> u8 {
        self.0 as u8
    }
}

/// The result of noting a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Noted {
    /// The line has become another flow's record.
    Gone = 0,
    /// The packet changes nothing: an earlier one in the same second had noted the same.
    Nothing = 1,
    /// It changes the record.
    News = 2,
    /// It ends a flow that was counted.
    End = 3,
}

impl Noted {
    /// From its number.
    #[inline(always)]
    pub const fn of(number: u32) -> Self {
        match number {
            0 => Self::Gone,
            1 => Self::Nothing,
            2 => Self::News,
            _ => Self::End,
        }
    }
}
