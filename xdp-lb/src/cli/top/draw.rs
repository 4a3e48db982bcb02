//! The screen.

use std::collections::VecDeque;

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize as _};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Clear, Paragraph, Table, TableState, Wrap};

use super::keys::KEYS;
use super::model::{Mode, Model, Row};
use crate::cli::backend::flows;
use crate::cli::units::{latency, percent, rate, scaled, span};
use crate::model::event::{EventView, WatchEvent};
use crate::model::state::{AdminState, BackendState};
use crate::report::documents::{BackendView, ServiceView, TrafficView};

/// The lower part has so many lines, with its heading.
const LOWER: u16 = 7;
/// On lower screens it is left out.
const LOWEST: u16 = 20;

/// Draws all of it.
pub(super) fn screen(frame: &mut Frame, model: &mut Model) {
    let troubles = model.status.as_ref().map_or(0, |status| status.troubles.len().min(2)) as u16;
    let lower = if frame.area().height >= LOWEST { LOWER } else { 0 };
    let parts = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(troubles),
        Constraint::Min(3),
        Constraint::Length(lower),
        Constraint::Length(1),
    ]);
    let [head, totals, trouble, rows, lower, foot] = parts.areas(frame.area());
    frame.render_widget(head_line(model), head);
    frame.render_widget(total_line(model, totals.width), totals);
    draw_troubles(frame, model, trouble);
    draw_rows(frame, model, rows);
    if lower.height > 0 {
        let halves = Layout::horizontal([Constraint::Percentage(42), Constraint::Percentage(58)]);
        let [drops, events] = halves.areas(lower);
        draw_drops(frame, model, drops);
        draw_events(frame, model, events);
    }
    frame.render_widget(foot_line(model), foot);
    draw_dialog(frame, model);
}

fn head_line(model: &Model) -> Line<'static> {
    let Some(status) = &model.status else { return Line::from("xdp-lb: asking the daemon") };
    let serving = status.services.iter().filter(|it| it.backends_serving > 0).count();
    let up = status.backends.iter().filter(|it| it.state.takes_new_flows()).count();
    let part = |part: usize, all: usize, what: &str| {
        let text = format!("  {part}/{all} {what}");
        if part == all { Span::raw(text) } else { text.yellow() }
    };
    let host =
        if status.host.is_empty() { "xdp-lb".to_owned() } else { format!("xdp-lb on {}", status.host) };
    let mut spans = vec![
        host.bold(),
        Span::raw(format!("  {}  up {}", status.version, span(status.uptime_seconds))),
        part(serving, status.services.len(), "services"),
        part(up, status.backends.len(), "backends"),
    ];
    if status.admin == AdminState::Draining {
        spans.push("  NODE DRAINED".yellow().bold());
    }
    Line::from(spans)
}

fn total_line(model: &Model, width: u16) -> Line<'static> {
    // With trends where there is room for them.
    let room = usize::from(width.saturating_sub(72) / 4).min(30);
    let one = |number: usize, text: String, colour: Color| {
        let trend = spark(&model.totals[number], room);
        [Span::styled(trend, Style::new().fg(colour)), Span::raw(format!(" {text}   "))]
    };
    let last = |number: usize| model.totals[number].back().copied().unwrap_or(0.0);
    let dropped = if last(3) > 0.0 { Color::Red } else { Color::Reset };
    let parts = [
        one(0, bits(last(0) / 8.0), Color::Cyan),
        one(1, format!("{} packets", rate(last(1))), Color::Cyan),
        one(2, format!("{} new flows", rate(last(2))), Color::Cyan),
        one(3, format!("{} dropped", rate(last(3))), dropped),
    ];
    Line::from(parts.into_iter().flatten().collect::<Vec<_>>())
}

fn draw_troubles(frame: &mut Frame, model: &Model, area: Rect) {
    let Some(status) = &model.status else { return };
    let line = |message: &String| Line::from(vec![" TROUBLE ".black().on_red(), format!(" {message}").red()]);
    let lines: Vec<Line> = status.troubles.iter().map(|it| line(&it.message)).collect();
    frame.render_widget(Paragraph::new(lines), area);
}

/// A column: its heading, its width, and whether it is aligned to the right; from which width of the screen on it is there.
struct Column {
    heading: &'static str,
    width: u16,
    is_number: bool,
    from: u16,
}

const fn column(heading: &'static str, width: u16, is_number: bool, from: u16) -> Column {
    Column { heading, width, is_number, from }
}

const COLUMNS: [Column; 10] = [
    column("STATE", 10, false, 0),
    column("SHARE", 7, true, 64),
    column("FLOWS", 8, true, 72),
    column("NEW", 8, true, 0),
    column("PACKETS", 8, true, 0),
    column("BITS", 10, true, 0),
    column("ERRORS", 7, true, 80),
    column("CHECK", 7, true, 100),
    column("FOR", 7, true, 108),
    column("TREND", 20, false, 128),
];

fn draw_rows(frame: &mut Frame, model: &mut Model, area: Rect) {
    let rows = model.rows();
    let (count, place) = (rows.len(), model.place(&rows));
    let page = usize::from(area.height.saturating_sub(1)).max(1);
    let columns: Vec<&Column> = COLUMNS.iter().filter(|column| area.width >= column.from).collect();
    // As few rows as are seen: there may be tens of thousands.
    let offset = model.offset.min(count.saturating_sub(page)).clamp((place + 1).saturating_sub(page), place);
    let shown = rows.iter().skip(offset).take(page);
    let drawn: Vec<_> = shown.map(|row| drawn_row(model, row, &columns)).collect();
    let heading = |text: &str, is_number: bool| {
        let alignment = if is_number { Alignment::Right } else { Alignment::Left };
        Cell::from(Line::from(text.to_owned()).alignment(alignment))
    };
    let sorted = format!("SERVICE / BACKEND (by {})", model.sort.name());
    let head = [heading(&sorted, false)]
        .into_iter()
        .chain(columns.iter().map(|column| heading(column.heading, column.is_number)));
    let widths = [Constraint::Min(20)]
        .into_iter()
        .chain(columns.iter().map(|column| Constraint::Length(column.width)));
    let table = Table::new(drawn, widths)
        .header(
            ratatui::widgets::Row::new(head)
                .style(Style::new().add_modifier(Modifier::BOLD | Modifier::UNDERLINED)),
        )
        .column_spacing(1)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state = TableState::new().with_selected((count > 0).then_some(place - offset));
    frame.render_stateful_widget(table, area, &mut state);
    if count == 0 {
        let words = match (&model.status, model.filter.is_empty()) {
            (None, _) => "",
            (_, true) => "no services; to add one: xdp-lb service add, or edit the config file",
            (_, false) => "nothing fits the filter; Esc ends it",
        };
        let below = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area };
        frame.render_widget(Paragraph::new(words), below);
    }
    (model.offset, model.page) = (offset, page);
}

fn drawn_row(model: &Model, row: &Row<'_>, columns: &[&Column]) -> ratatui::widgets::Row<'static> {
    let (name, state, traffic) = match row {
        Row::Service(service) => {
            (format!("{} {}", service.name, service.vip).bold(), state_of_service(service), &service.traffic)
        }
        Row::Backend(backend) => {
            (Span::raw(format!("  {}", backend.address)), state(backend.state), &backend.traffic)
        }
    };
    let trend = || model.trend(&row.id()).map_or_else(String::new, |trend| spark(trend, 20));
    let value = |heading: &str| -> Line<'static> {
        let text = match heading {
            "STATE" => return Line::from(state.clone()),
            "TREND" => return Line::from(trend().cyan()),
            "NEW" => rate(traffic.new_flows_per_second),
            "PACKETS" => rate(traffic.packets_per_second),
            "BITS" => bits(traffic.bytes_per_second),
            "ERRORS" => return errors(traffic),
            _ => match row {
                Row::Service(_) => String::new(),
                Row::Backend(backend) => of_backend(backend, heading),
            },
        };
        Line::from(text)
    };
    let cells = columns.iter().map(|column| {
        let alignment = if column.is_number { Alignment::Right } else { Alignment::Left };
        Cell::from(value(column.heading).alignment(alignment))
    });
    ratatui::widgets::Row::new([Cell::from(name)].into_iter().chain(cells))
}

fn of_backend(backend: &BackendView, heading: &str) -> String {
    match heading {
        "SHARE" => percent(backend.share),
        "FLOWS" => flows(backend),
        "CHECK" => backend.check_latency_seconds.map_or_else(|| "-".into(), latency),
        "FOR" => span(backend.since_seconds),
        _ => String::new(),
    }
}

fn errors(traffic: &TrafficView) -> Line<'static> {
    let text = rate(traffic.resets_per_second);
    if traffic.resets_per_second > 0.0 { Line::from(text.red()) } else { Line::from(text) }
}

fn state(state: BackendState) -> Span<'static> {
    let colour = match state {
        BackendState::Up => Color::Green,
        BackendState::Draining | BackendState::Checking | BackendState::Standby | BackendState::HalfOpen => {
            Color::Yellow
        }
        BackendState::Panic | BackendState::Ejected | BackendState::Down | BackendState::Unresolved => {
            Color::Red
        }
    };
    Span::styled(state.name(), Style::new().fg(colour))
}

fn state_of_service(service: &ServiceView) -> Span<'static> {
    let serving = format!("{}/{}", service.backends_serving, service.backends);
    match (service.admin, service.backends_serving) {
        _ if service.panic.is_some() => "panic".red(),
        (AdminState::Draining, _) => "drained".yellow(),
        (_, 0) => serving.red(),
        (_, some) if some < service.backends => serving.yellow(),
        _ => serving.green(),
    }
}

fn draw_drops(frame: &mut Frame, model: &Model, area: Rect) {
    let mut counters: Vec<_> =
        model.counters.iter().filter(|it| it.verdict != "pass" && it.packets > 0).collect();
    counters.sort_by(|one, other| {
        let by_rate = other.packets_per_second.total_cmp(&one.packets_per_second);
        by_rate.then(other.packets.cmp(&one.packets))
    });
    let width = usize::from(area.width);
    let line = |(name, rate): (&str, f64)| {
        let value = crate::cli::units::rate(rate);
        let room = width.saturating_sub(value.chars().count() + 2);
        let text = format!("{name:<room$.room$} {value}");
        if rate > 0.0 { Line::from(text.red()) } else { Line::from(text) }
    };
    let lines: Vec<Line> = match counters.is_empty() {
        true => vec![Line::from("none since the tables were made")],
        false => counters.iter().map(|it| line((&it.name, it.packets_per_second))).collect(),
    };
    frame.render_widget(Paragraph::new(lines).block(titled("DROPPED AND ANSWERED")), area);
}

fn draw_events(frame: &mut Frame, model: &Model, area: Rect) {
    let room = usize::from(area.height.saturating_sub(1));
    let skipped = model.events.len().saturating_sub(room);
    let line = |event: &EventView| {
        // Of the time of day, without date and fraction.
        let time = event.time.get(11..19).unwrap_or_default().to_owned();
        Line::from(vec![time.dim(), Span::raw(format!(" {}", brief(&event.event)))])
    };
    let lines: Vec<Line> = match model.events.is_empty() {
        true => vec![Line::from("none yet")],
        false => model.events.iter().skip(skipped).map(line).collect(),
    };
    frame.render_widget(Paragraph::new(lines).block(titled("EVENTS (UTC)")), area);
}

/// An event in few words, of which the first matter most.
fn brief(event: &WatchEvent) -> String {
    match event {
        WatchEvent::Backend { service, address, before, state, reason, .. } => {
            let before = before.map_or_else(String::new, |before| format!("{} -> ", before.name()));
            format!("{service} {address} {before}{}: {reason}", state.name())
        }
        WatchEvent::Weight { service, address, ratio, reason, .. } => {
            format!("{service} {address} weight {} %: {reason}", (ratio * 100.0).round())
        }
        event => event.to_string(),
    }
}

fn titled(title: &'static str) -> Block<'static> {
    Block::new().title(title.bold()).borders(ratatui::widgets::Borders::TOP).border_style(Style::new().dim())
}

fn foot_line(model: &Model) -> Line<'static> {
    if let Some(error) = &model.error {
        return Line::from(error.clone().red());
    }
    if let Some((is_good, words)) = &model.said {
        return Line::from(if *is_good { words.clone().green() } else { words.clone().red() });
    }
    match &model.mode {
        Mode::Filter => Line::from(format!("filter: {}_   Enter: keep it, Esc: end it", model.filter)),
        Mode::Weigh(service, address, text) => {
            Line::from(format!("weight of {address} of {service}: {text}_   Enter, or Esc"))
        }
        _ => {
            let filter = match model.filter.is_empty() {
                true => String::new(),
                false => format!("filter: {}   ", model.filter),
            };
            let changes = if model.is_admin { "d drain  e enable  w weight  " } else { "" };
            Line::from(vec![filter.yellow(), format!("s sort  / filter  {changes}? help  q quit").dim()])
        }
    }
}

fn draw_dialog(frame: &mut Frame, model: &Model) {
    let (title, lines) = match &model.mode {
        Mode::Confirm(_, words) => (
            "CONFIRM",
            vec![
                Line::from(words.clone()),
                Line::from(""),
                Line::from("y: do it, any other key: do not".bold()),
            ],
        ),
        Mode::Help => {
            let line = |(key, does): &(&str, &str)| {
                Line::from(vec![format!("{key:<22}").bold(), Span::raw((*does).to_owned())])
            };
            ("KEYS", KEYS.iter().map(line).collect())
        }
        _ => return,
    };
    let area = frame.area();
    let width = area.width.saturating_sub(4).min(84);
    let inner = usize::from(width.saturating_sub(4).max(1));
    let height: usize = lines.iter().map(|line| line.width().div_ceil(inner).max(1)).sum();
    let height = (height as u16 + 3).min(area.height);
    let place = Rect { x: (area.width - width) / 2, y: (area.height - height) / 2, width, height };
    let block = Block::bordered().title(title.bold()).padding(ratatui::widgets::Padding::horizontal(1));
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: true }).block(block), place);
}

/// A rate of bytes as bits.
fn bits(bytes_per_second: f64) -> String {
    scaled(bytes_per_second * 8.0, "b/s")
}

/// The last values as a line of bars, of so many characters.
fn spark(values: &VecDeque<f64>, width: usize) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let shown: Vec<f64> = values.iter().skip(values.len().saturating_sub(width)).copied().collect();
    let highest = shown.iter().copied().fold(0.0, f64::max);
    let bar = |value: &f64| match highest {
        0.0 => BARS[0],
        _ => BARS[((value / highest) * 7.0).round().clamp(0.0, 7.0) as usize],
    };
    shown.iter().map(bar).collect()
}

#[cfg(test)]
mod tests;
