//! Discovery of backends: a small task for each service with discovery, which reports its results to the owner task.

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

/// A result of a service's discovery.
#[derive(Clone, Debug)]
pub struct Update {
    /// The service.
    pub service: String,
    /// The method. A result of another method is out of date.
    pub discovery: Discovery,
    /// The backends, or why there are none, in words. In that case the previous result stays valid.
    pub result: Result<Found, String>,
    /// The time until the next lookup. `None` if it does not depend on time.
    pub next: Option<Duration>,
}

/// The backends that discovery found.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Found {
    /// All current backends. They conform to the rules of their service, and no two share an address.
    pub backends: Vec<Backend>,
    /// Entries that are not used, and why, in words.
    pub refused: Vec<String>,
}

/// Discovers backends until it is dropped.
#[derive(Debug)]
pub struct Discoverer {
    updates: mpsc::Sender<Update>,
    tasks: Mutex<HashMap<String, (Service, Task)>>,
}

/// A task that is aborted when this is dropped.
#[derive(Debug)]
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Discoverer {
    /// A discoverer without services. While `updates` is full, its tasks wait.
    ///
    /// Call this, like `set_services`, within a tokio runtime.
    pub fn start(updates: mpsc::Sender<Update>) -> Self {
        Self { updates, tasks: Mutex::default() }
    }

    /// Replaces the services whose backends are discovered. An unchanged one continues undisturbed. Services without discovery
    /// are ignored, and so are lists of backends.
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
