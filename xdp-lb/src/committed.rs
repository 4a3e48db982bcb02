//! What is published and others build on, as committed files: a change of it is seen in review.

use std::path::Path;

/// Compares what is published now with `docs/NAME`; with `XDP_LB_UPDATE` set, writes that file instead.
///
/// # Panics
/// Where they differ.
pub(crate) fn assert_committed(name: &str, now: &serde_json::Value) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    let now = format!("{now:#}\n");
    if std::env::var_os("XDP_LB_UPDATE").is_some() {
        std::fs::write(&file, &now).expect("docs can be written");
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    let line = now.lines().zip(committed.lines()).position(|(now, committed)| now != committed);
    let line = line.unwrap_or_else(|| now.lines().count().min(committed.lines().count()));
    assert!(
        now == committed,
        "docs/{name} is not what is published now, from line {} on: {:?}, committed {:?}. Within one version, only add to \
         it. To commit the change: XDP_LB_UPDATE=1 cargo test -p xdp-lb --lib -- as_committed",
        line + 1,
        now.lines().nth(line),
        committed.lines().nth(line),
    );
}
