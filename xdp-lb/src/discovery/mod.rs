//! Finding backends: a light task for each service that does, which tells the owner task what it finds.

mod answer;
mod dns;
mod document;
#[expect(unsafe_code, reason = "tokio wants a promise about the descriptor")]
mod file;
mod lookup;

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::model::{Backend, Discovery, Service, Source};

/// What a service's discovery came to.
#[derive(Clone, Debug)]
pub struct Update {
    /// Which service.
    pub service: String,
    /// How it was looked for: what was looked for otherwise is out of date.
    pub discovery: Discovery,
    /// What was found, or why nothing could be, in words; then what was found before holds.
    pub result: Result<Found, String>,
    /// How long until it is looked up again; `None` where it is not a matter of time.
    pub next: Option<Duration>,
}

/// What discovery found.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Found {
    /// All backends that there are now. They keep the rules of their service; no two share an address.
    pub backends: Vec<Backend>,
    /// What was found besides, and why it is not used, in words.
    pub refused: Vec<String>,
}

/// Looks for backends until it is dropped.
#[derive(Debug)]
pub struct Discoverer {
    updates: mpsc::Sender<Update>,
    tasks: Mutex<HashMap<String, (Service, Task)>>,
}

/// A task that ends when this is dropped.
#[derive(Debug)]
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Discoverer {
    /// One without services. Where `updates` is full, its tasks wait.
    ///
    /// To be called, like `set_services`, within a tokio runtime.
    pub fn start(updates: mpsc::Sender<Update>) -> Self {
        Self { updates, tasks: Mutex::default() }
    }

    /// Replaces the services whose backends are looked for. One that is the same as before goes on undisturbed; the
    /// definition of a service without discovery is passed over. Lists of backends do not matter.
    pub fn set_services(&self, services: Vec<Service>) {
        let mut running = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *running);
        for service in services {
            let Some(discovery) = service.discovery.clone() else { continue };
            let name = service.name.clone();
            let task = match before.remove(&name) {
                Some((same, task)) if same == service => task,
                _ => Task(self.spawn(service.clone(), discovery)),
            };
            running.insert(name, (service, task));
        }
    }

    fn spawn(&self, service: Service, discovery: Discovery) -> AbortHandle {
        let updates = self.updates.clone();
        let task = match discovery.source.clone() {
            Source::Dns(dns) => tokio::spawn(dns::follow(service, discovery, dns, updates)),
            Source::File(path) => tokio::spawn(file::follow(service, discovery, path, updates)),
        };
        task.abort_handle()
    }
}
