//! Placeholder until the operator's side lands.
use sqlx::MySqlConnection;
use std::time::Duration;

#[derive(Debug)]
pub struct PruneStep {
    pub more: bool,
}

pub async fn prune_step(
    _: &mut MySqlConnection,
    _: &str,
    _: Duration,
    _: usize,
) -> Result<PruneStep, sqlx::Error> {
    Ok(PruneStep { more: false })
}
