//! What is on the screen: what the daemon said last, and what of it the operator wants to see.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;

use crate::model::event::EventView;
use crate::model::state::AdminState;
use crate::report::documents::{BackendView, CounterView, ServiceView, StatusView, TrafficView};

/// How many values a trend has.
pub(super) const TREND: usize = 60;

/// How many events are kept.
const EVENTS: usize = 200;

/// What a row is of.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Id {
    Service(String),
    Backend(String, SocketAddr),
}

/// A row: a service, or below it one of its backends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Row<'a> {
    Service(&'a ServiceView),
    Backend(&'a BackendView),
}

impl Row<'_> {
    pub(super) fn id(&self) -> Id {
        match self {
            Self::Service(service) => Id::Service(service.name.clone()),
            Self::Backend(backend) => Id::Backend(backend.service.clone(), backend.address),
        }
    }
}

/// By what rows are ordered: services, and the backends of each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sort {
    Name,
    NewFlows,
    Packets,
    Bits,
    Errors,
}

impl Sort {
    pub(super) const ALL: [Self; 5] = [Self::Name, Self::NewFlows, Self::Packets, Self::Bits, Self::Errors];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::NewFlows => "new flows",
            Self::Packets => "packets",
            Self::Bits => "bits",
            Self::Errors => "errors",
        }
    }

    pub(super) fn next(self) -> Self {
        let place = Self::ALL.iter().position(|it| *it == self).unwrap_or(0);
        Self::ALL[(place + 1) % Self::ALL.len()]
    }

    fn compare(self, one: &TrafficView, other: &TrafficView) -> Ordering {
        let value = |traffic: &TrafficView| match self {
            Self::Name => 0.0,
            Self::NewFlows => traffic.new_flows_per_second,
            Self::Packets => traffic.packets_per_second,
            Self::Bits => traffic.bytes_per_second,
            Self::Errors => traffic.resets_per_second,
        };
        // Highest first.
        value(other).total_cmp(&value(one))
    }
}

/// A change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Action {
    Service(String, AdminState),
    Backend(String, SocketAddr, AdminState),
    Weight(String, SocketAddr, u16),
}

/// What keys are for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    /// Moving about.
    Look,
    /// Writing the filter.
    Filter,
    /// Writing a weight of this backend.
    Weigh(String, SocketAddr, String),
    /// Answering whether this is to be done, which is described.
    Confirm(Action, String),
    /// Reading which keys there are.
    Help,
}

/// All of it.
pub(super) struct Model {
    /// Whether the caller may change things.
    pub(super) is_admin: bool,
    pub(super) status: Option<StatusView>,
    pub(super) counters: Vec<CounterView>,
    pub(super) events: VecDeque<EventView>,
    /// Why the daemon did not answer last.
    pub(super) error: Option<String>,
    /// What a change had for an answer, and whether it succeeded.
    pub(super) said: Option<(bool, String)>,
    pub(super) mode: Mode,
    pub(super) filter: String,
    pub(super) sort: Sort,
    pub(super) is_reversed: bool,
    pub(super) selected: Option<Id>,
    /// The first row on the screen.
    pub(super) offset: usize,
    /// How many rows the screen has.
    pub(super) page: usize,
    /// Packets per second of each row, the latest last.
    trends: HashMap<Id, VecDeque<f64>>,
    /// Of all: bits, packets, new flows and dropped packets per second.
    pub(super) totals: [VecDeque<f64>; 4],
}

impl Model {
    pub(super) fn new(is_admin: bool) -> Self {
        Self {
            is_admin,
            status: None,
            counters: Vec::new(),
            events: VecDeque::new(),
            error: None,
            said: None,
            mode: Mode::Look,
            filter: String::new(),
            sort: Sort::Name,
            is_reversed: false,
            selected: None,
            offset: 0,
            page: 1,
            trends: HashMap::new(),
            totals: Default::default(),
        }
    }

    /// Takes in what the daemon says now.
    pub(super) fn take(&mut self, status: StatusView, counters: Vec<CounterView>) {
        let sum = |rate: fn(&TrafficView) -> f64| status.services.iter().map(|it| rate(&it.traffic)).sum();
        let totals = [
            8.0 * sum(|it| it.bytes_per_second),
            sum(|it| it.packets_per_second),
            sum(|it| it.new_flows_per_second),
            status.dropped_per_second,
        ];
        self.totals.iter_mut().zip(totals).for_each(|(trend, value)| push(trend, value));
        let rows = status.services.iter().map(|it| (Row::Service(it).id(), it.traffic.packets_per_second));
        let rows = rows
            .chain(status.backends.iter().map(|it| (Row::Backend(it).id(), it.traffic.packets_per_second)));
        let mut present = HashSet::new();
        for (id, rate) in rows {
            push(self.trends.entry(id.clone()).or_default(), rate);
            present.insert(id);
        }
        self.trends.retain(|id, _| present.contains(id));
        (self.status, self.counters, self.error) = (Some(status), counters, None);
    }

    pub(super) fn take_events(&mut self, events: Vec<EventView>) {
        self.events.extend(events);
        let old = self.events.len().saturating_sub(EVENTS);
        self.events.drain(..old);
    }

    /// The ID of the last event.
    pub(super) fn last_event(&self) -> Option<String> {
        self.events.back().map(|event| event.id.clone())
    }

    /// Shows an answer until the next key.
    pub(super) fn say(&mut self, is_good: bool, words: &str) {
        self.said = Some((is_good, words.to_owned()));
    }

    pub(super) fn trend(&self, id: &Id) -> Option<&VecDeque<f64>> {
        self.trends.get(id)
    }

    /// The rows that fit the filter, in order.
    pub(super) fn rows(&self) -> Vec<Row<'_>> {
        let Some(status) = &self.status else { return Vec::new() };
        let mut backends: HashMap<&str, Vec<&BackendView>> = HashMap::new();
        for backend in &status.backends {
            backends.entry(&backend.service).or_default().push(backend);
        }
        let mut services: Vec<&ServiceView> = status.services.iter().collect();
        services.sort_by(|one, other| {
            let by_name = || one.name.cmp(&other.name);
            self.directed(self.sort.compare(&one.traffic, &other.traffic), by_name)
        });
        let filter = self.filter.to_lowercase();
        let fits = |text: String| filter.split_whitespace().all(|word| text.to_lowercase().contains(word));
        let mut rows = Vec::new();
        for service in services {
            let of_service =
                format!("{} {} {} {}", service.name, service.vip, service.protocol, service.mode);
            let is_whole = fits(of_service.clone());
            let mut own = backends.remove(service.name.as_str()).unwrap_or_default();
            own.retain(|it| is_whole || fits(format!("{of_service} {} {}", it.address, it.state.name())));
            own.sort_by(|one, other| {
                let by_name = || one.address.cmp(&other.address);
                self.directed(self.sort.compare(&one.traffic, &other.traffic), by_name)
            });
            if is_whole || !own.is_empty() {
                rows.push(Row::Service(service));
                rows.extend(own.into_iter().map(Row::Backend));
            }
        }
        rows
    }

    fn directed(&self, order: Ordering, by_name: impl Fn() -> Ordering) -> Ordering {
        let order = if self.sort == Sort::Name { by_name() } else { order };
        let order = if self.is_reversed { order.reverse() } else { order };
        order.then_with(by_name)
    }

    /// The place of the selected row: the first one, if that has gone.
    pub(super) fn place(&self, rows: &[Row<'_>]) -> usize {
        let selected = self.selected.as_ref();
        rows.iter().position(|row| Some(&row.id()) == selected).unwrap_or(0)
    }

    /// Selects the row that is so many places further.
    pub(super) fn step(&mut self, by: isize) {
        let rows = self.rows();
        let last = rows.len().saturating_sub(1);
        let place = self.place(&rows).saturating_add_signed(by).min(last);
        self.selected = rows.get(place).map(Row::id);
    }

    /// The backend of this service at this address.
    pub(super) fn backend(&self, service: &str, address: SocketAddr) -> Option<&BackendView> {
        let backends = &self.status.as_ref()?.backends;
        backends.iter().find(|it| it.service == service && it.address == address)
    }
}

fn push(trend: &mut VecDeque<f64>, value: f64) {
    trend.push_back(value);
    if trend.len() > TREND {
        trend.pop_front();
    }
}
