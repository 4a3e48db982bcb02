//! What is said of a name that is none of the known ones.

use std::net::SocketAddr;

use super::refusal::Refusal;
use super::text::quoted;

/// The refusal for an unknown service, with the known ones.
pub fn unknown_service(name: &str, known: Vec<String>) -> Refusal {
    let hint = match nearest_first(name, known) {
        Some(known) => format!("the services are: {known}"),
        None => "there are no services yet; add one with: xdp-lb service add".into(),
    };
    Refusal::NotFound(format!("service {} does not exist; {hint}", quoted(name)))
}

/// The service has no such backend: the refusal names those that it has.
pub fn unknown_backend(service: &str, address: SocketAddr, known: Vec<String>) -> Refusal {
    let hint = match nearest_first(&address.to_string(), known) {
        Some(known) => format!("its backends are: {known}"),
        None => format!("it has none; add it with: xdp-lb backend add {service} {address}"),
    };
    Refusal::NotFound(format!("service {service} has no backend {address}; {hint}"))
}

/// The program is not on such an interface: the refusal names those that have it.
pub fn unknown_interface(name: &str, known: Vec<String>) -> Refusal {
    let hint = match nearest_first(name, known) {
        Some(known) => format!("it is attached to: {known}"),
        None => "it is not attached to any".into(),
    };
    Refusal::NotFound(format!("the program is not attached to an interface {}; {hint}", quoted(name)))
}

/// The refusal of an unknown reason. It names the most similar ones.
pub fn unknown_reason(name: &str, known: Vec<String>) -> Refusal {
    let hint = nearest_first(name, known).unwrap_or_default();
    Refusal::NotFound(format!(
        "there is no reason {}; `xdp-lb counters --all` lists them: {hint}",
        quoted(name)
    ))
}

/// The known names, most similar ones first; `None` if there are none.
fn nearest_first(wanted: &str, mut known: Vec<String>) -> Option<String> {
    const MOST: usize = 20;
    let wanted = wanted.get(..64).unwrap_or(wanted);
    known.sort_by_cached_key(|known| strsim::damerau_levenshtein(wanted, known));
    let more = known.len().saturating_sub(MOST);
    known.truncate(MOST);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!known.is_empty()).then(|| known.join(", ") + &more)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_known_names_the_nearest_twenty_are_told() {
        let known = (0..10_000).map(|number| format!("web{number}")).collect();
        let words = unknown_service("wbe77", known).to_string();
        assert!(words.starts_with("service \"wbe77\" does not exist; the services are: web77, "), "{words}");
        assert!(words.ends_with(" and 9980 more"), "{words}");
        assert!(words.len() < 400, "{words}");
    }
}
