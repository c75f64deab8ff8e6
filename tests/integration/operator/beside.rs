//! Each command as the process that it is, beside a relay at work and services that write. A command stops neither of
//! them, and in the end everything that was committed and not discarded is delivered, each aggregate in its order.

use super::{HOUR, Parking, cli::Cli, signature};
use outflow_outbox::Report;
use outflow_tests::{until, write_event};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;

const WRITERS: u32 = 3;
/// Between two transactions of a writer.
const RHYTHM: Duration = Duration::from_millis(4);
const WHY: [&str; 2] = ["--why", "the test says so"];

/// Aggregate and version.
type Event = (String, u32);

struct Beside {
    cli: Cli,
    over: Arc<AtomicBool>,
    /// Everything that was committed.
    committed: Arc<Mutex<Vec<Event>>>,
    writing: Vec<JoinHandle<()>>,
    relaying: JoinHandle<Report>,
}

impl Beside {
    /// With writers that give some of their ids up, which leaves gaps, or keep all.
    async fn start(roll_back: bool) -> Self {
        let cli = Cli::start().await;
        let (over, committed) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let writing = (0..WRITERS)
            .map(|n| {
                tokio::spawn(write(
                    n,
                    roll_back,
                    cli.parking.shop.database_url.clone(),
                    Arc::clone(&over),
                    Arc::clone(&committed),
                ))
            })
            .collect();
        let relaying = tokio::spawn(relay(cli.parking.relay.clone(), Arc::clone(&over)));
        let beside = Self { cli, over, committed, writing, relaying };
        beside.until("the relay is at work", || beside.delivered() > 0).await;
        beside
    }

    fn parking(&self) -> &Parking {
        &self.cli.parking
    }

    fn delivered(&self) -> usize {
        self.parking().picky.recorder.published().len()
    }

    fn written(&self) -> usize {
        self.committed.lock().unwrap().len()
    }

    async fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        until(what, async || {
            assert!(!self.relaying.is_finished(), "{what}: the relay has ended");
            is_so()
        })
        .await;
    }

    /// Commits these versions of an aggregate that is none of the writers'.
    async fn commit(&self, aggregate: &str, versions: std::ops::RangeInclusive<u32>) {
        super::commit_events(&self.parking().shop, aggregate, versions.clone()).await;
        self.committed.lock().unwrap().extend(versions.map(|version| (aggregate.to_owned(), version)));
    }

    /// Commits three versions of each of these aggregates, and waits until the relay has parked all of them.
    async fn park(&self, aggregates: &[&str]) {
        for aggregate in aggregates {
            self.parking().picky.refuse(aggregate, true, "message_too_large");
            self.commit(aggregate, 1..=3).await;
        }
        until("they are parked", async || self.parking().states().await.len() == 3 * aggregates.len()).await;
    }

    /// The number of the relay that holds the lease now: it rises with each session.
    async fn at_work(&self) -> Option<u64> {
        sqlx::query_scalar("SELECT fencing_token FROM outbox_position WHERE lease_until > UTC_TIMESTAMP(6)")
            .fetch_optional(self.parking().shop.store.pool())
            .await
            .unwrap()
    }

    /// Runs a command while one and the same session of the relay holds the lease, which goes on delivering.
    async fn during<T>(&self, command: impl Future<Output = T>) -> T {
        let (session, delivered) = (self.at_work().await, self.delivered());
        assert!(session.is_some(), "the relay is at work");
        let outcome = command.await;
        assert_eq!(self.at_work().await, session, "from before the command until after it");
        self.until("it goes on delivering", || self.delivered() > delivered).await;
        outcome
    }

    async fn json(&self, code: i32, arguments: &[&str]) -> Value {
        self.during(self.cli.json(code, arguments)).await
    }

    async fn text(&self, code: i32, arguments: &[&str]) -> String {
        self.during(self.cli.text(code, arguments)).await
    }

    async fn refused(&self, arguments: &[&str]) -> String {
        self.during(self.cli.refused(arguments)).await
    }

    /// What would be done, told both ways, and nothing of it done: nothing is in the audit, and what is parked stays.
    async fn dry_run(&self, arguments: &[&str]) -> (Value, String) {
        let arguments = [arguments, &["--dry-run"]].concat();
        let before = (self.parking().states().await, self.audited(None).await);
        let told = (self.json(0, &arguments).await, self.text(0, &arguments).await);
        assert_eq!((self.parking().states().await, self.audited(None).await), before, "{arguments:?}");
        told
    }

    /// How often this was done, or anything.
    async fn audited(&self, action: Option<&str>) -> i64 {
        sqlx::query_scalar("SELECT COUNT(*) FROM outbox_audit WHERE action = COALESCE(?, action)")
            .bind(action)
            .fetch_one(self.parking().shop.store.pool())
            .await
            .unwrap()
    }

    /// Ends the writers and, when all is delivered, the relay; and holds what it has delivered against what was committed.
    async fn judge(self, discarded: &[(&str, u32)]) {
        self.over.store(true, Ordering::Relaxed);
        for writer in self.writing {
            writer.await.unwrap();
        }
        let shop = &self.cli.parking.shop;
        until("everything is delivered", async || {
            let settled = "SELECT (SELECT MAX(id) FROM outbox) = (SELECT position FROM outbox_position)
                AND NOT EXISTS (SELECT 1 FROM outbox_gaps g JOIN outbox o ON o.id BETWEEN g.first_id AND g.last_id)
                AND NOT EXISTS (SELECT 1 FROM outbox_failures)";
            shop.number(settled).await == 1
        })
        .await;
        self.cli.parking.operator.pause(&signature(), false).await.unwrap();
        let report = self.relaying.await.unwrap();

        let discarded: BTreeSet<Event> =
            discarded.iter().map(|(id, version)| ((*id).to_owned(), *version)).collect();
        let mut expected: BTreeSet<Event> = self.committed.lock().unwrap().iter().cloned().collect();
        expected.retain(|event| !discarded.contains(event));
        let published = self.cli.parking.picky.recorder.versions();
        let mut first_seen: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
        for (aggregate, version) in &published {
            let seen = first_seen.entry(aggregate).or_default();
            if !seen.contains(version) {
                seen.push(*version);
            }
        }
        for (aggregate, versions) in first_seen {
            assert!(versions.is_sorted(), "{aggregate} came as {versions:?}");
        }
        let published: BTreeSet<Event> = published.into_iter().collect();
        let lost: Vec<_> = expected.difference(&published).collect();
        let strange: Vec<_> = published.difference(&expected).collect();
        assert!(
            lost.is_empty() && strange.is_empty(),
            "lost: {lost:?}; never committed, or discarded: {strange:?}"
        );
        assert_eq!(report.parked, 0, "{report:?}");
    }
}

/// A service with one aggregate, until it is over.
async fn write(
    number: u32,
    roll_back: bool,
    database_url: String,
    over: Arc<AtomicBool>,
    committed: Arc<Mutex<Vec<Event>>>,
) {
    let aggregate = format!("writer-{number}");
    // Its own, for those of the shop are few and the commands' looks need some.
    let pool = sqlx::MySqlPool::connect(&database_url).await.unwrap();
    for version in 1.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let mut transaction = pool.begin().await.unwrap();
        if roll_back && version % 7 == 0 {
            write_event(&mut transaction, &aggregate, version).await;
            transaction.rollback().await.unwrap();
            transaction = pool.begin().await.unwrap();
        }
        write_event(&mut transaction, &aggregate, version).await;
        transaction.commit().await.unwrap();
        committed.lock().unwrap().push((aggregate.clone(), version));
        tokio::time::sleep(RHYTHM).await;
    }
}

/// As a relay's process does: begins again whenever a session ends, also behind a pause.
async fn relay(relay: outflow_outbox::Relay<super::Picky>, over: Arc<AtomicBool>) -> Report {
    loop {
        let report = relay.run(Instant::now() + HOUR, HOUR).await.expect("nothing makes a drain fail");
        if over.load(Ordering::Relaxed) {
            return report;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn looking_at_the_outbox_disturbs_nobody() {
    let beside = Beside::start(true).await;
    beside.park(&["big"]).await;
    let head = beside.parking().id("big", 1).await.to_string();

    let status = beside.json(1, &["status"]).await;
    let list = beside.json(0, &["list", "--cause", "message_too_large"]).await;
    let causes = beside.json(0, &["list", "--by-cause"]).await;
    let shown = beside.json(0, &["show", &head]).await;
    let audit = beside.json(0, &["audit"]).await;
    let unknown = beside.json(1, &["show", "99999999"]).await;

    let group = &status["groups"][0];
    assert_eq!(group["lease"]["fencing_token"].as_u64(), beside.at_work().await);
    assert!(group["lease"]["remaining_ms"].is_u64() && group["position"].as_u64() > Some(0), "{group}");
    assert_eq!((&group["parked"]["dead"], &group["problems"]), (&1.into(), &json!(["dead_letters"])));
    assert_eq!(list["failures"].as_array().map(Vec::len), Some(1));
    assert_eq!((&causes["causes"][0]["dead"], &causes["causes"][0]["waiting"]), (&1.into(), &2.into()));
    assert_eq!((&shown["fate"], &shown["parked"]["behind_count"]), (&"parked".into(), &2.into()));
    assert_eq!((&audit["entries"], &unknown["fate"]), (&json!([]), &"unknown".into()));
    for (code, arguments, told) in [
        (1, &["status"][..], "held by"),
        (0, &["list"], "waits for"),
        (0, &["list", "--by-cause"], "big was refused"),
        (0, &["show", &head], "behind it:"),
        (0, &["audit"], "nothing was done"),
        (1, &["show", "99999999"], "unknown"),
    ] {
        let text = beside.text(code, arguments).await;
        assert!(text.contains(told), "{arguments:?}: {text}");
    }
    assert!(beside.refused(&["status", "--group", "defualt"]).await.contains("there is default"));
    beside.parking().picky.accept_all();
    beside.parking().operator.retry(&Default::default(), true, &signature(), false).await.unwrap();
    beside.judge(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_beside_a_relay_at_work_delivers_what_was_parked() {
    let beside = Beside::start(true).await;
    beside.park(&["big-1", "big-2"]).await;
    let by_cause = ["retry", "--cause", "message_too_large"];

    let (planned, told) = beside.dry_run(&by_cause).await;
    let unreasoned = beside.refused(&by_cause).await;
    beside.parking().picky.accept_all();
    let retried = beside.json(0, &[&by_cause[..], &["--by", "ann"], &WHY].concat()).await;
    for aggregate in ["big-1", "big-2"] {
        beside
            .until("what was parked is through", || beside.parking().published(aggregate) == [1, 2, 3])
            .await;
    }
    beside.commit("big-1", 4..=4).await;
    beside.until("and what comes later", || beside.parking().published("big-1") == [1, 2, 3, 4]).await;
    until("it is written off", async || beside.parking().states().await.is_empty()).await;
    let nothing = beside.text(0, &[&["retry", "--all"], &WHY[..]].concat()).await;

    assert_eq!((&planned["dry_run"], &retried["dry_run"]), (&true.into(), &false.into()));
    assert_eq!(
        (&planned["events"], retried["events"].as_array().map(Vec::len)),
        (&retried["events"], Some(2))
    );
    assert!(told.contains("2 events would be tried again"), "{told}");
    assert!(unreasoned.contains("--why"), "{unreasoned}");
    assert!(nothing.contains("0 events tried again"), "{nothing}");
    assert_eq!((beside.audited(Some("retry")).await, beside.audited(None).await), (2, 2));
    beside.judge(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discard_beside_a_relay_at_work_takes_what_was_meant_and_nothing_else() {
    let beside = Beside::start(true).await;
    beside.park(&["head", "whole"]).await;
    beside.parking().picky.accept_all();
    let head = beside.parking().id("head", 1).await.to_string();
    let only_head = ["discard", &head, "--breaks-order"];
    let whole = ["discard", "--aggregate-id", "whole", "--whole-aggregate"];

    let (head_planned, told) = beside.dry_run(&only_head).await;
    let (whole_planned, whole_told) = beside.dry_run(&whole).await;
    let unconfirmed = beside.refused(&[&["discard", &head, "--yes"], &WHY[..]].concat()).await;
    let unasked = beside.refused(&[&only_head[..], &WHY].concat()).await;
    let discarded = beside.json(0, &[&only_head[..], &["--yes"], &WHY].concat()).await;
    beside.until("the others follow", || beside.parking().published("head") == [2, 3]).await;
    let all = beside.text(0, &[&whole[..], &["--yes"], &WHY].concat()).await;
    beside.commit("whole", 4..=5).await;
    beside.until("what is written later follows", || beside.parking().published("whole") == [4, 5]).await;

    assert_eq!((&head_planned["dry_run"], &head_planned["events"]), (&true.into(), &discarded["events"]));
    let event = &discarded["events"][0];
    assert_eq!((&event["breaks_order"], &event["followed_by"]), (&"later_follow".into(), &2.into()));
    let event = &whole_planned["events"][0];
    assert_eq!((&event["breaks_order"], &event["with_it"]), (&Value::Null, &2.into()));
    assert!(told.contains("broken: 2 later follow without it"), "{told}");
    assert!(whole_told.contains("3 events would be discarded; whatever is written"), "{whole_told}");
    assert!(unconfirmed.contains("say --breaks-order"), "{unconfirmed}");
    assert!(unasked.contains("say --yes"), "{unasked}");
    assert!(all.contains("3 events discarded; whatever is written"), "{all}");
    assert_eq!((beside.audited(Some("discard")).await, beside.audited(None).await), (4, 4));
    beside.judge(&[("head", 1), ("whole", 1), ("whole", 2), ("whole", 3)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pruning_beside_a_relay_at_work_deletes_what_is_delivered_and_loses_nothing() {
    let beside = Beside::start(false).await;
    let operator = &beside.parking().operator;
    until("there is something to prune", async || operator.prunable(Duration::ZERO).await.unwrap().rows > 20)
        .await;
    let everything = ["prune", "--keep", "0s"];

    let (planned, told) = beside.dry_run(&everything).await;
    let unasked = beside.refused(&everything).await;
    let lowest = beside.parking().shop.number("SELECT CAST(MIN(id) AS SIGNED) FROM outbox").await;
    let young = beside.json(0, &["prune", "--keep", "7d", "--yes"]).await;
    let pruned = beside.json(0, &[&everything[..], &["--rows", "10", "--yes"]].concat()).await;
    let text = beside.text(0, &[&everything[..], &["--yes"]].concat()).await;

    assert!(planned["rows"].as_u64() > Some(10), "{planned}");
    assert!(told.contains("would be deleted"), "{told}");
    assert!(unasked.contains("say --yes"), "{unasked}");
    assert_eq!((lowest, &young["rows"]), (1, &0.into()), "until here nothing has gone");
    assert!(pruned["rows"].as_u64() >= planned["rows"].as_u64(), "{pruned}, of {planned}");
    assert!(pruned["steps"].as_u64() > Some(1), "{pruned}");
    assert!(text.contains("deleted in"), "{text}");
    assert_eq!((beside.audited(Some("prune")).await, beside.audited(None).await), (3, 3));
    beside.judge(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_stops_a_relay_at_work_and_a_resume_lets_it_go_on() {
    let beside = Beside::start(true).await;

    let (planned, told) = beside.dry_run(&["pause"]).await;
    let (idle, idle_told) = beside.dry_run(&["resume"]).await;
    let paused = beside.cli.json(0, &[&["pause"], &WHY[..]].concat()).await;
    until("the relay has given its lease back", async || beside.at_work().await.is_none()).await;
    let (delivered, written) = (beside.delivered(), beside.written());
    let status = beside.cli.json(0, &["status"]).await;
    let again = beside.cli.json(0, &["pause", "--dry-run"]).await;
    let again_told = beside.cli.text(0, &[&["pause"], &WHY[..]].concat()).await;
    let would_resume = beside.cli.json(0, &["resume", "--dry-run"]).await;
    let would_resume_told = beside.cli.text(0, &["resume", "--dry-run"]).await;
    beside.until("writers go on", || beside.written() > written + 30).await;
    let meanwhile = (beside.delivered(), beside.at_work().await);
    let resumed = beside.cli.json(0, &[&["resume"], &WHY[..]].concat()).await;
    beside.until("what has waited is delivered", || beside.delivered() > delivered + 30).await;
    let running = beside.text(0, &[&["resume"], &WHY[..]].concat()).await;

    assert_eq!(meanwhile, (delivered, None), "nothing is published, and no relay works");
    for (answer, dry_run, changed, is_paused) in [
        (&planned, true, true, false),
        (&idle, true, false, false),
        (&paused, false, true, true),
        (&again, true, false, true),
        (&would_resume, true, true, true),
        (&resumed, false, true, true),
    ] {
        let told = (&answer["dry_run"], &answer["changed"], answer["pause"].is_object());
        assert_eq!(told, (&dry_run.into(), &changed.into(), is_paused), "{answer}");
    }
    let group = &status["groups"][0];
    assert_eq!((&group["paused"]["reason"], &group["problems"]), (&WHY[1].into(), &json!([])));
    assert!(told.contains("would be paused"), "{told}");
    assert!(idle_told.contains("is not paused"), "{idle_told}");
    assert!(again_told.contains("is paused already"), "{again_told}");
    assert!(would_resume_told.contains("would go on"), "{would_resume_told}");
    assert!(running.contains("is not paused"), "{running}");
    assert_eq!((beside.audited(Some("pause")).await, beside.audited(Some("resume")).await), (1, 1));
    beside.judge(&[]).await;
}
