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
        match MIGRATIONS.run(&self.pool).await {
            // MySQL's DDL does not roll back, so a killed run leaves its last migration marked as begun. Each of ours
            // may run twice: forget the mark and begin it again.
            Err(MigrateError::Dirty(version)) => {
                sqlx::query("DELETE FROM _sqlx_migrations WHERE version = ? AND success = FALSE")
                    .bind(version)
                    .execute(&self.pool)
                    .await
                    .map_err(StoreError::Connect)?;
                MIGRATIONS.run(&self.pool).await.map_err(StoreError::Migrate)
            }
            outcome => outcome.map_err(StoreError::Migrate),
        }
    }
}
