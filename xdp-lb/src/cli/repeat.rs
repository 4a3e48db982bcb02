//! `--watch`: a list again and again, in place.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use ratatui::crossterm::terminal;

use super::output::Screen;
use super::units::number_of;
use super::{Done, print};

/// Whether a list is shown again and again.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(super) struct Repeat {
    /// Show it again every 2 seconds (--watch=10: every 10), until Ctrl-C
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "2",
        value_parser = number_of(1..=3600u32)
    )]
    watch: Option<u32>,
}

/// Clears the screen and begins at its top (ECMA-48: CUP, ED).
const CLEAR: &str = "\x1b[H\x1b[2J";

impl Repeat {
    /// Makes the output once, or prints it again and again. While it cannot be made, such as during a restart of the daemon, the
    /// error is shown in its place.
    pub(super) async fn show(
        self,
        screen: &Screen,
        mut make: impl AsyncFnMut() -> anyhow::Result<Done>,
    ) -> anyhow::Result<Done> {
        let Some(seconds) = self.watch else { return make().await };
        // What is wrong with the command itself ends it.
        let mut made = Ok(make().await?);
        let is_terminal = io::stdout().is_terminal();
        loop {
            let text = match made {
                Ok(Done { text, .. }) => text,
                Err(error) => {
                    // A closed stderr is not an error.
                    let _ = is_terminal || writeln!(io::stderr(), "error: {error:#}").is_ok();
                    if is_terminal { format!("error: {error:#}\n") } else { String::new() }
                }
            };
            let text = match is_terminal {
                true => {
                    let (_, height) = terminal::size().unwrap_or((80, 24));
                    format!("{CLEAR}{}", cut(&text, height.into()))
                }
                // One after the other, as lists that are told apart.
                false if screen.format.is_table() => text + "\n",
                false => text,
            };
            if !print(&text)? {
                return Ok(Done { text: String::new(), code: ExitCode::SUCCESS });
            }
            tokio::time::sleep(Duration::from_secs(seconds.into())).await;
            made = make().await;
        }
    }
}

/// As many lines as the terminal has, the last of which says how many do not fit.
fn cut(text: &str, height: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    // The cursor stands below the last line.
    let room = height.saturating_sub(1).max(2);
    if lines.len() <= room {
        return text.to_owned();
    }
    let shown = room - 1;
    let mut text = lines[..shown].join("\n");
    text += &format!("\n... {} more lines: enlarge the terminal, or filter the list\n", lines.len() - shown);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_is_longer_than_the_terminal_ends_with_how_much_is_missing() {
        let text = "1\n2\n3\n4\n5\n";
        assert_eq!(cut(text, 6), text);
        assert_eq!(cut(text, 5), "1\n2\n3\n... 2 more lines: enlarge the terminal, or filter the list\n");
        assert!(cut(text, 0).starts_with("1\n... 4 more"), "{}", cut(text, 0));
    }
}
