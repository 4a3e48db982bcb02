//! Limits the rate of new flows per client of a service.

use super::context::Context;
use crate::net::Address;
use crate::rate;
use crate::reason::Reason;
use crate::tables::{Service, SourceKey, Tables};

/// A second, in the clock of the rates.
const SECOND: u64 = 1_000_000_000;

/// The number of leading bits of an IPv6 address that count as one source: a host changes addresses within its 64-bit network
/// (RFC 8981).
const V6_SOURCE: u8 = 64;

/// Lets a packet without a record begin a flow, unless its source has begun too many recently. A packet that is certainly in
/// mid-flow is not limited.
#[inline(always)]
pub fn admit<T: Tables>(context: &Context<'_, T>, service: &Service) -> Result<(), Reason> {
    // A connection that continues from another address is not new.
    if (service.new_flow_rate == 0) | (context.meta.named.0 != 0) {
        return Ok(());
    }
    if context.parsed.is_in_mid_flow() {
        return Ok(());
    }
    spend(context.tables, service, &context.parsed.key.source)
}

/// Takes a token from the source's bucket. If two CPUs do so at the same time, one of them may get it for free.
#[inline(never)]
fn spend<T: Tables>(tables: &T, service: &Service, source: &Address) -> Result<(), Reason> {
    let bits = if source.is_v4() { 128 } else { V6_SOURCE };
    let key = SourceKey { scope: service.index.0, address: source.first_bits(bits) };
    let token = SECOND.checked_div(u64::from(service.new_flow_rate)).unwrap_or(0);
    let full_at = tables.bucket_full_at(&key).unwrap_or(0);
    let full_at = rate::take(full_at, tables.nanoseconds(), token, u64::from(service.new_flow_burst))
        .ok_or(Reason::NewFlowRate)?;
    tables.set_bucket_full_at(&key, full_at);
    Ok(())
}

#[cfg(all(test, feature = "host"))]
mod tests {
    use super::*;
    use crate::host::HostTables;
    use crate::net::Be32;
    use crate::tables::{ServiceIndex, Settings};

    fn tables() -> HostTables {
        HostTables::new(Settings {
            hash_keys: [1; crate::hash::KEYS],
            snat_port_first: 1024,
            snat_port_count: 1,
            options: 0,
            patience: crate::tables::flow::patience(900, 60),
            handover: 0,
            heartbeat: 0,
            flow_buckets: 0,
            flow_reach: 0,
            alone: 0,
            own_macs: Default::default(),
        })
    }

    #[test]
    fn a_source_begins_a_burst_of_flows_at_once_and_so_many_a_second_from_then_on() {
        let mut tables = tables();
        let service = Service { new_flow_rate: 10, new_flow_burst: 5, ..Service::default() };
        let client = Address::v4(Be32::new(0xcb00_7105));
        let begun =
            |tables: &HostTables| (0..100).filter(|_| spend(tables, &service, &client).is_ok()).count();
        tables.nanoseconds = 77 * SECOND;
        assert_eq!(begun(&tables), 5);
        let mut later = 0;
        for _ in 0..1000 {
            tables.nanoseconds += SECOND / 100;
            later += usize::from(spend(&tables, &service, &client).is_ok());
        }
        assert_eq!(later, 100, "ten seconds at ten a second");
        tables.nanoseconds += 60 * SECOND;
        assert_eq!(begun(&tables), 5, "a minute's rest fills the bucket and no more");
    }

    #[test]
    fn each_source_and_each_service_has_a_bucket_of_its_own() {
        let tables = tables();
        let service = |index| Service {
            index: ServiceIndex(index),
            new_flow_rate: 1,
            new_flow_burst: 1,
            ..Service::default()
        };
        let v6 = |network, host| {
            Address::v6([Be32::new(0x2001_0db8), Be32::new(network), Be32::new(host), Be32::new(host)])
        };
        let v4 = |last: u32| Address::v4(Be32::new(0xcb00_7100 + last));
        assert_eq!(spend(&tables, &service(1), &v4(1)), Ok(()));
        assert_eq!(spend(&tables, &service(1), &v4(1)), Err(Reason::NewFlowRate));
        assert_eq!(spend(&tables, &service(1), &v4(2)), Ok(()));
        assert_eq!(spend(&tables, &service(2), &v4(1)), Ok(()));
        assert_eq!(spend(&tables, &service(1), &v6(1, 1)), Ok(()));
        assert_eq!(spend(&tables, &service(1), &v6(1, 2)), Err(Reason::NewFlowRate), "the same /64");
        assert_eq!(spend(&tables, &service(1), &v6(2, 1)), Ok(()));
    }
}
