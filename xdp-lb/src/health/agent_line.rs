//! Parsing an agent's reply: one line of HAProxy's agent-check protocol (its configuration manual, `agent-check`).

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::text::clipped;

/// The longest line that is read, in bytes, including its end.
pub(super) const LONGEST_LINE: usize = 1024;

/// The largest weight that an agent can ask for, in percent of the configured one. Larger values count as this.
pub const MOST_PERCENT: u16 = 200;

/// The longest description that is kept, in characters.
const LONGEST_NOTE: usize = 80;

/// An agent's reply. What it does not mention stays as in earlier replies.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AgentReply {
    /// Whether the backend should get flows.
    pub admin: Option<AgentAdmin>,
    /// Whether the backend works.
    pub operation: Option<AgentOperation>,
    /// The wanted weight in percent of the configured one, at most [`MOST_PERCENT`].
    pub percent: Option<u16>,
    /// The description after `#`: printable, at most 80 characters.
    pub note: Option<String>,
}

/// Whether a backend's agent wants new flows for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AgentAdmin {
    /// It does.
    #[default]
    Ready,
    /// No new ones.
    Drain,
    /// No new ones: it is under maintenance.
    Maint,
}

/// Whether a backend works, according to its agent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AgentOperation {
    /// It does.
    #[default]
    Up,
    /// It does not.
    Down,
    /// It does not: it was stopped.
    Stopped,
    /// It does not: it fails a check of the agent's.
    Fail,
}

impl AgentAdmin {
    /// Its word in the protocol.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Maint => "maint",
        }
    }
}

impl AgentOperation {
    /// Its word in the protocol.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Stopped => "stopped",
            Self::Fail => "fail",
        }
    }
}

impl fmt::Display for AgentReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [
            self.admin.map(|admin| admin.name().to_owned()),
            self.operation.map(|operation| operation.name().to_owned()),
            self.percent.map(|percent| format!("{percent}%")),
            self.note.as_ref().map(|note| format!("# {note}")),
        ];
        f.write_str(&words.into_iter().flatten().collect::<Vec<_>>().join(" "))
    }
}

/// Parses a line without its end: words separated by spaces, tabs and commas, in upper or lower case. The last word of each kind
/// counts. A description starts with `#`. A line with an unknown word is refused as a whole: the peer may not be an agent.
pub(super) fn read(line: &[u8]) -> Result<AgentReply, String> {
    let line = String::from_utf8_lossy(line);
    let mut said = AgentReply::default();
    let mut rest = line.as_ref();
    loop {
        rest = rest.trim_start_matches(SEPARATORS);
        if let Some(note) = rest.strip_prefix('#') {
            said.note = printable(note);
            return Ok(said);
        }
        let (word, behind) = rest.split_at(rest.find(SEPARATORS).unwrap_or(rest.len()));
        if word.is_empty() {
            return Ok(said);
        }
        match word.to_ascii_lowercase().as_str() {
            "ready" => said.admin = Some(AgentAdmin::Ready),
            "drain" => said.admin = Some(AgentAdmin::Drain),
            "maint" => said.admin = Some(AgentAdmin::Maint),
            "up" => said.operation = Some(AgentOperation::Up),
            "down" => said.operation = Some(AgentOperation::Down),
            "stopped" => said.operation = Some(AgentOperation::Stopped),
            "fail" => said.operation = Some(AgentOperation::Fail),
            other => match percent(other) {
                Some(percent) => said.percent = Some(percent),
                None if is_limit_of_connections(other) => {}
                None => return Err(unknown(word, &line)),
            },
        }
        rest = behind;
    }
}

const SEPARATORS: [char; 3] = [' ', '\t', ','];

/// Reads `75%`.
fn percent(word: &str) -> Option<u16> {
    let digits = word.strip_suffix('%').filter(|digits| is_number(digits))?;
    // Also a number that does not fit into 64 bits.
    Some(digits.parse().map_or(MOST_PERCENT, |percent: u64| percent.min(MOST_PERCENT.into()) as u16))
}

/// `maxconn:30`, which HAProxy agents may send. xdp-lb does not limit connections by it, and ignores it.
fn is_limit_of_connections(word: &str) -> bool {
    word.strip_prefix("maxconn:").is_some_and(is_number)
}

fn is_number(digits: &str) -> bool {
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

fn unknown(word: &str, line: &str) -> String {
    let mut what = format!("agent reply not understood: unknown word {}", clipped(word, LONGEST_NOTE));
    if word != line {
        what += &format!(", in {}", clipped(line, LONGEST_NOTE));
    }
    what
}

/// A description, safe for a log or a terminal.
fn printable(note: &str) -> Option<String> {
    let note: String = note
        .trim()
        .chars()
        .map(|char| if is_printable(char) { char } else { '\u{fffd}' })
        .take(LONGEST_NOTE)
        .collect();
    (!note.is_empty()).then_some(note)
}

/// Whether a character can be shown as it is. `Debug` escapes the others, such as line separators and characters that override
/// the text's direction.
fn is_printable(char: char) -> bool {
    matches!(char, '"' | '\'' | '\\') || char.escape_debug().len() == 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn said(line: &str) -> Result<String, String> {
        read(line.as_bytes()).map(|said| said.to_string())
    }

    #[test]
    fn every_word_of_the_protocol_is_understood_in_any_combination() {
        for (line, meaning) in [
            ("up", "up"),
            ("down", "down"),
            ("stopped", "stopped"),
            ("fail", "fail"),
            ("ready", "ready"),
            ("drain", "drain"),
            ("maint", "maint"),
            ("75%", "75%"),
            ("0%", "0%"),
            ("up 75% # text", "up 75% # text"),
            ("UP,75%\tReady", "ready up 75%"),
            ("  ready  up ,, 5% ", "ready up 5%"),
            ("down # disk full, 98%", "down # disk full, 98%"),
            ("drain maint up down 10% 20%", "maint down 20%"),
            ("up maxconn:30 50%", "up 50%"),
            ("# nothing but words", "# nothing but words"),
            ("#", ""),
            ("", ""),
        ] {
            assert_eq!(said(line).as_deref(), Ok(meaning), "{line}");
        }
    }

    #[test]
    fn a_line_with_an_unknown_word_is_refused() {
        for (line, why) in [
            ("up 75", "agent reply not understood: unknown word \"75\", in \"up 75\""),
            ("drain foo", "agent reply not understood: unknown word \"foo\", in \"drain foo\""),
            ("7.5%", "agent reply not understood: unknown word \"7.5%\""),
            ("-5%", "agent reply not understood: unknown word \"-5%\""),
            ("%", "agent reply not understood: unknown word \"%\""),
            ("up#text", "agent reply not understood: unknown word \"up#text\""),
            ("maxconn:x", "agent reply not understood: unknown word \"maxconn:x\""),
            ("SSH-2.0-OpenSSH_9.9", "agent reply not understood: unknown word \"SSH-2.0-OpenSSH_9.9\""),
            ("\u{1b}[2Jup", "agent reply not understood: unknown word \"\\u{1b}[2Jup\""),
        ] {
            assert_eq!(said(line), Err(why.to_owned()));
        }
        let long = "x".repeat(1000);
        assert!(said(&long).unwrap_err().len() < 300);
    }

    #[test]
    fn more_than_twice_the_weight_counts_as_twice() {
        for (line, percent) in [("200%", 200), ("201%", 200), ("99999999999999999999999%", 200)] {
            assert_eq!(read(line.as_bytes()).unwrap().percent, Some(percent));
        }
    }

    #[test]
    fn a_description_is_escaped_and_truncated() {
        let note = |line: &str| read(line.as_bytes()).unwrap().note.unwrap();
        assert_eq!(note("up # a\u{1b}[31mb\u{202e}c"), "a\u{fffd}[31mb\u{fffd}c");
        assert_eq!(note(&format!("up #{}", "y".repeat(500))).chars().count(), LONGEST_NOTE);
    }

    proptest! {
        #[test]
        fn whatever_is_said_is_read_within_bounds(line in prop::collection::vec(any::<u8>(), 0..LONGEST_LINE)) {
            match read(&line) {
                Ok(said) => {
                    prop_assert!(said.percent.is_none_or(|percent| percent <= MOST_PERCENT));
                    prop_assert!(said.to_string().chars().all(|char| !char.is_control()));
                }
                Err(why) => prop_assert!(why.chars().all(|char| !char.is_control())),
            }
        }

        #[test]
        fn what_is_printed_is_read_as_the_same(words in "(ready|drain|maint)? ?(up|down|stopped|fail)?( 1?[0-9]?[0-9]%)?( # [a-z]{1,9})?") {
            if let Ok(said) = read(words.as_bytes()) {
                prop_assert_eq!(read(said.to_string().as_bytes()), Ok(said));
            }
        }
    }
}
