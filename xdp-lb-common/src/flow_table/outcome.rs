//! What becomes of what is done with the table.

/// What became of a look-up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Found {
    /// The flow has none.
    Nothing = 0,
    /// It has a record: it is copied.
    Record = 1,
    /// Another CPU has been writing it for too long.
    Busy = 2,
}

impl Found {
    /// What has this number.
    #[inline(always)]
    pub const fn of(number: u32) -> Self {
        match number {
            0 => Self::Nothing,
            1 => Self::Record,
            _ => Self::Busy,
        }
    }
}

/// What became of a flow that was to be recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Begun {
    /// It is: `Room::new` is its record.
    New = 0,
    /// It is already, by another CPU: `Room::record` is its record.
    Already = 1,
    /// There is no room.
    Full = 2,
    /// No port is free.
    NoPort = 3,
    /// Another CPU has held what this one needs for too long.
    Busy = 4,
}

impl Begun {
    /// What has this number.
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

/// How a flow is recorded: bits of one number, with its progress in the lowest eight.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Manner(pub u32);

impl Manner {
    /// It gets a port that its backend knows it by.
    pub const PORT: u32 = 1 << 8;
    /// It keeps the port that its record has, if it can: before another one, or alone.
    pub const OWN_PORT: u32 = 1 << 9;
    /// It takes the lines of the record that was found, which holds no more.
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

/// What became of a packet's note.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Noted {
    /// The record has become another flow's meanwhile.
    Gone = 0,
    /// The packet says nothing that one before it in the same second has not said.
    Nothing = 1,
    /// It says something.
    News = 2,
    /// It says that the flow has ended, which was counted so far.
    End = 3,
}

impl Noted {
    /// What has this number.
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
