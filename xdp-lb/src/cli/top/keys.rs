//! What the keys do.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::model::{Action, Id, Mode, Model, Row};
use crate::cli::backend;
use crate::cli::units::{counted, percent};
use crate::model::state::AdminState;
use crate::report::documents::BackendView;

/// All keys, for the help.
pub(super) const KEYS: &[(&str, &str)] = &[
    ("up, down, j, k", "select a row"),
    ("PgUp, PgDn, Home, End", "a page further; the first and the last row"),
    ("s", "sort by the next of: name, new flows, packets, bits, errors"),
    ("r", "the other way round"),
    ("/", "filter by name, address, state or mode; Esc ends it"),
    ("d", "drain the selected backend or service"),
    ("e", "enable it"),
    ("w", "change the weight of the selected backend"),
    ("q, Ctrl-C", "quit"),
];

/// What a key asks for beyond the screen.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Wish {
    Quit,
    Do(Action),
}

/// Takes in a key.
pub(super) fn press(model: &mut Model, key: KeyEvent) -> Option<Wish> {
    if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
        return Some(Wish::Quit);
    }
    model.said = None;
    match model.mode.clone() {
        Mode::Look => return look(model, key.code),
        Mode::Help => model.mode = Mode::Look,
        Mode::Filter => filter(model, key.code),
        Mode::Weigh(service, address, text) => match key.code {
            KeyCode::Esc => model.mode = Mode::Look,
            KeyCode::Enter => weigh(model, service, address, &text),
            code => model.mode = Mode::Weigh(service, address, edited(text, code, char::is_numeric)),
        },
        Mode::Confirm(action, _) => {
            model.mode = Mode::Look;
            match key.code {
                KeyCode::Char('y' | 'Y') => return Some(Wish::Do(action)),
                _ => model.say(true, "nothing was changed"),
            }
        }
    }
    None
}

fn look(model: &mut Model, key: KeyCode) -> Option<Wish> {
    let page = model.page.max(1) as isize;
    match key {
        KeyCode::Char('q') => return Some(Wish::Quit),
        KeyCode::Up | KeyCode::Char('k') => model.step(-1),
        KeyCode::Down | KeyCode::Char('j') => model.step(1),
        KeyCode::PageUp => model.step(-page),
        KeyCode::PageDown => model.step(page),
        KeyCode::Home => model.step(isize::MIN),
        KeyCode::End => model.step(isize::MAX),
        KeyCode::Char('s') => model.sort = model.sort.next(),
        KeyCode::Char('r') => model.is_reversed = !model.is_reversed,
        KeyCode::Char('/') => model.mode = Mode::Filter,
        KeyCode::Esc => model.filter.clear(),
        KeyCode::Char('?' | 'h') => model.mode = Mode::Help,
        KeyCode::Char('d') => ask(model, AdminState::Draining),
        KeyCode::Char('e') => ask(model, AdminState::Enabled),
        KeyCode::Char('w') => ask_weight(model),
        _ => {}
    }
    None
}

fn filter(model: &mut Model, key: KeyCode) {
    match key {
        KeyCode::Enter => model.mode = Mode::Look,
        KeyCode::Esc => {
            model.filter.clear();
            model.mode = Mode::Look;
        }
        key => model.filter = edited(std::mem::take(&mut model.filter), key, |letter| !letter.is_control()),
    }
}

fn edited(mut text: String, key: KeyCode, is_good: impl Fn(char) -> bool) -> String {
    match key {
        KeyCode::Backspace => drop(text.pop()),
        KeyCode::Char(letter) if is_good(letter) => text.push(letter),
        _ => {}
    }
    text
}

/// The selected row, if the caller may change it.
fn changeable(model: &mut Model) -> Option<Id> {
    let rows = model.rows();
    let id = rows.get(model.place(&rows)).map(Row::id);
    if !model.is_admin {
        model.say(false, "you have read access only");
        return None;
    }
    id
}

/// The state that an operator's key asks for, in words.
const fn verb(admin: AdminState) -> &'static str {
    match admin {
        AdminState::Draining => "Drain",
        AdminState::Enabled => "Enable",
    }
}

/// Asks whether to drain or enable the selected row, and says what that does.
fn ask(model: &mut Model, admin: AdminState) {
    let Some(id) = changeable(model) else { return };
    let verb = verb(admin);
    let asked = match id {
        Id::Service(name) => {
            let does = match admin {
                AdminState::Draining => {
                    "no backend of it gets new flows; established ones stay until they end"
                }
                AdminState::Enabled => "its backends get new flows again",
            };
            Mode::Confirm(Action::Service(name.clone(), admin), format!("{verb} the service {name}? {does}"))
        }
        Id::Backend(service, address) => {
            let does = match (admin, model.backend(&service, address)) {
                (AdminState::Draining, Some(backend)) => drained(backend),
                _ => "it gets new flows again once its health check succeeds".into(),
            };
            let words = format!("{verb} {address} of {service}? {does}");
            Mode::Confirm(Action::Backend(service, address, admin), words)
        }
    };
    model.mode = asked;
}

fn drained(backend: &BackendView) -> String {
    let flows = match backend.flows_complete {
        true => format!("its {}", counted(backend.flows, "flow")),
        false => "its flows".into(),
    };
    format!("it gets no new flows (now {} of them); {flows} stay until they end", percent(backend.share))
}

fn ask_weight(model: &mut Model) {
    match changeable(model) {
        Some(Id::Backend(service, address)) => {
            let weight =
                model.backend(&service, address).map_or_else(String::new, |it| it.weight.to_string());
            model.mode = Mode::Weigh(service, address, weight);
        }
        Some(Id::Service(_)) => model.say(false, "select a backend: services have no weight"),
        None => {}
    }
}

/// Asks whether a backend is to have this weight, and says which share that gives.
fn weigh(model: &mut Model, service: String, address: std::net::SocketAddr, text: &str) {
    let Ok(weight) = text.parse::<u16>() else {
        model.say(false, "a weight is a number from 0 to 65535");
        return;
    };
    let others = model.status.iter().flat_map(|status| &status.backends);
    let others = others.filter(|it| it.service == service && it.address != address);
    let others: f64 = others.filter(|it| it.state.takes_new_flows()).map(backend::present_weight).sum();
    let all = others + f64::from(weight);
    let share = if all == 0.0 { 0.0 } else { f64::from(weight) / all };
    let words = format!(
        "Weight {weight} for {address} of {service}? It gets about {} of new flows; established ones stay",
        percent(share)
    );
    model.mode = Mode::Confirm(Action::Weight(service, address, weight), words);
}
