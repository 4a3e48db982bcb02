//! The layers of the code, held against its imports: a folder imports those below it, never one above it or beside it, and no
//! files of a crate import each other in a circle. Tests are left out.

mod imports;

use std::collections::{BTreeMap, BTreeSet};

use imports::{Import, of_crate};

/// The folders and files of xdp-lb/src, from the top down: each may import those below it. Those of one line stand beside
/// each other.
const LAYERS: &[&[&str]] = &[
    &["main"],
    &["cli"],
    &["doctor"],
    &["daemon"],
    &["metrics"],
    &["api"],
    &["control"],
    &["report"],
    &["pool"],
    &["plan"],
    &["datapath"],
    &["overlay"],
    &["config", "discovery", "fleet", "import"],
    &["health"],
    &["net"],
    &["tables"],
    &["ring", "store", "tls"],
    &["model"],
    &["http", "lock", "logging"],
    &["descriptor", "file", "uptime"],
    &["lib"],
];

/// What a layer must not import though it stands below.
const NEVER: &[(&str, &str)] = &[
    ("datapath", "config"),
    ("datapath", "discovery"),
    ("datapath", "health"),
    ("datapath", "overlay"),
    ("plan", "config"),
    ("plan", "overlay"),
    ("pool", "config"),
    ("pool", "overlay"),
];

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
    from == to || place(from) < place(to) && !NEVER.contains(&(from, to))
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
        let found: Vec<String> = forbidden(&imports).map(ToString::to_string).collect();
        assert!(found.is_empty(), "imports of what stands above or beside:\n{}", found.join("\n"));
    }

    #[test]
    fn no_files_import_each_other_in_a_circle() {
        for name in ["xdp-lb", "xdp-lb-common", "xdp-lb-ebpf"] {
            let imports = of_crate(name).unwrap();
            let circles = circles(&imports);
            assert!(circles.is_empty(), "circles in {name}: {circles:#?}");
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
                let is_never = NEVER.contains(&(*from, *to));
                assert_eq!(is_forbidden, from != to && (from_line >= to_line || is_never), "{import}");
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
