//! `xdp-lb reload`.

use super::output::Screen;
use crate::api::client::Client;
use crate::api::types::ReloadView;

pub(super) async fn execute(client: &Client, screen: &Screen) -> anyhow::Result<String> {
    let view = client.reload().await?;
    screen.show(&view, || sentences(&view))
}

fn sentences(view: &ReloadView) -> String {
    let mut lines = match view.changes.as_slice() {
        [] => vec!["nothing changed".to_owned()],
        changes => changes.to_vec(),
    };
    if !view.needs_restart.is_empty() {
        let keys = view.needs_restart.join(", ");
        lines.push(format!("left as before until the daemon is restarted: {keys}"));
    }
    lines.join("\n")
}
