//! What the outbox and its relay promise: nothing lost, order kept, one relay at a time.

use outflow_outbox::{Relay, RelayError, RelaySettings};
use outflow_tests::{Recorder, TestShop, in_a_minute, long, until, write_event};
use sqlx::{Connection, Executor, MySqlConnection, Row};
use std::{collections::HashMap, time::Duration};

#[tokio::test]
async fn what_is_rolled_back_leaves_no_event_and_what_is_committed_leaves_each_once() {
    let shop = TestShop::start().await;
    let (relay, recorder) = shop.recording_relay();
    let mut lost = shop.begin().await;
    write_event(&mut lost, "rolled-back", 1).await;
    lost.rollback().await.unwrap();
    let mut kept = shop.begin().await;
    write_event(&mut kept, "kept", 1).await;
    kept.commit().await.unwrap();

    let report = relay.drain(in_a_minute()).await.unwrap();
    let again = relay.drain(in_a_minute()).await.unwrap();

    assert_eq!(recorder.versions(), [("kept".to_owned(), 1)]);
    assert_eq!((report.published, report.backlog, report.gaps), (1, 0, 1));
    assert_eq!(again.published, 0);
}

#[tokio::test]
async fn an_id_given_before_the_position_and_committed_after_it_is_still_delivered() {
    let shop = TestShop::start().await;
    let (relay, recorder) = shop.recording_relay();
    let mut slow = shop.begin().await;
    write_event(&mut slow, "slow", 1).await;
    for n in 0..25 {
        let mut quick = shop.begin().await;
        write_event(&mut quick, &format!("quick-{n}"), 1).await;
        quick.commit().await.unwrap();
    }
    let first = relay.drain(in_a_minute()).await.unwrap();
    slow.commit().await.unwrap();

    let second = relay.drain(in_a_minute()).await.unwrap();

    assert_eq!((first.published, first.gaps), (25, 1));
    assert_eq!((second.published, second.gaps), (1, 0));
    assert_eq!(recorder.versions().last(), Some(&("slow".to_owned(), 1)));
}

#[tokio::test]
async fn a_version_1_that_commits_between_two_pages_goes_before_its_version_2() {
    let shop = TestShop::start().await;
    let (relay, recorder) = shop.recording_relay();
    let mut first = shop.begin().await;
    write_event(&mut first, "order", 1).await;
    for n in 0..10 {
        let mut other = shop.begin().await;
        write_event(&mut other, &format!("other-{n}"), 1).await;
        other.commit().await.unwrap();
    }
    // While the first page is on its way, version 1 commits and version 2 follows it.
    let pool = shop.store.pool().clone();
    let first = std::sync::Arc::new(tokio::sync::Mutex::new(Some(first)));
    recorder
        .during_next(move || {
            let (pool, first) = (pool.clone(), std::sync::Arc::clone(&first));
            async move {
                first.lock().await.take().expect("it runs once").commit().await.unwrap();
                let mut second = pool.begin().await.unwrap();
                write_event(&mut second, "order", 2).await;
                second.commit().await.unwrap();
            }
        })
        .await;

    relay.drain(in_a_minute()).await.unwrap();

    let versions: Vec<_> =
        recorder.versions().into_iter().filter(|(id, _)| id == "order").map(|(_, v)| v).collect();
    assert_eq!(versions, [1, 2]);
}

#[tokio::test]
async fn a_gap_is_dead_only_when_no_transaction_is_left_that_could_fill_it() {
    let shop = TestShop::start().await;
    let recorder = Recorder::default();
    let relay = shop.relay(recorder.clone(), 10, Duration::ZERO);
    let mut open = shop.begin().await;
    write_event(&mut open, "open", 1).await;
    let mut rolled_back = shop.begin().await;
    write_event(&mut rolled_back, "rolled-back", 1).await;
    rolled_back.rollback().await.unwrap();
    let mut last = shop.begin().await;
    write_event(&mut last, "last", 1).await;
    last.commit().await.unwrap();

    let while_open = relay.drain(in_a_minute()).await.unwrap();
    open.commit().await.unwrap();
    let delivered = relay.drain(in_a_minute()).await.unwrap();
    // The server tells a transaction's start to the second, so the proof may take one.
    let mut gaps = delivered.gaps;
    let deadline = in_a_minute();
    while gaps > 0 && std::time::Instant::now() < deadline {
        gaps = relay.drain(deadline).await.unwrap().gaps;
    }

    assert_eq!((while_open.published, while_open.gaps), (1, 1), "two ids in one range");
    assert_eq!(delivered.published, 1);
    assert_eq!(gaps, 0);
    assert_eq!(recorder.versions(), [("last".to_owned(), 1), ("open".to_owned(), 1)]);
}

#[tokio::test]
async fn at_the_bound_of_gaps_the_position_stops_and_goes_on_once_they_are_dead() {
    let shop = TestShop::start().await;
    let recorder = Recorder::default();
    let settings = RelaySettings {
        max_gaps: 2,
        batch_rows: 10,
        gap_grace: Duration::ZERO,
        lease: Duration::from_secs(10),
        ..RelaySettings::default()
    };
    let relay = Relay::new(&shop.database_url, recorder.clone(), settings).unwrap();
    // As long as it is open, no gap behind it can be proven dead.
    let mut oldest = shop.begin().await;
    write_event(&mut oldest, "oldest", 1).await;
    for n in 0..4 {
        let mut kept = shop.begin().await;
        write_event(&mut kept, &format!("kept-{n}"), 1).await;
        kept.commit().await.unwrap();
        let mut lost = shop.begin().await;
        write_event(&mut lost, "rolled-back", 1).await;
        lost.rollback().await.unwrap();
    }

    let error = relay.drain(in_a_minute()).await.unwrap_err();
    let at_the_bound = recorder.published().len();
    let stays = relay.drain(in_a_minute()).await.unwrap_err();
    oldest.commit().await.unwrap();
    let deadline = in_a_minute();
    // The server tells a transaction's start to the second, so the proof may take one.
    while recorder.published().len() < 5 && std::time::Instant::now() < deadline {
        match relay.drain(deadline).await {
            Ok(_) | Err(RelayError::TooManyGaps { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }

    for error in [error, stays] {
        assert!(matches!(error, RelayError::TooManyGaps { gaps: 2, limit: 2, .. }), "{error}");
    }
    assert_eq!(at_the_bound, 2);
    let mut seen: Vec<_> = recorder.versions().into_iter().map(|(id, _)| id).collect();
    seen.sort();
    assert_eq!(seen, ["kept-0", "kept-1", "kept-2", "kept-3", "oldest"]);
}

#[tokio::test]
async fn a_relay_whose_memory_is_full_goes_on_when_something_is_delivered() {
    let shop = TestShop::start().await;
    let recorder = Recorder::default();
    // A page is one event, and two of them are all that may be in memory.
    let settings = RelaySettings {
        batch_bytes: 1,
        in_flight_bytes: 1_000,
        lease: Duration::from_secs(10),
        ..RelaySettings::default()
    };
    let relay = Relay::new(&shop.database_url, recorder.clone(), settings).unwrap();
    for n in 0..30 {
        let mut transaction = shop.begin().await;
        write_event(&mut transaction, &format!("a-{n}"), 1).await;
        transaction.commit().await.unwrap();
    }

    let report = relay.drain(in_a_minute()).await.unwrap();

    assert_eq!((report.published, recorder.published().len()), (30, 30));
}

/// While one page is with the publisher, the next is read and delivered, and the position moves over the one before.
#[tokio::test]
async fn reading_delivering_and_moving_go_on_side_by_side() {
    let shop = TestShop::start().await;
    // Pages of ten.
    let (relay, recorder) = shop.recording_relay();
    let commit_ten = async |prefix: &str| {
        for n in 0..10 {
            shop.commit(&format!("{prefix}-{n}"), 1).await;
        }
    };
    let position = async || shop.number("SELECT CAST(position AS SIGNED) FROM outbox_position").await;
    recorder.hold(&["second-5"]);
    for prefix in ["first", "second", "third"] {
        commit_ten(prefix).await;
    }
    let beside = relay.clone();
    let drain = tokio::spawn(async move { beside.run(in_a_minute(), Duration::from_millis(100)).await });

    recorder.until_offered("second-5", 1).await;
    recorder.until_offered("third-9", 1).await;
    until("the first page is moved over", async || position().await == 10).await;
    until("the third page is confirmed", async || !recorder.versions_of("third-9").is_empty()).await;
    commit_ten("fourth").await;
    until("a page that came meanwhile is confirmed", async || !recorder.versions_of("fourth-9").is_empty())
        .await;

    assert_eq!(position().await, 10, "nothing is moved over before what is in front of it");
    assert!(recorder.versions_of("second-5").is_empty());
    recorder.hold(&[]);
    assert_eq!(drain.await.unwrap().unwrap().published, 40);
    assert_eq!((recorder.published().len(), position().await), (40, 40));
}

#[tokio::test]
async fn pruning_that_meets_a_lock_holds_up_no_event_and_is_done_later() {
    let shop = TestShop::start().await;
    let recorder = Recorder::default();
    let keeping = |keep_delivered| RelaySettings { keep_delivered, ..RelaySettings::default() };
    for version in 1..=5 {
        shop.commit("a", version).await;
    }
    shop.relay_to(&recorder, keeping(None)).drain(in_a_minute()).await.unwrap();
    // A step notes the last row that it deletes among the checkpoints, and there it has to wait for this.
    shop.run("INSERT INTO outbox_checkpoints VALUES ('default', 4, 'x', UTC_TIMESTAMP(6))").await;
    let mut stopper = shop.begin().await;
    let held = "SELECT * FROM outbox_checkpoints WHERE relay_group = 'default' AND position = 4 FOR UPDATE";
    stopper.execute(held).await.unwrap();
    let relay = shop.relay_to(&recorder, keeping(Some(Duration::ZERO)));

    shop.commit("a", 6).await;
    let busy = relay.drain(in_a_minute()).await.unwrap();
    let idle = relay.drain(in_a_minute()).await.unwrap();
    shop.commit("a", 7).await;
    let again = relay.drain(in_a_minute()).await.unwrap();

    assert_eq!((busy.published, idle.published, again.published), (1, 0, 1));
    let rows = "SELECT COUNT(*) FROM outbox";
    assert_eq!(shop.number(rows).await, 7, "as long as it is locked out");
    stopper.rollback().await.unwrap();
    until("old rows go", async || {
        relay.drain(in_a_minute()).await.unwrap();
        shop.number(rows).await == 1
    })
    .await;
    assert_eq!(recorder.versions_of("a"), (1..=7).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_is_not_confirmed_stays_and_comes_again_in_order() {
    let shop = TestShop::start().await;
    let (relay, recorder) = shop.recording_relay();
    for (aggregate, version) in [("a", 1), ("b", 1), ("b", 2)] {
        let mut transaction = shop.begin().await;
        write_event(&mut transaction, aggregate, version).await;
        transaction.commit().await.unwrap();
    }
    recorder.refuse(&["b"]);

    let error = relay.drain(in_a_minute()).await.unwrap_err();
    recorder.refuse(&[]);
    let report = relay.drain(in_a_minute()).await.unwrap();

    assert!(matches!(error, RelayError::Publish { failed: 1, position: 0, .. }), "{error}");
    assert_eq!((report.published, report.backlog), (3, 0));
    let versions: Vec<_> = recorder.versions().into_iter().filter(|(id, _)| id == "b").collect();
    assert_eq!(versions, [("b".to_owned(), 1), ("b".to_owned(), 2)]);
}

#[tokio::test]
async fn a_second_relay_keeps_out_while_the_first_one_works() {
    let shop = TestShop::start().await;
    let (relay, recorder) = shop.recording_relay();
    let (second, second_recorder) = shop.recording_relay();
    let mut transaction = shop.begin().await;
    write_event(&mut transaction, "a", 1).await;
    transaction.commit().await.unwrap();
    let (meanwhile_tx, mut meanwhile) = tokio::sync::mpsc::unbounded_channel();
    let other = second.clone();
    recorder
        .during_next(move || {
            let (other, meanwhile_tx) = (other.clone(), meanwhile_tx.clone());
            async move { meanwhile_tx.send(other.drain(in_a_minute()).await.unwrap()).unwrap() }
        })
        .await;

    let first = relay.drain(in_a_minute()).await.unwrap();

    assert_eq!(first.published, 1);
    let meanwhile = meanwhile.recv().await.unwrap();
    assert!(meanwhile.lease_held_elsewhere);
    assert_eq!(meanwhile.published, 0);
    assert!(second_recorder.published().is_empty());
}

/// Lambda freezes the process as soon as it has answered: here, a runtime that nobody polls any more.
#[test]
fn a_relay_that_was_kept_out_holds_no_lock_once_it_has_answered() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (frozen, other) = (runtime(), runtime());
    let (shop, relay, report) = frozen.block_on(async {
        let shop = TestShop::start().await;
        let (relay, _recorder) = shop.recording_relay();
        sqlx::query(
            "INSERT INTO outbox_position (relay_group, lease_until) VALUES ('default', '2999-01-01')",
        )
        .execute(shop.store.pool())
        .await
        .unwrap();
        let report = relay.drain(in_a_minute()).await.unwrap();
        (shop, relay, report)
    });

    let locked = other.block_on(async {
        let mut holder = MySqlConnection::connect(&shop.database_url).await.unwrap();
        let sql = "SELECT position FROM outbox_position WHERE relay_group = 'default' FOR UPDATE NOWAIT";
        sqlx::query(sql).fetch_one(&mut holder).await.map(drop)
    });

    assert!(report.lease_held_elsewhere);
    assert!(locked.is_ok(), "{locked:?}");
    frozen.block_on(async { drop((shop, relay)) });
}

#[tokio::test]
async fn a_relay_that_lost_its_lease_cannot_move_the_position() {
    let shop = TestShop::start().await;
    let (stale, recorder) = shop.recording_relay();
    let (fresh, fresh_recorder) = shop.recording_relay();
    let mut transaction = shop.begin().await;
    write_event(&mut transaction, "a", 1).await;
    transaction.commit().await.unwrap();
    let pool = shop.store.pool().clone();
    recorder
        .during_next(move || {
            let (pool, fresh) = (pool.clone(), fresh.clone());
            async move {
                // As if the stale one had been frozen until its lease was over.
                sqlx::query("UPDATE outbox_position SET lease_until = UTC_TIMESTAMP(6)")
                    .execute(&pool)
                    .await
                    .unwrap();
                assert_eq!(fresh.drain(in_a_minute()).await.unwrap().published, 1);
            }
        })
        .await;

    let error = stale.drain(in_a_minute()).await.unwrap_err();

    assert!(matches!(error, RelayError::Fenced { .. }), "{error}");
    assert_eq!(fresh_recorder.versions(), [("a".to_owned(), 1)]);
    assert_eq!(shop.number("SELECT CAST(position AS SIGNED) FROM outbox_position").await, 1);
}

#[tokio::test]
async fn outbox_status_tells_of_each_event_whether_and_when_it_was_delivered() {
    let shop = TestShop::start().await;
    let (relay, _recorder) = shop.recording_relay();
    let mut open = shop.begin().await;
    write_event(&mut open, "open", 1).await;
    let mut done = shop.begin().await;
    write_event(&mut done, "done", 1).await;
    done.commit().await.unwrap();
    relay.drain(in_a_minute()).await.unwrap();
    open.commit().await.unwrap();
    let mut waiting = shop.begin().await;
    write_event(&mut waiting, "waiting", 1).await;
    waiting.commit().await.unwrap();

    let rows = sqlx::query(
        "SELECT aggregate_id, CAST(processed AS SIGNED) AS processed, processed_at IS NOT NULL AS at FROM outbox_status ORDER BY id",
    )
    .fetch_all(shop.store.pool())
    .await
    .unwrap();

    let seen: Vec<(String, i64)> =
        rows.iter().map(|row| (row.get("aggregate_id"), row.get("processed"))).collect();
    assert_eq!(seen, [("open".to_owned(), 0), ("done".to_owned(), 1), ("waiting".to_owned(), 0)]);
    let with_time: Vec<i64> = rows.iter().map(|row| row.get("at")).collect();
    assert_eq!(with_time, [0, 1, 0]);
}

/// Writers with versions, pauses and roll-backs of all kinds, and a relay beside them.
#[tokio::test(flavor = "multi_thread")]
async fn under_concurrent_writers_nothing_is_lost_and_every_aggregate_keeps_its_order() {
    let shop = TestShop::start().await;
    let recorder = Recorder::default();
    let relay = shop.relay(recorder.clone(), 20, Duration::from_secs(60));
    let (writers, versions) = if long() { (8, 2_000) } else { (4, 150) };
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..writers {
        let pool = shop.store.pool().clone();
        tasks.spawn(async move {
            let aggregate = format!("aggregate-{writer}");
            for version in 1..=versions {
                // Every fifth is tried once in vain, which leaves a hole for ever.
                for rolled_back in [version % 5 == 0, false].into_iter().skip(usize::from(version % 5 != 0)) {
                    let mut transaction = pool.begin().await.unwrap();
                    write_event(&mut transaction, &aggregate, version).await;
                    tokio::time::sleep(Duration::from_millis(u64::from((version * 7 + writer * 3) % 11)))
                        .await;
                    if rolled_back {
                        transaction.rollback().await.unwrap()
                    } else {
                        transaction.commit().await.unwrap()
                    }
                }
            }
        });
    }
    let writing = async {
        while let Some(result) = tasks.join_next().await {
            result.unwrap();
        }
    };
    let relaying = async {
        loop {
            relay.drain(in_a_minute()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = writing => {}
        () = relaying => {}
    }
    // The last drain was cut off, so its lease has to run out first.
    while relay.drain(in_a_minute()).await.unwrap().lease_held_elsewhere {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    let mut seen: HashMap<String, Vec<u32>> = HashMap::new();
    for (aggregate, version) in recorder.versions() {
        let versions = seen.entry(aggregate).or_default();
        // A drain that was cut off publishes again; order is judged at first appearance.
        if versions.last().is_none_or(|last| version > *last) {
            versions.push(version);
        }
    }
    assert_eq!(seen.len(), usize::try_from(writers).unwrap());
    for (aggregate, found) in seen {
        assert_eq!(found, (1..=versions).collect::<Vec<_>>(), "{aggregate}");
    }
}
