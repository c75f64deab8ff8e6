//! The question after a commit: does anybody carry these events already?

use crate::Store;
use std::time::Duration;

/// The group of `outbox-relay`, the only one that the functions nudge.
const RELAY_GROUP: &str = "default";
/// The order is committed, and its customer waits for the answer alone: a server that is slow now costs him no more.
const LIMIT: Duration = Duration::from_millis(200);

impl Store {
    /// The newest fencing token where no relay is at work, for a nudge; None while one is, while the relay is paused, and
    /// where MySQL does not tell within 200 ms. See [`outflow_outbox::sleeping_relay`]. Ask after the commit.
    ///
    /// Never an error: without a nudge the schedule delivers.
    pub async fn sleeping_relay(&self) -> Option<u64> {
        let asked = async {
            let mut connection = self.pool.acquire().await?;
            outflow_outbox::sleeping_relay(&mut connection, RELAY_GROUP).await
        };
        match tokio::time::timeout(LIMIT, asked).await {
            Ok(Ok(token)) => token,
            Ok(Err(error)) => {
                tracing::debug!(%error, "mysql did not tell whether a relay is at work");
                None
            }
            Err(_) => {
                tracing::debug!(limit = ?LIMIT, "mysql did not tell in time whether a relay is at work");
                None
            }
        }
    }
}
