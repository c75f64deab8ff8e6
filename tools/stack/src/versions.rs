//! What the stack runs: versions, usual ports, users and names, in one place.
//!
//! `docker-compose.yml` is held against these constants by a test, so that the services on Docker and
//! the services as plain processes cannot drift apart. Nothing here is read from the environment.

/// MySQL's release line (LTS). Any patch release of it will do.
pub const MYSQL: &str = "9.7";
/// The oldest `mysqld` on PATH that is taken: `INSERT … AS new ON DUPLICATE KEY UPDATE` came with it.
pub const MYSQL_OLDEST: (u32, u32, u32) = (8, 0, 19);
/// Apache Kafka, KRaft mode, one node that is both broker and controller.
pub const KAFKA: &str = "4.4.0";
/// The oldest broker taken from `KAFKA_HOME`: the first line that has no ZooKeeper left.
pub const KAFKA_OLDEST_MAJOR: u32 = 4;
/// The oldest Java that Kafka's broker runs on.
pub const JAVA_OLDEST_MAJOR: u32 = 17;
/// Debezium's MySQL connector, which the benchmarks compare the relay with.
pub const DEBEZIUM: &str = "3.6.1.Final";
/// Kafka Connect's runtime, which runs it.
pub const CONNECT: &str = "4.3.1";
/// ClickHouse's release, as libchdb embeds it.
pub const CLICKHOUSE: &str = "26.7";
/// The npm package that carries libchdb, and its version. 26.7 is the first with the streaming insert, with
/// which a body of any size passes through without being held.
pub const CHDB_PACKAGE: &str = "@chdb/lib-linux-x64-gnu";
/// See [`CHDB_PACKAGE`].
pub const CHDB: &str = "26.7.3-stable.1";
/// The `cargo lambda` subcommand, from PyPI.
pub const CARGO_LAMBDA: &str = "1.9.2";
/// The target of the transforms.
pub const WASM_TARGET: &str = "wasm32-unknown-unknown";

/// The one address that every service listens on.
pub const HOST: &str = "127.0.0.1";

/// Service names, here as in `docker-compose.yml`.
pub const MYSQL_SERVICE: &str = "mysql";
/// See [`MYSQL_SERVICE`].
pub const KAFKA_SERVICE: &str = "kafka";
/// See [`MYSQL_SERVICE`].
pub const CLICKHOUSE_SERVICE: &str = "clickhouse";

/// The port each service takes where it is free.
pub const MYSQL_PORT: u16 = 3306;
/// See [`MYSQL_PORT`].
pub const KAFKA_PORT: u16 = 9092;
/// Kafka's controller listener: nobody but the broker itself talks to it.
pub const KAFKA_CONTROLLER_PORT: u16 = 9093;
/// ClickHouse's HTTP interface.
pub const CLICKHOUSE_PORT: u16 = 8123;

/// The functions under `cargo lambda watch`; its own default, 9000, is ClickHouse's native port.
pub const FUNCTIONS_PORT: u16 = 9100;

/// The shop's database in MySQL.
pub const MYSQL_DATABASE: &str = "shop";
/// The application's user in MySQL: everything on [`MYSQL_DATABASE`], and PROCESS, with which the relay
/// sees the transactions that are still open.
pub const MYSQL_USER: &str = "outflow";
/// MySQL's administrator.
pub const MYSQL_ADMIN: &str = "root";
/// The figures' database in ClickHouse.
pub const CLICKHOUSE_DATABASE: &str = "analytics";
/// The loader's user in ClickHouse.
pub const CLICKHOUSE_USER: &str = "outflow";
/// The dashboards' user in ClickHouse: reads only, within [`READER_SETTINGS`].
pub const CLICKHOUSE_READER: &str = "grafana";

/// Limits of [`CLICKHOUSE_READER`]. A dashboard's query that needs more than this would hold up the
/// loader beside it: half a minute, one gigabyte, a million rows of answer.
pub const READER_SETTINGS: &[(&str, &str)] =
    &[("max_execution_time", "30"), ("max_memory_usage", "1000000000"), ("max_result_rows", "1000000")];
