//! What a relay refuses to start on, in words that say how to mend it.

use outflow_outbox::{Relay, RelayError, RelaySettings, RetrySettings};
use outflow_tests::{OwnServer, Recorder, TestShop, in_a_minute, until};
use sqlx::{AssertSqlSafe, Connection, Executor, MySqlConnection};
use std::{io, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};
use uuid::Uuid;

/// What a relay says to its first drain on this database.
async fn refusal(database_url: &str) -> RelayError {
    let relay = Relay::new(database_url, Recorder::default(), RelaySettings::default()).unwrap();
    relay.drain(in_a_minute()).await.unwrap_err()
}

fn setting(settings: RelaySettings) -> String {
    Relay::new("mysql://root@127.0.0.1:1/none", Recorder::default(), settings).unwrap_err().to_string()
}

#[tokio::test]
async fn settings_out_of_their_bounds_are_named_before_anything_connects() {
    let default = RelaySettings::default;
    let retry = RetrySettings::default;
    for (settings, named) in [
        (RelaySettings { group: String::new(), ..default() }, "group"),
        (RelaySettings { group: "a group".to_owned(), ..default() }, "group"),
        (RelaySettings { group: "g".repeat(65), ..default() }, "group"),
        (RelaySettings { batch_rows: 0, ..default() }, "batch_rows"),
        (RelaySettings { batch_rows: 10_001, ..default() }, "batch_rows"),
        (RelaySettings { batch_bytes: 0, ..default() }, "batch_bytes"),
        (RelaySettings { in_flight_bytes: 1, ..default() }, "in_flight_bytes"),
        (RelaySettings { max_gaps: 0, ..default() }, "max_gaps"),
        (RelaySettings { max_gaps: 16_001, ..default() }, "max_gaps"),
        (
            RelaySettings { retry: RetrySettings { max_attempts: 0, ..retry() }, ..default() },
            "retry.max_attempts",
        ),
        (RelaySettings { retry: RetrySettings { quota: 0, ..retry() }, ..default() }, "retry.quota"),
        (RelaySettings { retry: RetrySettings { quota: 1_001, ..retry() }, ..default() }, "retry.quota"),
    ] {
        let told = setting(settings);
        assert!(told.starts_with(&format!("setting {named} is out of bounds, wants ")), "{told}");
    }
}

#[tokio::test]
async fn a_lease_that_could_end_while_a_batch_is_on_its_way_is_refused() {
    let publisher = Recorder::with_timeout(Duration::from_secs(15));
    let settings = RelaySettings { lease: Duration::from_secs(15), ..RelaySettings::default() };

    let error = Relay::new("mysql://root@127.0.0.1:1/none", publisher, settings).unwrap_err();

    assert_eq!(
        error.to_string(),
        "lease of 15s must be longer than the publisher's timeout of 15s: raise it"
    );
}

#[tokio::test]
async fn a_table_that_is_missing_is_named_with_the_command_that_makes_it() {
    let shop = TestShop::start().await;
    for table in ["outbox", "outbox_position", "outbox_gaps", "outbox_checkpoints", "outbox_failures"] {
        shop.run(format!("RENAME TABLE {table} TO elsewhere")).await;
        let error = refusal(&shop.database_url).await;
        shop.run(format!("RENAME TABLE elsewhere TO {table}")).await;

        assert!(matches!(error, RelayError::Schema { .. }), "{table}: {error}");
        let told = error.to_string();
        assert!(told.starts_with(&format!("table {table}")), "{told}");
        assert!(told.contains("outflow init"), "{told}");
    }
}

#[tokio::test]
async fn a_column_that_is_missing_is_told_of_at_the_start() {
    let shop = TestShop::start().await;
    for (table, column) in [
        ("outbox", "headers"),
        ("outbox", "aggregate_version"),
        ("outbox", "event_id"),
        ("outbox", "created_at"),
        ("outbox_position", "paused_at"),
        ("outbox_position", "server_uuid"),
        ("outbox_position", "fencing_token"),
        ("outbox_gaps", "first_seen_at"),
        ("outbox_checkpoints", "event_id"),
        ("outbox_failures", "history"),
        ("outbox_failures", "next_attempt_at"),
    ] {
        shop.run(format!("ALTER TABLE {table} RENAME COLUMN {column} TO elsewhere")).await;
        let error = refusal(&shop.database_url).await;
        shop.run(format!("ALTER TABLE {table} RENAME COLUMN elsewhere TO {column}")).await;

        assert!(matches!(error, RelayError::Schema { .. }), "{table}.{column}: {error:?}");
    }
}

/// The shop's database as another user, who may do this and nothing else.
async fn as_user(shop: &TestShop, grants: &[&str]) -> String {
    let mut admin = shop.admin().await;
    let user = format!("u{}", &Uuid::new_v4().simple().to_string()[..16]);
    let (server, database) = shop.database_url.rsplit_once('/').unwrap();
    let mut statements = vec![format!("CREATE USER '{user}'@'%' IDENTIFIED BY 'Secret-1'")];
    statements.extend(
        grants.iter().map(|grant| {
            format!("GRANT {} TO '{user}'@'%'", grant.replace("shop.", &format!("{database}.")))
        }),
    );
    for statement in statements {
        admin.execute(sqlx::raw_sql(AssertSqlSafe(statement))).await.unwrap();
    }
    let (_, address) = server.rsplit_once('@').unwrap();
    format!("mysql://{user}:Secret-1@{address}/{database}")
}

#[tokio::test]
async fn a_privilege_that_is_missing_is_told_with_the_grant_that_mends_it() {
    const PROCESS: &str = "PROCESS ON *.*";
    let shop = TestShop::start().await;
    for (grants, may_not) in [
        (&["SELECT ON shop.*", PROCESS][..], "prune outbox"),
        (&["SELECT, INSERT, UPDATE ON shop.*", PROCESS], "prune outbox"),
        (&["SELECT, INSERT, DELETE ON shop.*", PROCESS], "change outbox_position"),
        (&["SELECT, UPDATE, DELETE ON shop.*", PROCESS], "insert into outbox_position"),
        (
            &["SELECT, DELETE ON shop.*", "INSERT, UPDATE ON shop.outbox_position", PROCESS],
            "change outbox_gaps",
        ),
        (&["SELECT, INSERT, UPDATE, DELETE ON shop.*"], "see open transactions"),
    ] {
        let error = refusal(&as_user(&shop, grants).await).await;

        assert!(matches!(error, RelayError::Privilege { .. }), "{grants:?}: {error:?}");
        let told = error.to_string();
        assert!(told.starts_with(&format!("the relay's user may not {may_not}")), "{grants:?}: {told}");
        assert!(told.contains("run `GRANT "), "{told}");
    }
}

#[tokio::test]
async fn with_the_privileges_that_the_words_ask_for_a_relay_works() {
    let shop = TestShop::start().await;
    let url = as_user(&shop, &["SELECT, INSERT, UPDATE, DELETE ON shop.*", "PROCESS ON *.*"]).await;
    shop.roll_back("rolled-back").await;
    shop.commit("kept", 1).await;
    let recorder = Recorder::default();
    let settings = RelaySettings { gap_grace: Duration::ZERO, ..RelaySettings::default() };
    let relay = Relay::new(&url, recorder.clone(), settings).unwrap();

    until("its gap is closed", async || relay.drain(in_a_minute()).await.unwrap().gaps == 0).await;

    assert_eq!(recorder.versions_of("kept"), [1]);
}

#[tokio::test]
async fn another_groups_database_is_not_published_a_second_time_by_a_name_mistyped() {
    let shop = TestShop::start().await;
    let (relay, _) = shop.recording_relay();
    shop.commit("a", 1).await;
    relay.drain(in_a_minute()).await.unwrap();
    let recorder = Recorder::default();
    let mistyped = RelaySettings { group: "defualt".to_owned(), ..RelaySettings::default() };

    let error = shop.relay_to(&recorder, mistyped.clone()).drain(in_a_minute()).await.unwrap_err();
    let meant = shop.relay_to(&recorder, RelaySettings { start_new_group: true, ..mistyped });
    let report = meant.drain(in_a_minute()).await.unwrap();

    assert!(matches!(error, RelayError::NewGroup { .. }), "{error}");
    assert!(error.to_string().contains("set start_new_group"), "{error}");
    assert_eq!(report.published, 1);
    assert_eq!(shop.number("SELECT COUNT(*) FROM outbox_position").await, 2);
}

#[tokio::test]
async fn on_a_server_that_takes_no_writes_or_isolates_otherwise_a_relay_says_so_or_helps_itself() {
    let server = OwnServer::start().await;
    let shop = &server.shop;
    let mut admin: MySqlConnection = shop.admin().await;
    shop.commit("a", 1).await;
    let (relay, recorder) = shop.recording_relay();

    for setting in ["read_only", "super_read_only"] {
        admin.execute(sqlx::raw_sql(AssertSqlSafe(format!("SET GLOBAL {setting} = ON")))).await.unwrap();
        let error = refusal(&shop.database_url).await;
        assert!(matches!(error, RelayError::ReadOnly), "{setting}: {error:?}");
        assert!(error.to_string().contains("point the relay to the server that takes writes"), "{error}");
        admin.execute("SET GLOBAL super_read_only = OFF, GLOBAL read_only = OFF").await.unwrap();
    }
    admin.execute("SET GLOBAL transaction_isolation = 'SERIALIZABLE'").await.unwrap();
    assert_eq!(relay.drain(in_a_minute()).await.unwrap().published, 1);
    admin.execute("SET GLOBAL read_only = ON").await.unwrap();
    let later = relay.drain(in_a_minute()).await.unwrap_err();
    admin.execute("SET GLOBAL read_only = OFF").await.unwrap();
    shop.commit("a", 2).await;
    relay.drain(in_a_minute()).await.unwrap();

    assert!(matches!(later, RelayError::ReadOnly), "{later:?}");
    assert_eq!(recorder.versions_of("a"), [1, 2]);
    admin.close().await.unwrap();
}

/// Words and what is put in their place, of the same length.
type Words = Vec<(String, String)>;

/// The shop's database behind somebody who changes words: what the relay asks, and what MySQL answers.
async fn behind_a_changer(shop: &TestShop, asked: Words, answered: Words) -> String {
    assert!(asked.iter().chain(&answered).all(|(word, other)| word.len() == other.len()));
    let (server, database) = shop.database_url.rsplit_once('/').unwrap();
    let (user, address) = server.rsplit_once('@').unwrap();
    let (listener, mysql) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), address.to_owned());
    let url = format!("{user}@{}/{database}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((relay, _)) = listener.accept().await {
            let (from_relay, to_relay) = relay.into_split();
            let (from_mysql, to_mysql) = TcpStream::connect(&mysql).await.unwrap().into_split();
            // Each ends with its connection.
            tokio::spawn(forward(from_relay, to_mysql, asked.clone()));
            tokio::spawn(forward(from_mysql, to_relay, answered.clone()));
        }
    });
    url
}

/// Packet by packet, so that no word is cut in two.
async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, words: Words) -> io::Result<()> {
    loop {
        let mut head = [0; 4];
        from.read_exact(&mut head).await?;
        let mut body = vec![0; usize::from(head[0]) | usize::from(head[1]) << 8 | usize::from(head[2]) << 16];
        from.read_exact(&mut body).await?;
        for (word, other) in &words {
            while let Some(at) = body.windows(word.len()).position(|bytes| bytes == word.as_bytes()) {
                body[at..at + word.len()].copy_from_slice(other.as_bytes());
            }
        }
        to.write_all(&[&head[..], &body].concat()).await?;
    }
}

#[tokio::test]
async fn a_session_that_is_handed_out_at_another_isolation_than_was_asked_for_is_caught() {
    const ASKED: &str = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED";
    let shop = TestShop::start().await;
    shop.commit("a", 1).await;
    for (instead, found) in [
        ("SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE", "SERIALIZABLE"),
        // Somebody in between keeps it to himself, and the server's own default holds.
        ("DO 0", "REPEATABLE-READ"),
    ] {
        let instead = format!("{instead:<0$}", ASKED.len());
        let url = behind_a_changer(&shop, vec![(ASKED.to_owned(), instead)], Vec::new()).await;

        let error = refusal(&url).await;

        assert!(matches!(&error, RelayError::Isolation { found: is } if is == found), "{error:?}");
        assert!(error.to_string().contains("wants READ-COMMITTED"), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_is_too_old_says_so_though_it_lacks_what_is_asked_next() {
    let shop = TestShop::start().await;
    let version: String = sqlx::query_scalar("SELECT VERSION()").fetch_one(shop.store.pool()).await.unwrap();
    let (_, rest) = version.split_once('.').unwrap();
    let old = format!("{:0>1$}.{rest}", 5, version.len() - rest.len() - 1);
    // As before 5.7.8, and as MariaDB.
    let unknown = vec![("super_read_only".to_owned(), "super_read_none".to_owned())];
    let url = behind_a_changer(&shop, unknown, vec![(version, old.clone())]).await;

    let error = refusal(&url).await;

    assert_eq!(error.to_string(), format!("server {old} cannot carry an outbox: wants MySQL 8.0 or newer"));
}
