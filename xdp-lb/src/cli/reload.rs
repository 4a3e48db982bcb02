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
    lines.extend(view.warnings.iter().map(|warning| format!("warning: {warning}")));
    lines.join("\n")
}
