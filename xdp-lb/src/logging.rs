//! Where the log goes, and how it looks.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::format::debug_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

/// The environment variable with the format: programs that the daemon starts of itself have it, too.
pub const VARIABLE: &str = "XDP_LB_LOG_FORMAT";

/// How the log looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Format {
    /// Lines for people, on stderr.
    #[default]
    Text,
    /// A JSON document a line, on stderr.
    Json,
    /// systemd's journal, with each field as one of its own (`XDP_LB_SERVICE=web`).
    Journald,
}

/// Fields of events that are in the words of the line already.
const IN_WORDS: &[&str] = &[
    "event",
    "service",
    "backend",
    "before",
    "state",
    "reason",
    "seconds",
    "weight",
    "ratio",
    "kind",
    "interface",
    "up",
    "changes",
    "what",
    "trouble",
    "caller",
    "request",
    "status",
];

/// The format that was chosen.
static CHOSEN: OnceLock<Format> = OnceLock::new();

/// Starts the log, with the detail that `XDP_LB_LOG` asks for.
///
/// # Errors
/// If that is invalid, or there is no journal.
pub fn start(format: Format) -> Result<()> {
    let _ = CHOSEN.set(format);
    let filter = EnvFilter::builder()
        .with_env_var("XDP_LB_LOG")
        .with_default_directive(LevelFilter::INFO.into())
        .from_env()
        .context("XDP_LB_LOG is invalid: write info, debug, or xdp_lb::health=debug,info")?;
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match format {
        Format::Text => {
            let fields = debug_fn(|writer, field, value| match field.name() {
                "message" => write!(writer, "{value:?}"),
                name if IN_WORDS.contains(&name) => Ok(()),
                name => write!(writer, " {name}={value:?}"),
            });
            let lines = fmt::layer()
                .with_writer(io::stderr)
                .with_ansi(coloured(&io::stderr()))
                .with_target(false)
                .fmt_fields(fields.delimited(""));
            if journal_reads_stderr() { lines.without_time().boxed() } else { lines.boxed() }
        }
        Format::Json => fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .with_writer(io::stderr)
            .boxed(),
        Format::Journald => tracing_journald::layer()
            .context("cannot log to systemd's journal: without systemd, use --log-format text or json")?
            .with_field_prefix(Some("XDP_LB".into()))
            .with_syslog_identifier("xdp-lb".into())
            .boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
    Ok(())
}

/// Has a program that the daemon starts of itself log as this one.
pub fn hand_on(command: &mut Command) {
    if let Some(name) = CHOSEN.get().and_then(ValueEnum::to_possible_value) {
        command.env(VARIABLE, name.get_name());
    }
}

/// Whether a stream is coloured: a terminal, unless disabled by `NO_COLOR` (no-color.org) or `TERM=dumb`.
pub fn coloured(stream: &impl IsTerminal) -> bool {
    let unset = |name| std::env::var_os(name).is_none_or(|value| value.is_empty());
    stream.is_terminal() && unset("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Whether stderr goes to systemd's journal, which stamps each line itself: `JOURNAL_STREAM` names
/// the device and inode of that stream (systemd.exec(5)).
fn journal_reads_stderr() -> bool {
    let stream = || {
        let metadata = File::from(io::stderr().as_fd().try_clone_to_owned().ok()?).metadata().ok()?;
        Some(format!("{}:{}", metadata.dev(), metadata.ino()))
    };
    std::env::var("JOURNAL_STREAM").is_ok_and(|journal| Some(journal) == stream())
}
