//! The list of all components of the program and of the eBPF object in it, as CycloneDX 1.5.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use xdp_lb_tests::output;
use xdp_lb_tests::paths::workspace;

use super::Release;
use super::binary::TARGET;
use crate::workspace::cargo;

/// The packages of the workspace that a release consists of.
const ROOTS: [&str; 2] = ["xdp-lb", "xdp-lb-ebpf"];

/// Makes the document.
pub fn make(release: &Release) -> Result<String> {
    let mut command = cargo();
    command.args(["metadata", "--locked", "--format-version", "1", "--filter-platform", TARGET]);
    let metadata: Value =
        serde_json::from_str(&output(&mut command)?).context("cargo's metadata are not JSON")?;
    let checksums = checksums()?;
    let packages = metadata["packages"].as_array().context("there are no packages")?;
    let mut components: Vec<Value> = Vec::new();
    let reached = reached(&metadata)?;
    for package in packages.iter().filter(|package| reached.contains(text(&package["id"]))) {
        let (name, version) = (text(&package["name"]), text(&package["version"]));
        let purl = format!("pkg:cargo/{name}@{version}");
        let mut component = json!({
            "type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl, "scope": "required",
        });
        if let Some(licence) = package["license"].as_str() {
            // Before expressions, a slash meant a choice.
            component["licenses"] = json!([{"expression": licence.replace('/', " OR ").replace("  ", " ")}]);
        }
        if let Some(sum) = checksums.get(&(name.to_owned(), version.to_owned())) {
            component["hashes"] = json!([{"alg": "SHA-256", "content": sum}]);
        }
        components.push(component);
    }
    components.sort_by_key(|component| text(&component["bom-ref"]).to_owned());
    let document = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "application", "name": "xdp-lb", "version": release.version}},
        "components": components,
    });
    Ok(format!("{document:#}\n"))
}

/// The packages that the roots need to run, directly or not.
fn reached(metadata: &Value) -> Result<BTreeSet<&str>> {
    let nodes = metadata["resolve"]["nodes"].as_array().context("nothing is resolved")?;
    let needs: BTreeMap<&str, &Value> = nodes.iter().map(|node| (text(&node["id"]), &node["deps"])).collect();
    let packages = metadata["packages"].as_array().context("there are no packages")?;
    let is_root = |package: &&Value| ROOTS.contains(&text(&package["name"])) && package["source"].is_null();
    let mut queue: Vec<&str> = packages.iter().filter(is_root).map(|package| text(&package["id"])).collect();
    let mut reached = BTreeSet::new();
    while let Some(id) = queue.pop() {
        if !reached.insert(id) {
            continue;
        }
        let dependencies = needs.get(id).and_then(|deps| deps.as_array()).into_iter().flatten();
        // Those of tests and build scripts have a kind.
        let runs = |dependency: &&Value| {
            dependency["dep_kinds"]
                .as_array()
                .is_some_and(|kinds| kinds.iter().any(|kind| kind["kind"].is_null()))
        };
        queue.extend(dependencies.filter(runs).map(|dependency| text(&dependency["pkg"])));
    }
    Ok(reached)
}

/// The registry's checksums, by name and version, from `Cargo.lock`.
fn checksums() -> Result<BTreeMap<(String, String), String>> {
    let lock = fs::read_to_string(workspace().join("Cargo.lock")).context("cannot read Cargo.lock")?;
    let of = |entry: &str, key: &str| {
        let start = format!("{key} = \"");
        entry.lines().find_map(|line| Some(line.strip_prefix(&start)?.trim_end_matches('"').to_owned()))
    };
    let entries = lock.split("[[package]]").skip(1);
    Ok(entries
        .filter_map(|entry| Some(((of(entry, "name")?, of(entry, "version")?), of(entry, "checksum")?)))
        .collect())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
