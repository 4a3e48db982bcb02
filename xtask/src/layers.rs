//! The layers of the code, held against its imports: a folder imports those below it, never one above it or beside it, and no
//! files of a crate import each other in a circle. Tests are left out.

mod imports;

use std::collections::{BTreeMap, BTreeSet};

use imports::{Import, of_crate};

/// The folders and files of xdp-lb/src, from the top down. Those of one line stand beside each other.
const LAYERS: &[&[&str]] = &[
    &["main"],
    &["cli"],
    &["doctor"],
    &["metrics"],
    &["api"],
    &["control"],
    &["datapath"],
    &["config", "discovery", "health", "net", "ring"],
    &["model"],
    &["http", "lock", "tls"],
    &["descriptor", "file", "uptime"],
    &["lib"],
];

/// Where a folder imports one that stands above it or beside it: to be cut, and never to grow.
const DEBT: &[(&str, &str)] = &[
    ("control/discovery.rs", "api"),
    ("control/flows.rs", "api"),
    ("control/handle.rs", "api"),
    ("control/reload.rs", "api"),
    ("control/run.rs", "api"),
    ("control/run.rs", "metrics"),
    ("control/troubles.rs", "api"),
    ("control/upgrade.rs", "api"),
    ("control/views.rs", "api"),
    ("control/vips.rs", "api"),
    ("datapath/census.rs", "control"),
    ("datapath/maps.rs", "control"),
    ("datapath/program.rs", "control"),
    ("discovery/answer.rs", "config"),
    ("discovery/dns.rs", "config"),
    ("discovery/document.rs", "config"),
    ("discovery/file.rs", "config"),
    ("discovery/mod.rs", "config"),
    ("health/agent.rs", "config"),
    ("health/checker.rs", "config"),
    ("health/mod.rs", "config"),
    ("health/probe.rs", "config"),
    ("health/probe_grpc.rs", "config"),
    ("health/probe_http.rs", "config"),
    ("health/probe_udp.rs", "config"),
    ("health/tls.rs", "config"),
    ("health/vip_checks.rs", "datapath"),
    ("health/vip_checks.rs", "net"),
    ("net/vips.rs", "config"),
    ("tls.rs", "config"),
];

/// How many files of each crate stand in a circle: to be cut, and never to grow.
const IN_CIRCLES: [(&str, usize); 2] = [("xdp-lb", 55), ("xdp-lb-common", 15)];

/// The folder or file of the crate's root that a file belongs to: `config/load.rs` and `config.rs` to `config`.
fn layer_of(file: &str) -> &str {
    let first = file.split('/').next().unwrap_or(file);
    first.strip_suffix(".rs").unwrap_or(first)
}

/// Whether one layer may import the other.
///
/// # Panics
/// Where one has no place in [`LAYERS`].
fn may_import(from: &str, to: &str) -> bool {
    let place = |layer: &str| {
        let place = LAYERS.iter().position(|line| line.contains(&layer));
        place.unwrap_or_else(|| panic!("give {layer} a place in LAYERS (xtask/src/layers.rs)"))
    };
    from == to || place(from) < place(to)
}

/// The imports that run up or sideways.
fn forbidden(imports: &[Import]) -> impl Iterator<Item = &Import> {
    imports.iter().filter(|it| !may_import(layer_of(&it.from), layer_of(&it.to)))
}

/// The sets of files that import each other in a circle (Tarjan 1972, "Depth-first search and linear graph algorithms").
fn circles(imports: &[Import]) -> Vec<BTreeSet<&str>> {
    let mut search = Search::default();
    for Import { from, to, .. } in imports {
        search.arrows.entry(from).or_default().push(to);
    }
    for import in imports {
        search.visit(&import.from);
    }
    search.circles
}

#[derive(Default)]
struct Search<'a> {
    arrows: BTreeMap<&'a str, Vec<&'a str>>,
    /// Each visited file's number, in the order of visits; `usize::MAX` once its circle is closed.
    found: BTreeMap<&'a str, usize>,
    /// The visited files whose circle is not closed.
    open: Vec<&'a str>,
    circles: Vec<BTreeSet<&'a str>>,
}

impl<'a> Search<'a> {
    /// Visits a file and all that it imports; returns the lowest number that is reached from it.
    fn visit(&mut self, file: &'a str) -> usize {
        if let Some(number) = self.found.get(file) {
            return *number;
        }
        let number = self.found.len();
        self.found.insert(file, number);
        let depth = self.open.len();
        self.open.push(file);
        let arrows = self.arrows.get(file).cloned().unwrap_or_default();
        let lowest = arrows.into_iter().map(|to| self.visit(to)).min().unwrap_or(number).min(number);
        if lowest == number {
            let circle: BTreeSet<&str> = self.open.drain(depth..).collect();
            self.found.extend(circle.iter().map(|file| (*file, usize::MAX)));
            if circle.len() > 1 {
                self.circles.push(circle);
            }
        }
        lowest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_folder_imports_one_above_it_or_beside_it() {
        let imports = of_crate("xdp-lb").unwrap();
        let found: BTreeMap<(&str, &str), &Import> =
            forbidden(&imports).map(|it| ((it.from.as_str(), layer_of(&it.to)), it)).collect();
        let debt: BTreeSet<(&str, &str)> = DEBT.iter().copied().collect();
        let new: Vec<String> = found
            .iter()
            .filter(|(arrow, _)| !debt.contains(arrow))
            .map(|(_, import)| import.to_string())
            .collect();
        assert!(new.is_empty(), "imports of what stands above or beside:\n{}", new.join("\n"));
        let paid: Vec<_> = debt.iter().filter(|arrow| !found.contains_key(*arrow)).collect();
        assert!(paid.is_empty(), "these are gone, and leave DEBT: {paid:#?}");
    }

    #[test]
    fn no_files_import_each_other_in_a_circle() {
        for (name, left) in IN_CIRCLES {
            let imports = of_crate(name).unwrap();
            let circles = circles(&imports);
            let files: usize = circles.iter().map(BTreeSet::len).sum();
            assert_eq!(files, left, "circles in {name}: {circles:#?}");
        }
    }

    #[test]
    fn an_import_of_a_layer_above_or_beside_is_found() {
        let all: Vec<(usize, &str)> = LAYERS
            .iter()
            .enumerate()
            .flat_map(|(line, names)| names.iter().map(move |name| (line, *name)))
            .collect();
        for (from_line, from) in &all {
            for (to_line, to) in &all {
                let import = Import::planted(&format!("{from}/a.rs"), &format!("{to}/b.rs"));
                let is_forbidden = forbidden(std::slice::from_ref(&import)).next().is_some();
                assert_eq!(is_forbidden, from != to && from_line >= to_line, "{import}");
            }
        }
    }

    #[test]
    fn a_circle_is_found_whatever_hangs_on_it() {
        let arrows = [("a", "b"), ("b", "c"), ("c", "b"), ("c", "d"), ("d", "e"), ("f", "c"), ("e", "e")];
        let imports: Vec<Import> = arrows.iter().map(|(from, to)| Import::planted(from, to)).collect();
        assert_eq!(circles(&imports), [BTreeSet::from(["b", "c"])]);
    }
}
