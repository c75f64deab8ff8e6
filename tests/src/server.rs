//! A MySQL of a test's own, for what concerns a whole server: its settings, its counters, its log of statements.

use crate::{TestShop, services};
use outflow_stack::{Endpoints, Service, Settings, Stack};
use sqlx::{AssertSqlSafe, Executor, MySqlConnection, Row};
use std::{collections::BTreeMap, fmt};

/// A server on which nothing happens but what the test does. Stopped when dropped.
pub struct OwnServer {
    /// The shop on it; Kafka and ClickHouse are those of all tests.
    pub shop: TestShop,
    stack: Stack,
    _state: tempfile::TempDir,
}

impl fmt::Debug for OwnServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnServer({})", self.stack.state().display())
    }
}

impl OwnServer {
    /// # Panics
    /// Where it does not start.
    pub async fn start() -> Self {
        let state = tempfile::tempdir().expect("a folder can be made");
        let stack = Stack::new(Settings::isolated(state.path()));
        stack.start(Service::Mysql).await.expect("mysql starts");
        let mysql = stack.mysql().expect("the stack knows its mysql").expect("mysql runs");
        let shop = TestShop::on(Endpoints { mysql, ..services() }).await;
        Self { shop, stack, _state: state }
    }

    /// Writes down every statement from now on.
    ///
    /// # Panics
    /// Where MySQL refuses.
    pub async fn log_statements(&self, admin: &mut MySqlConnection) {
        admin
            .execute("SET GLOBAL log_output = 'TABLE', GLOBAL general_log = ON")
            .await
            .expect("an administrator may do this");
    }

    /// The newest statement that ran since [`OwnServer::log_statements`] and looks like this.
    ///
    /// # Panics
    /// Where there is none.
    pub async fn logged(&self, admin: &mut MySqlConnection, like: &str) -> String {
        let found: Option<String> = sqlx::query_scalar(
            "SELECT CONVERT(argument USING utf8mb4) FROM mysql.general_log
             WHERE command_type IN ('Execute', 'Query') AND argument LIKE ? ORDER BY event_time DESC LIMIT 1",
        )
        .bind(like)
        .fetch_optional(admin)
        .await
        .expect("mysql shows its log");
        found.unwrap_or_else(|| panic!("no statement like {like}"))
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        let stack = &self.stack;
        std::thread::scope(|scope| {
            let down = || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime can be made").block_on(stack.down()).expect("mysql stops");
            };
            scope.spawn(down).join().expect("nothing panics in it");
        });
    }
}

/// Statements that the whole server has carried out so far, whoever asked. `Questions` would count what a pool does in its
/// own time as well: a connection that is set up, or given up, is several.
///
/// # Panics
/// Where MySQL refuses.
pub async fn statements(connection: &mut MySqlConnection) -> i64 {
    const NOT_ASKED: [&str; 3] = ["Com_set_option", "Com_show_status", "Com_admin_commands"];
    let counts = counters(connection, true, "Com\\_%").await;
    // `Com_stmt_execute` and the like count a prepared statement a second time.
    let asked = |name: &str| !name.starts_with("Com_stmt_") && !NOT_ASKED.contains(&name);
    counts.iter().filter(|(name, _)| asked(name)).map(|(_, count)| count).sum()
}

/// What the server counts, for this session or as a whole: `Handler_read%`, `Bytes_sent`.
///
/// # Panics
/// Where MySQL refuses.
pub async fn counters(
    connection: &mut MySqlConnection,
    whole_server: bool,
    like: &str,
) -> BTreeMap<String, i64> {
    let scope = if whole_server { "GLOBAL" } else { "SESSION" };
    let sql = AssertSqlSafe(format!("SHOW {scope} STATUS LIKE '{like}'"));
    let rows = sqlx::raw_sql(sql).fetch_all(connection).await.expect("mysql shows its counters");
    rows.iter().map(|row| (row.get(0), row.get::<String, _>(1).parse().expect("a number"))).collect()
}
