//! `xdp-lb top`: services, backends, dropped packets and events on one screen, as they change.

mod draw;
mod keys;
mod model;

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use ratatui::crossterm::event::{self, Event};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use self::keys::Wish;
use self::model::{Action, Model};
use super::units::number_of;
use crate::api::client::{Client, Error};
use crate::model::event::EventView;
use crate::model::request::{BackendPatch, Outcome, ServicePatch};
use crate::report::documents::{CounterView, StatusView};

/// Show services, backends, rates, drops and events on one screen, as they change
///
/// Keys: arrows select, s sorts, / filters, d drains, e enables, w changes a weight (each after confirmation), ? lists all
/// keys, q quits.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Top {
    /// Seconds between updates
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = number_of(1..=60u32))]
    interval: u32,
}

/// How long to wait before the events are asked for again.
const AGAIN: Duration = Duration::from_secs(2);

/// How many events are asked for at the start.
const EVENTS: u32 = 50;

/// What the daemon says at one time.
type Look = Result<(StatusView, Vec<CounterView>), Error>;

/// Whatever changes the screen.
enum News {
    Key(Event),
    Look(Box<Look>),
    Event(Box<EventView>),
    Done(Result<Outcome, Error>),
}

impl Top {
    pub(super) async fn execute(self, client: &Client) -> anyhow::Result<()> {
        if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
            bail!("top needs a terminal; without one: xdp-lb status --watch, or --output json");
        }
        let caller = client.whoami().await?;
        let mut model = Model::new(caller.admin);
        model.take_events(client.events(EVENTS).await?.events);
        let last = model.last_event();
        let (send, mut news) = mpsc::channel(64);
        // It ends with the process: a read of the terminal cannot be called off.
        let keys = send.clone();
        std::thread::spawn(
            move || while event::read().is_ok_and(|it| keys.blocking_send(News::Key(it)).is_ok()) {},
        );
        let followed = tokio::spawn(follow(client.clone(), last, send.clone()));
        let looked = tokio::spawn(look(client.clone(), self.interval, send.clone()));
        let mut terminal = ratatui::init();
        let shown = async {
            terminal.draw(|frame| draw::screen(frame, &mut model))?;
            while let Some(one) = news.recv().await {
                let mut next = Some(one);
                // What has come meanwhile is drawn together.
                while let Some(one) = next {
                    if take(&mut model, one, client, &send) {
                        return Ok(());
                    }
                    next = news.try_recv().ok();
                }
                terminal.draw(|frame| draw::screen(frame, &mut model))?;
            }
            Ok(())
        };
        let shown: io::Result<()> = shown.await;
        ratatui::restore();
        [followed, looked].iter().for_each(JoinHandle::abort);
        Ok(shown?)
    }
}

/// Takes in news; returns whether to quit.
fn take(model: &mut Model, news: News, client: &Client, send: &mpsc::Sender<News>) -> bool {
    match news {
        News::Look(look) => match *look {
            Ok((status, counters)) => model.take(status, counters),
            Err(error) => model.error = Some(error.to_string()),
        },
        News::Event(event) => model.take_events(vec![*event]),
        News::Done(Ok(outcome)) => model.say(outcome.trouble.is_none(), &outcome.message),
        News::Done(Err(error)) => model.say(false, &error.to_string()),
        News::Key(Event::Key(key)) if key.is_press() => match keys::press(model, key) {
            Some(Wish::Quit) => return true,
            Some(Wish::Do(action)) => {
                let (client, send) = (client.clone(), send.clone());
                tokio::spawn(async move { send.send(News::Done(carry_out(&client, action).await)).await });
            }
            None => {}
        },
        // Such as another size: it is drawn anew.
        News::Key(_) => {}
    }
    false
}

async fn carry_out(client: &Client, action: Action) -> Result<Outcome, Error> {
    match action {
        Action::Service(name, admin) => client.patch_service(&name, &ServicePatch::admin(admin)).await,
        Action::Backend(service, address, admin) => {
            client.patch_backend(&service, address, &BackendPatch::admin(admin)).await
        }
        Action::Weight(service, address, weight) => {
            client.patch_backend(&service, address, &BackendPatch::of("weight", weight)).await
        }
    }
}

/// Asks the daemon again and again.
async fn look(client: Client, seconds: u32, send: mpsc::Sender<News>) {
    let mut tick = interval(Duration::from_secs(seconds.into()));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let look = async { Ok((client.status().await?, client.counters().await?.counters)) };
        if send.send(News::Look(Box::new(look.await))).await.is_err() {
            return;
        }
    }
}

/// Follows the events, also over a restart of the daemon.
async fn follow(client: Client, mut last: Option<String>, send: mpsc::Sender<News>) {
    loop {
        if let Ok(mut watch) = client.watch(last.as_deref()).await {
            while let Ok(Some(event)) = watch.next().await {
                last = Some(event.id.clone());
                if send.send(News::Event(Box::new(event))).await.is_err() {
                    return;
                }
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}
