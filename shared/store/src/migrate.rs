//! The schema, from `migrations/`: numbered, one change each, safe to run twice.

use crate::{Store, error::StoreError};
use sqlx::migrate::{MigrateError, Migrator};

static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations");

impl Store {
    /// Brings the schema up to date. Safe to repeat, also after a run that was killed half way.
    ///
    /// # Errors
    /// Where the server cannot be reached, or an applied migration has been changed since.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        // One connection throughout, and none that goes back to the pool: a run that fails keeps the server's lock
        // on migrations for as long as its connection lives.
        let mut connection = self.pool.acquire().await.map_err(StoreError::Connect)?.detach();
        let mut outcome = MIGRATIONS.run(&mut connection).await;
        if let Err(MigrateError::Dirty(version)) = outcome {
            // MySQL's DDL does not roll back, so a killed run leaves its last migration marked as begun. Each of ours
            // may run twice: forget the mark and begin it again.
            sqlx::query("DELETE FROM _sqlx_migrations WHERE version = ? AND success = FALSE")
                .bind(version)
                .execute(&mut connection)
                .await
                .map_err(StoreError::Connect)?;
            outcome = MIGRATIONS.run(&mut connection).await;
        }
        outcome.map_err(StoreError::Migrate)
    }
}
