//! In which order do records reach the disk? In the order they were decided: an older one must never come to lie on a
//! newer one.

use std::sync::Arc;

use bgproxy_conf::ServiceName;
use tokio::sync::{mpsc, oneshot};

use super::failpoint;
use super::state::{Record, Store};

/// Records on their way to the disk: all of them get there, or none.
#[derive(Debug)]
pub(super) struct Saving {
    pub(super) records: Vec<(ServiceName, Record)>,
    pub(super) saved: oneshot::Sender<Result<(), String>>,
}

/// Saves records one after another.
pub(super) async fn save_in_order(store: Arc<Store>, mut queue: mpsc::UnboundedReceiver<Saving>) {
    while let Some(Saving { records, saved }) = queue.recv().await {
        let store = store.clone();
        let result = tokio::task::spawn_blocking(move || {
            let result = store.save_all(&records).map_err(|error| format!("{:#}", anyhow::Error::from(error)));
            failpoint::reach("after_persist");
            result
        })
        .await;
        let result = result.unwrap_or_else(|panicked| Err(panicked.to_string()));
        let _gone = saved.send(result);
    }
}
