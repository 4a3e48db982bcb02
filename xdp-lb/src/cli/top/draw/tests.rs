//! The screen as it is drawn, and what keys do to it.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent};

use super::*;
use crate::cli::top::keys::{Wish, press};
use crate::cli::top::model::Action;
use crate::model::state::TroubleKind;
use crate::report;
use crate::report::documents::{StatusView, TroubleView};

fn model() -> Model {
    let mut model = Model::new(true);
    let mut status = report::testing::status();
    status.backends[1].state = BackendState::Down;
    status.backends[1].traffic.packets_per_second = 9999.0;
    model.take(status, report::testing::counters());
    model
}

fn drawn(model: &mut Model, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| screen(frame, model)).unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..height).map(|y| line(y).trim_end().to_owned() + "\n").collect()
}

fn keys(model: &mut Model, text: &str) -> Option<Wish> {
    text.chars().fold(None, |_, letter| {
        let code = match letter {
            '\n' => KeyCode::Enter,
            '\x1b' => KeyCode::Esc,
            '\x08' => KeyCode::Backspace,
            letter => KeyCode::Char(letter),
        };
        press(model, KeyEvent::from(code))
    })
}

#[test]
fn all_that_matters_is_there_at_80_columns_and_more_on_wider_screens() {
    let mut model = model();
    let text = drawn(&mut model, 80, 24);
    for part in [
        "xdp-lb on lb-1  0.1.0  up 5m12s  2/2 services  2/3 backends",
        "web 192.0.2.10:80",
        "  198.51.100.12:8080 down",
        "FLOWS",
        "27 Mb/s",
        "ERRORS",
        "DROPPED AND ANSWERED",
        "flow_busy",
        "EVENTS (UTC)",
        "d drain  e enable  w weight",
    ] {
        assert!(text.contains(part), "{part:?} in\n{text}");
    }
    assert!(!text.contains("TREND") && !text.contains("CHECK"), "{text}");
    let wide = drawn(&mut model, 160, 40);
    assert!(wide.contains("TREND") && wide.contains("1.2 ms") && wide.contains('█'), "{wide}");
    let low = drawn(&mut model, 60, 10);
    assert!(low.contains("web 192.0.2.10:80") && !low.contains("EVENTS"), "{low}");
    drawn(&mut model, 1, 1);
}

#[test]
fn a_trouble_is_on_top_and_a_daemon_that_does_not_answer_is_said() {
    let mut model = model();
    let message = "the program is not attached to eth2".to_owned();
    let trouble = TroubleView { kind: TroubleKind::Interfaces, message, since_seconds: 7 };
    let status = StatusView { troubles: vec![trouble], ..report::testing::status() };
    model.take(status, Vec::new());
    assert!(drawn(&mut model, 80, 24).contains(" TROUBLE  the program is not attached to eth2"));
    model.error = Some("no daemon answers".into());
    assert!(drawn(&mut model, 80, 24).ends_with("no daemon answers\n"));
}

#[test]
fn rows_are_sorted_and_filtered_by_key() {
    let mut model = model();
    let first = |model: &mut Model| {
        let text = drawn(model, 80, 24);
        text.lines().nth(4).unwrap().split_whitespace().next().unwrap().to_owned()
    };
    assert_eq!(first(&mut model), "198.51.100.11:8080");
    keys(&mut model, "ss");
    assert_eq!(first(&mut model), "198.51.100.12:8080", "by packets");
    keys(&mut model, "r");
    assert_eq!(first(&mut model), "198.51.100.11:8080", "the other way round");
    keys(&mut model, "/down\n");
    let text = drawn(&mut model, 80, 24);
    assert!(
        text.contains("198.51.100.12") && !text.contains("198.51.100.11") && !text.contains("web6"),
        "{text}"
    );
    assert!(text.contains("filter: down"), "{text}");
    keys(&mut model, "/nothing\n");
    assert!(drawn(&mut model, 80, 24).contains("nothing fits the filter"));
    keys(&mut model, "\x1b");
    assert!(drawn(&mut model, 80, 24).contains("web6"));
}

#[test]
fn changes_are_confirmed_and_say_what_they_do() {
    let mut model = model();
    let address = "198.51.100.11:8080".parse().unwrap();
    assert_eq!(keys(&mut model, "jd"), None);
    let text = drawn(&mut model, 80, 24).replace('\n', " ");
    assert!(
        text.contains("Drain 198.51.100.11:8080 of web?") && text.contains("its 42 flows stay"),
        "{text}"
    );
    let drain = Action::Backend("web".into(), address, AdminState::Draining);
    assert_eq!(keys(&mut model, "y"), Some(Wish::Do(drain)));
    assert_eq!(keys(&mut model, "dn"), None);
    assert!(drawn(&mut model, 80, 24).contains("nothing was changed"));
    keys(&mut model, "w\x08\x08\x08300\n");
    let text = drawn(&mut model, 80, 24);
    assert!(text.contains("Weight 300 for 198.51.100.11:8080 of web?"), "{text}");
    assert_eq!(keys(&mut model, "y"), Some(Wish::Do(Action::Weight("web".into(), address, 300))));
    keys(&mut model, "w\x08\x08\x0870000\n");
    assert!(drawn(&mut model, 80, 24).contains("a number from 0 to 65535"));
    keys(&mut model, "\x1bk");
    assert_eq!(keys(&mut model, "ey"), Some(Wish::Do(Action::Service("web".into(), AdminState::Enabled))));
    model.is_admin = false;
    assert_eq!(keys(&mut model, "dy"), None);
    let text = drawn(&mut model, 80, 24);
    assert!(!text.contains("d drain"), "{text}");
    assert_eq!(keys(&mut model, "q"), Some(Wish::Quit));
}

#[test]
fn the_selection_stays_on_the_screen_among_ten_thousand_rows() {
    let mut model = model();
    let backends =
        (0..10_000u16).map(|number| report::testing::backend("web", &format!("198.51.100.7:{}", number + 1)));
    model.take(StatusView { backends: backends.collect(), ..report::testing::status() }, Vec::new());
    press(&mut model, KeyEvent::from(KeyCode::End));
    assert!(drawn(&mut model, 80, 24).contains("web6"), "the last row");
    keys(&mut model, "k");
    assert!(drawn(&mut model, 80, 24).contains("198.51.100.7:10000"));
    press(&mut model, KeyEvent::from(KeyCode::Home));
    assert!(drawn(&mut model, 80, 24).contains("web 192.0.2.10:80"));
}
