//! What a relay refuses to start on, because it would be silently wrong, and how to mend it.

use crate::{burial::mysql_code, error::RelayError, log::Standing};
use sqlx::MySqlConnection;

const UNKNOWN_COLUMN: u16 = 1054;
const TABLE_ACCESS_DENIED: u16 = 1142;
const COLUMN_ACCESS_DENIED: u16 = 1143;
const NO_SUCH_TABLE: u16 = 1146;
const SPECIFIC_ACCESS_DENIED: u16 = 1227;

/// A statement that changes nothing, and what it needs: table or column, privilege, and who gives it.
struct Probe {
    sql: &'static str,
    needs: &'static str,
    privilege: &'static str,
    mend: &'static str,
}

const GRANT: &str = "GRANT SELECT, INSERT, UPDATE, DELETE ON <database>.* TO <user>";

const PROBES: [Probe; 11] = [
    Probe {
        sql: "SELECT id, event_id, aggregate_id, aggregate_type, event_type, aggregate_version, payload, headers,
                  created_at FROM outbox LIMIT 0",
        needs: "table outbox or one of its columns",
        privilege: "read outbox",
        mend: GRANT,
    },
    Probe {
        sql: "DELETE FROM outbox WHERE id = 0",
        needs: "table outbox",
        privilege: "prune outbox",
        mend: GRANT,
    },
    Probe {
        sql: "UPDATE outbox_position SET position = position, lease_owner = lease_owner, lease_until = lease_until,
                  fencing_token = fencing_token, paused_at = paused_at, server_uuid = server_uuid
              WHERE relay_group = ''",
        needs: "table outbox_position or one of its newest columns",
        privilege: "change outbox_position",
        mend: GRANT,
    },
    Probe {
        sql: "INSERT INTO outbox_position (relay_group) SELECT relay_group FROM outbox_position WHERE relay_group = ''",
        needs: "table outbox_position",
        privilege: "insert into outbox_position",
        mend: GRANT,
    },
    Probe {
        sql: "INSERT INTO outbox_gaps (relay_group, first_id, last_id, first_seen_at)
              SELECT g.relay_group, g.first_id, g.last_id, g.first_seen_at FROM outbox_gaps g WHERE g.relay_group = ''
              ON DUPLICATE KEY UPDATE last_id = VALUES(last_id)",
        needs: "table outbox_gaps or one of its columns",
        privilege: "change outbox_gaps",
        mend: GRANT,
    },
    Probe {
        sql: "DELETE FROM outbox_gaps WHERE relay_group = ''",
        needs: "table outbox_gaps",
        privilege: "change outbox_gaps",
        mend: GRANT,
    },
    Probe {
        sql: "INSERT INTO outbox_checkpoints (relay_group, position, event_id, moved_at)
              SELECT c.relay_group, c.position, c.event_id, c.moved_at FROM outbox_checkpoints c
              WHERE c.relay_group = '' ON DUPLICATE KEY UPDATE event_id = VALUES(event_id)",
        needs: "table outbox_checkpoints or one of its columns",
        privilege: "change outbox_checkpoints",
        mend: GRANT,
    },
    Probe {
        sql: "DELETE FROM outbox_checkpoints WHERE relay_group = ''",
        needs: "table outbox_checkpoints",
        privilege: "change outbox_checkpoints",
        mend: GRANT,
    },
    Probe {
        sql: "INSERT INTO outbox_failures (relay_group, id, event_id, aggregate_id, aggregate_type, event_type,
                  aggregate_version, payload, headers, created_at, state, attempts, cause, last_error,
                  next_attempt_at, parked_at, history)
              SELECT f.relay_group, f.id, f.event_id, f.aggregate_id, f.aggregate_type, f.event_type,
                  f.aggregate_version, f.payload, f.headers, f.created_at, f.state, f.attempts, f.cause, f.last_error,
                  f.next_attempt_at, f.parked_at, f.history
              FROM outbox_failures f WHERE f.relay_group = '' ON DUPLICATE KEY UPDATE state = VALUES(state)",
        needs: "table outbox_failures or one of its columns",
        privilege: "change outbox_failures",
        mend: GRANT,
    },
    Probe {
        sql: "DELETE FROM outbox_failures WHERE relay_group = ''",
        needs: "table outbox_failures",
        privilege: "change outbox_failures",
        mend: GRANT,
    },
    // It wants the same privilege as `innodb_trx`, and unlike that one it is cheap and can always be read.
    Probe {
        sql: "SELECT COUNT(*) FROM information_schema.innodb_cmp",
        needs: "information_schema.innodb_cmp",
        privilege: "see open transactions, without which no gap can be closed",
        mend: "GRANT PROCESS ON *.* TO <user>",
    },
];

/// By itself: a server that is none of ours need not know a variable that ours have.
const ASK_VERSION: &str = "SELECT VERSION()";
const ASK_READ_ONLY: &str = "SELECT @@global.read_only OR @@global.super_read_only";

/// Once in a relay's life: the server, the schema, the privileges.
pub(crate) async fn check_server(connection: &mut MySqlConnection) -> Result<(), RelayError> {
    let version =
        sqlx::query_scalar(ASK_VERSION).fetch_one(&mut *connection).await.map_err(RelayError::Connect)?;
    check_version(version)?;
    // Before the probes: it would refuse them, in other words.
    let read_only: i64 =
        sqlx::query_scalar(ASK_READ_ONLY).fetch_one(&mut *connection).await.map_err(RelayError::Connect)?;
    if read_only != 0 {
        return Err(RelayError::ReadOnly);
    }
    for probe in PROBES {
        let answer = sqlx::raw_sql(probe.sql).execute(&mut *connection).await;
        answer.map_err(|source| refusal(&probe, source))?;
    }
    Ok(())
}

fn refusal(probe: &Probe, source: sqlx::Error) -> RelayError {
    match mysql_code(&source) {
        Some(NO_SUCH_TABLE | UNKNOWN_COLUMN) => RelayError::Schema { missing: probe.needs, source },
        Some(TABLE_ACCESS_DENIED | COLUMN_ACCESS_DENIED | SPECIFIC_ACCESS_DENIED) => {
            RelayError::Privilege { privilege: probe.privilege, mend: probe.mend, source }
        }
        _ => RelayError::Connect(source),
    }
}

/// MySQL from 8.0 on; MariaDB counts from 10 and locks otherwise.
fn check_version(version: String) -> Result<(), RelayError> {
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    match !version.contains("MariaDB") && major.is_some_and(|major| major >= 8) {
        true => Ok(()),
        false => Err(RelayError::Server { version }),
    }
}

/// Each time before work begins: what another server, or another set-up of this one, may have changed.
pub(crate) fn check_standing(standing: &Standing) -> Result<(), RelayError> {
    if standing.read_only {
        return Err(RelayError::ReadOnly);
    }
    if standing.isolation != "READ-COMMITTED" {
        return Err(RelayError::Isolation { found: standing.isolation.clone() });
    }
    Ok(())
}

/// The group's row in `outbox_position`, made where it may be made.
pub(crate) async fn make_position(
    connection: &mut MySqlConnection,
    group: &str,
    start_new_group: bool,
) -> Result<(), RelayError> {
    let failed = |source| RelayError::Lease { group: group.to_owned(), source };
    let others: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM outbox_position WHERE relay_group <> ?")
        .bind(group)
        .fetch_one(&mut *connection)
        .await
        .map_err(failed)?;
    if others > 0 && !start_new_group {
        return Err(RelayError::NewGroup { group: group.to_owned() });
    }
    // By itself: where the row is there it is locked as shared, and of two relays that both hold it so, neither could
    // go on to change it.
    sqlx::query("INSERT IGNORE INTO outbox_position (relay_group) VALUES (?)")
        .bind(group)
        .execute(connection)
        .await
        .map_err(failed)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mysql_from_8_on_and_nothing_else_is_supported() {
        for version in ["8.0.11", "8.4.3", "9.7.4-1"] {
            assert!(check_version(version.to_owned()).is_ok(), "{version}");
        }
        for version in ["5.7.44-log", "10.11.6-MariaDB-1", "5.5.5-10.4.32-MariaDB", "unknown", ""] {
            let error = check_version(version.to_owned()).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("server {version} cannot carry an outbox: wants MySQL 8.0 or newer")
            );
        }
    }

    #[test]
    fn what_asks_for_the_version_asks_for_no_variable_that_another_server_may_lack() {
        assert!(!ASK_VERSION.contains("@@"), "{ASK_VERSION}");
    }
}
