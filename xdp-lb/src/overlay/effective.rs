//! The file and the runtime changes, merged: the effective services.

use std::net::SocketAddr;

use super::kept::Overlay;
use super::merge::Merge;
use super::{discovered, leaving};
use crate::model::config::{Config, Limits};
use crate::model::place::{Place, Problems};
use crate::model::rules::{self, Subject};
use crate::model::service::Service;
use crate::model::state::Origin;
use crate::model::{Effective, EffectiveService};

/// Merges the file and the runtime changes.
///
/// A change to something that the file no longer has is ignored. If a service or backend that was added at runtime is now in the
/// file, under the same VIP and protocol, the file's definition takes precedence.
///
/// # Errors
/// If the two conflict, or exceed the limits together: every reason, a line each.
pub fn effective(config: &Config, overlay: &Overlay) -> Result<Effective, Vec<String>> {
    effective_beside(config, overlay, config.limits, |_, _| false)
}

/// Merges the file and the runtime changes, given the backends in use and the room of the tables: new ones wait for the room of
/// leaving ones.
///
/// # Errors
/// As for [`effective`].
pub fn effective_beside(
    config: &Config,
    overlay: &Overlay,
    room: Limits,
    is_present: impl Fn(&Service, SocketAddr) -> bool,
) -> Result<Effective, Vec<String>> {
    let merge = Merge::new(config, overlay);
    let mut problems = Problems::default();
    problems.all.extend_from_slice(merge.problems());
    let mut services = Vec::new();
    for name in merge.names() {
        if let Some(what) = merge.contradiction(name) {
            problems.add(&Place::Root.item("service", 0, &rules::service_label(Some(name), 0)), what);
        }
        services.extend(merge.base(name).map(|(base, origin)| EffectiveService {
            // The same name everywhere, even if a hand-edited state file has two.
            service: Service { name: name.into(), ..base.without_backends() },
            admin: overlay.service_admin(name),
            origin,
            backends: merge.listed(name).into_values().collect(),
            refused: Vec::new(),
            is_leaving: false,
        }));
    }
    // The file comes first, so that a conflict is reported for the added service.
    let (listed, added): (Vec<_>, Vec<_>) =
        services.iter().partition(|service| service.origin == Origin::File);
    let subjects: Vec<Subject> =
        listed.into_iter().chain(added).map(|service| subject(service, overlay)).collect();
    rules::check_all(
        &subjects,
        Some(config.snat_ports),
        Some(config.limits),
        config.allow_exec_checks,
        &mut problems,
    );
    problems.into_result()?;
    leaving::add(&mut services, &overlay.leaving, config.allow_exec_checks);
    discovered::add(&mut services, &merge, room);
    leaving::wait_for_room(&mut services, room, is_present);
    Ok(Effective { services })
}

/// A service as the rules see it.
fn subject<'a>(service: &'a EffectiveService, overlay: &'a Overlay) -> Subject<'a> {
    let changed = overlay.changed_services.get(&service.service.name);
    Subject {
        service: &service.service,
        origin: service.origin,
        backends: service.backends.iter().map(|it| (&it.backend, it.origin)).collect(),
        changed: changed.into_iter().flat_map(|patch| patch.keys()).map(|(key, _)| key).collect(),
    }
}
