//! The recorded flows as API documents, a page at a time.

use std::collections::{BinaryHeap, HashMap};
use std::net::SocketAddr;

use xdp_lb_common::flow_table::record::Record;
use xdp_lb_common::net::Protocol;
use xdp_lb_common::tables::ServiceIndex;

use super::documents::{FlowView, FlowsView};
use super::snapshot::Snapshot;
use crate::model::refusal::{Answer, Refusal};
use crate::model::request::FlowQuery;
use crate::model::state::FlowStage;
use crate::model::{self, unknown};
use crate::pool::definition::vip;

/// A flow's position in the list: by service, backend and client.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Place<'a> {
    service: &'a str,
    backend: SocketAddr,
    client: SocketAddr,
    vip: SocketAddr,
    protocol: u8,
}

impl Place<'_> {
    /// As text, for the next request.
    fn cursor(&self) -> String {
        let Self { service, backend, client, vip, protocol } = self;
        format!("{service},{backend},{client},{vip},{protocol}")
    }

    fn read(cursor: &str) -> Option<Place<'_>> {
        let mut parts = cursor.split(',');
        let place = Place {
            service: parts.next()?,
            backend: parts.next()?.parse().ok()?,
            client: parts.next()?.parse().ok()?,
            vip: parts.next()?.parse().ok()?,
            protocol: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(place)
    }
}

/// The other fields of a flow, which do not affect the order.
#[derive(Clone, Copy, Debug)]
struct Rest {
    seen_from: SocketAddr,
    stage: FlowStage,
    idle_seconds: u32,
}

#[derive(Debug)]
struct Entry<'a>(Place<'a>, Rest);

impl PartialEq for Entry<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Entry<'_> {}

impl PartialOrd for Entry<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry<'_> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

/// The first entries in order, as many as fit on a page. The last one is on top of the heap.
struct Page<'a> {
    most: usize,
    entries: BinaryHeap<Entry<'a>>,
    /// Whether there are more after them.
    has_more: bool,
}

impl<'a> Page<'a> {
    fn take(&mut self, entry: Entry<'a>) {
        if self.entries.len() < self.most {
            self.entries.push(entry);
            return;
        }
        self.has_more = true;
        if let Some(mut last) = self.entries.peek_mut()
            && entry < *last
        {
            *last = entry;
        }
    }
}

impl Snapshot {
    /// The matching flows after the query's cursor, up to its limit, and the number of all matching ones. Takes a second for
    /// some millions of flows, and memory for one page. `now`: seconds of the kernel's monotonic clock.
    ///
    /// # Errors
    /// If the service does not exist or the cursor is invalid.
    pub fn flows(&self, query: &FlowQuery, now: u32) -> Answer<FlowsView> {
        let names = self.pool.effective().services.iter().filter_map(|service| {
            Some((self.tables.services.get(&vip(service))?.index, service.service.name.as_str()))
        });
        let names: HashMap<ServiceIndex, &str> = names.collect();
        if let Some(name) = &query.service
            && !names.values().any(|it| it == name)
        {
            return Err(unknown::unknown_service(name, names.values().map(ToString::to_string).collect()));
        }
        let after = match &query.cursor {
            None => None,
            Some(cursor) => Some(Place::read(cursor).ok_or_else(|| {
                Refusal::Invalid("invalid cursor: send `next` of the previous page unchanged".into())
            })?),
        };
        let most = query.limit.min(FlowQuery::MOST) as usize;
        let mut page = Page { most, entries: BinaryHeap::new(), has_more: false };
        let mut matching = 0;
        let visit = &mut |record: &Record| {
            let backend = self.tables.backends.get(&record.backend());
            let Some((backend, name)) = backend.and_then(|found| Some((found, *names.get(&found.service)?)))
            else {
                return;
            };
            let client = record.client().socket();
            let address = SocketAddr::new(backend.address.into(), backend.port.get());
            let sent_to = backend.endpoint_for(&record.vip()).socket();
            let matches = query.service.as_ref().is_none_or(|wanted| wanted == name)
                && query.backend.is_none_or(|wanted| wanted == address || wanted == sent_to)
                && query.client.is_none_or(|wanted| wanted == client.ip());
            if !matches {
                return;
            }
            matching += 1;
            let place = Place {
                service: name,
                backend: sent_to,
                client,
                vip: record.vip().socket(),
                protocol: record.protocol().0,
            };
            if after.as_ref().is_some_and(|after| place <= *after) {
                return;
            }
            let rest = Rest {
                seen_from: record.source().socket(),
                stage: record.life().stage(record.protocol()).into(),
                idle_seconds: record.life().idle(now),
            };
            page.take(Entry(place, rest));
        };
        self.flows.read(visit);
        let entries = page.entries.into_sorted_vec();
        let next = entries.last().filter(|_| page.has_more).map(|last| last.0.cursor());
        Ok(FlowsView { matching, flows: entries.into_iter().map(view).collect(), next })
    }
}

fn view(Entry(place, rest): Entry<'_>) -> FlowView {
    FlowView {
        service: place.service.to_owned(),
        protocol: match Protocol(place.protocol) {
            Protocol::UDP => model::Protocol::Udp,
            _ => model::Protocol::Tcp,
        },
        client: place.client,
        vip: place.vip,
        backend: place.backend,
        seen_from: rest.seen_from,
        stage: rest.stage,
        idle_seconds: rest.idle_seconds,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u16) -> Entry<'static> {
        let at = |port| SocketAddr::from(([192, 0, 2, 1], port));
        let place = Place { service: "web", backend: at(80), client: at(number), vip: at(80), protocol: 6 };
        Entry(place, Rest { seen_from: at(1), stage: FlowStage::Established, idle_seconds: 0 })
    }

    #[test]
    fn a_page_holds_the_first_in_order_whatever_order_they_come_in_and_no_more() {
        let mut page = Page { most: 3, entries: BinaryHeap::new(), has_more: false };
        for number in [5, 9, 1, 7, 3] {
            page.take(entry(number));
            assert!(page.entries.len() <= 3);
        }
        let ports: Vec<u16> =
            page.entries.into_sorted_vec().iter().map(|Entry(place, _)| place.client.port()).collect();
        assert_eq!((ports, page.has_more), (vec![1, 3, 5], true));
    }

    #[test]
    fn a_cursor_is_read_back_and_anything_else_refused() {
        let at = |text: &str| text.parse().expect("an address");
        let place = Place {
            service: "web.a-b_c",
            backend: at("[2001:db8::1]:80"),
            client: at("192.0.2.1:40000"),
            vip: at("198.51.100.1:443"),
            protocol: 17,
        };
        assert_eq!(Place::read(&place.cursor()), Some(place.clone()));
        for text in ["", "web", "web,1,2,3,4", &format!("{},x", place.cursor())] {
            assert_eq!(Place::read(text), None, "{text:?}");
        }
    }
}
