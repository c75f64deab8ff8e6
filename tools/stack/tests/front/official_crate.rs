//! What the official `clickhouse` crate sends and expects, with and without LZ4.

use clickhouse::{Compression, Row};
use reqwest::StatusCode;
use serde::{Deserialize, Serialize};

use crate::harness::{Front, header};

#[derive(Debug, Clone, PartialEq, Row, Serialize, Deserialize)]
struct Sale {
    id: u64,
    status: String,
    #[serde(with = "clickhouse::serde::time::datetime64::millis")]
    at: time::OffsetDateTime,
    cents: Option<i64>,
}

fn sales(count: u64) -> Vec<Sale> {
    (0..count)
        .map(|id| Sale {
            id,
            status: if id % 2 == 0 { "PENDING".to_owned() } else { "PAID '\\\t".to_owned() },
            at: time::OffsetDateTime::from_unix_timestamp(1_700_000_000 + i64::try_from(id).unwrap())
                .unwrap(),
            cents: (id % 3 != 0).then_some(i64::try_from(id).unwrap() * 7),
        })
        .collect()
}

#[tokio::test]
async fn the_official_crate_inserts_and_reads() {
    let front = Front::start().await;
    front.ask("CREATE DATABASE shop").await;
    let create = "CREATE TABLE sales (id UInt64, status LowCardinality(String), at DateTime64(3, 'UTC'), \
                  cents Nullable(Int64), loaded_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')) \
                  ENGINE = MergeTree ORDER BY id PARTITION BY toYYYYMM(at)";
    let sent = sales(20_000);
    for compression in [Compression::Lz4, Compression::None] {
        let client = front.client().with_database("shop").with_compression(compression);
        client.query("DROP TABLE IF EXISTS sales").execute().await.unwrap();
        client.query(create).execute().await.unwrap();
        let insert = client.insert::<Sale>("sales").await.unwrap();
        let mut insert =
            insert.with_setting("async_insert", "0").with_setting("insert_deduplication_token", "t-1");
        for sale in &sent {
            insert.write(sale).await.unwrap();
        }
        insert.end().await.unwrap();
        let read = client.query("SELECT ?fields FROM sales ORDER BY id").fetch_all::<Sale>().await.unwrap();
        assert!(read == sent, "rows differ with {compression:?}");
        // One batch is one part: the real server's count for one block in one partition.
        let parts = client.query("SELECT count() FROM system.parts WHERE table = 'sales' AND active");
        assert_eq!(parts.fetch_one::<u64>().await.unwrap(), 1);
        let none =
            client.query("SELECT ?fields FROM sales WHERE id > ?").bind(1_000_000).fetch_optional::<Sale>();
        assert_eq!(none.await.unwrap(), None);
        let bound = client.query("SELECT count() FROM sales WHERE status = {status: String}");
        assert_eq!(bound.param("status", "PAID '\\\t").fetch_one::<u64>().await.unwrap(), 10_000);
        let unvalidated = client.clone().with_validation(false);
        assert_eq!(unvalidated.query("SELECT count() FROM sales").fetch_one::<u64>().await.unwrap(), 20_000);
        let missing = client.query("SELECT * FROM nowhere").execute().await.unwrap_err();
        assert!(missing.to_string().contains("Code: 60"), "{missing}");
    }
}

#[tokio::test]
async fn the_official_crate_streams_a_big_result() {
    let front = Front::start().await;
    // The first result sizes the engine's pools.
    front.ask("SELECT number, repeat('x', 64) FROM numbers(500000)").await;
    let before = front.peak();
    for compression in [Compression::Lz4, Compression::None] {
        let client = front.client().with_compression(compression);
        let query = "SELECT number, repeat('x', 64) FROM numbers(1500000)";
        let mut rows = client.query(query).fetch::<(u64, String)>().unwrap();
        let mut next = 0;
        while let Some((number, _)) = rows.next().await.unwrap() {
            assert_eq!(number, next);
            next += 1;
        }
        assert_eq!(next, 1_500_000);
    }
    let grown = front.peak() - before;
    assert!(grown < 64 * 1024, "results of 110 MB took {grown} KiB");
}

#[tokio::test]
async fn an_error_amid_a_result_reaches_the_client() {
    let front = Front::start().await;
    let sql = "SELECT throwIf(number = 900000, 'far too late') FROM numbers(1000000) SETTINGS max_block_size = 10000";
    for compression in [Compression::Lz4, Compression::None] {
        let client = front.client().with_compression(compression);
        let error = client.query(sql).fetch_all::<u8>().await.unwrap_err();
        assert!(error.to_string().contains("far too late"), "{error}");
    }
    let response = front.send(&[], sql).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(header(&response, "x-clickhouse-exception-tag").len(), 16);
    assert!(response.bytes().await.is_err(), "a broken result must not look whole");
    let waited = front.send(&[("wait_end_of_query", "1")], sql).await;
    assert_eq!(waited.status(), StatusCode::INTERNAL_SERVER_ERROR);
}
