//! The thread that walks over the flow table: with millions of records, that takes too long for the owner task.

use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::mpsc::UnboundedSender;

use super::kernel::FlowTable;
use crate::datapath::{Counted, TablesView};

/// The result of a count of the flows.
pub(super) struct Finished {
    pub(super) counted: anyhow::Result<Counted>,
    pub(super) took: Duration,
}

enum Job {
    Count,
    Move { name: String, from: u32, to: u32 },
}

/// The thread, which ends when this is dropped.
pub(super) struct FlowWorker {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    view: Arc<TablesView>,
}

impl FlowWorker {
    /// Starts it. `view` shows the tables by which records are judged; counts are sent to `finished`.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(super) fn start(
        mut table: Box<dyn FlowTable>,
        view: Arc<TablesView>,
        finished: UnboundedSender<Finished>,
    ) -> anyhow::Result<Self> {
        let (jobs, given) = mpsc::channel();
        let work = move || {
            for job in given {
                match job {
                    Job::Count => {
                        let began = Instant::now();
                        let counted = table.count();
                        // The owner may have ended.
                        let _ = finished.send(Finished { counted, took: began.elapsed() });
                    }
                    Job::Move { name, from, to } => move_flows(table.as_mut(), &name, from, to),
                }
            }
        };
        let thread = thread::Builder::new().name("flows".into()).spawn(work);
        let thread = thread.context("cannot start the thread that counts the flows")?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread), view })
    }

    /// Starts a count.
    pub(super) fn count(&self) {
        self.give(Job::Count);
    }

    /// Moves recorded flows from a removed interface to its replacement.
    pub(super) fn move_flows(&self, name: &str, from: u32, to: u32) {
        self.give(Job::Move { name: name.to_owned(), from, to });
    }

    fn give(&self, job: Job) {
        // The thread runs as long as there may be jobs.
        let _ = self.jobs.as_ref().map(|jobs| jobs.send(job));
    }
}

impl Drop for FlowWorker {
    /// Waits for the thread, which takes at most one bucket of records, so that the next owner has the tables to itself.
    fn drop(&mut self) {
        self.view.end();
        self.jobs = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that counts the flows has ended in a panic");
        }
    }
}

fn move_flows(table: &mut dyn FlowTable, name: &str, from: u32, to: u32) {
    let flows = table.move_flows(from, to);
    if flows > 0 {
        tracing::info!("{name} was recreated: replies of {flows} recorded flows now leave through it");
    }
}
