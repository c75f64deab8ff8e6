//! `outflow outbox` as scripts see it: exit codes, JSON keys, what stands on stderr.

use super::{Parking, commit_events, hold, ids, run};
use serde_json::Value;
use xtask::{
    pipe::{Called, Outflow},
    progress::Terminal,
};

/// The command, on a shop's database.
pub(super) struct Cli {
    pub(super) parking: Parking,
    outflow: Outflow,
}

impl Cli {
    pub(super) async fn start() -> Self {
        let parking = Parking::start().await;
        let env = vec![("OUTFLOW_DATABASE_URL".to_owned(), parking.shop.database_url.clone())];
        let outflow = Outflow::build(env, &Terminal::new()).await.expect("the operator's command compiles");
        Self { parking, outflow }
    }

    /// A call that must exit with `code`.
    pub(super) async fn call(&self, code: i32, arguments: &[&str]) -> Called {
        let called = self.outflow.call(&[&["outbox"], arguments].concat()).await;
        let called = called.expect("it ends with a code of the contract");
        assert_eq!(called.code, code, "{arguments:?}: {}{}", called.stdout, called.stderr);
        called
    }

    /// The JSON of a command that must exit with `code`.
    pub(super) async fn json(&self, code: i32, arguments: &[&str]) -> Value {
        let called = self.call(code, &[arguments, &["--json", "-"]].concat()).await;
        serde_json::from_str(&called.stdout).expect("it prints JSON alone")
    }

    /// What a person reads.
    pub(super) async fn text(&self, code: i32, arguments: &[&str]) -> String {
        self.call(code, arguments).await.stdout
    }

    /// What a command says on stderr that cannot run, which exits with 2 and prints nothing.
    pub(super) async fn refused(&self, arguments: &[&str]) -> String {
        let called = self.call(2, arguments).await;
        assert_eq!(called.stdout, "", "{arguments:?}");
        called.stderr
    }
}

/// The names of an object's fields.
fn keys(object: &Value) -> Vec<&str> {
    object.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[tokio::test]
async fn status_exits_with_1_as_soon_as_somebody_has_to_look() {
    let cli = Cli::start().await;
    assert_eq!(cli.json(0, &["status"]).await["groups"], serde_json::json!([]), "no relay has run");
    commit_events(&cli.parking.shop, "order", 1..=2).await;
    cli.parking.drain().await;
    let fine = cli.json(0, &["status"]).await;
    cli.parking.park(&["big"], 1..=2, true, "message_too_large").await;

    let wrong = cli.json(1, &["status", "--group", "default"]).await;
    let text = cli.text(1, &["status"]).await;

    assert_eq!(
        (&fine["groups"][0]["position"], &fine["groups"][0]["problems"]),
        (&2.into(), &Value::Array(vec![]))
    );
    let group = &wrong["groups"][0];
    let expected = [
        "backlog",
        "checkpoint",
        "gaps",
        "group",
        "kept",
        "last_id",
        "lease",
        "oldest_age_ms",
        "on_this_server",
        "parked",
        "paused",
        "position",
        "problems",
    ];
    assert_eq!(keys(group), expected);
    assert_eq!(keys(&group["gaps"]), ["first_id", "ids", "oldest_age_ms", "oldest_seen_at", "ranges"]);
    assert_eq!(keys(&group["lease"]), ["fencing_token", "owner", "remaining_ms"]);
    assert_eq!(keys(&group["checkpoint"]), ["age_ms", "at", "event_id", "position"]);
    let expected = ["aggregates", "causes", "dead", "due", "next_attempt_at", "retry", "waiting"];
    assert_eq!(keys(&group["parked"]), expected);
    assert_eq!(group["problems"], serde_json::json!(["dead_letters"]));
    assert!(text.contains("wrong: dead letters wait") && text.contains("message_too_large"), "{text}");
    assert!(cli.refused(&["status", "--group", "defualt"]).await.contains("there is default"));
    let late = "UPDATE outbox SET created_at = created_at - INTERVAL 1 HOUR";
    commit_events(&cli.parking.shop, "order", 3..=3).await;
    run(&cli.parking.shop, late).await;
    let behind = cli.json(1, &["status"]).await;
    assert_eq!(behind["groups"][0]["problems"], serde_json::json!(["dead_letters", "behind"]));
}

#[tokio::test]
async fn list_and_show_tell_of_parked_events() {
    let cli = Cli::start().await;
    cli.parking.park(&["big-1", "big-2"], 1..=2, true, "message_too_large").await;

    let list = cli.json(0, &["list", "--aggregate-id", "big-2", "--from", "1h"]).await;
    let part = cli.json(0, &["list", "--limit", "3"]).await;
    let rest = cli.json(0, &["list", "--after", "3", "--state", "waiting"]).await;
    let causes = cli.json(0, &["list", "--by-cause"]).await;
    let none = cli.json(0, &["list", "--to", "2020-01-01"]).await;
    let event_id = list["failures"][0]["event_id"].as_str().expect("an id");
    let shown = cli.json(0, &["show", event_id]).await;
    let unknown = cli.json(1, &["show", "99"]).await;

    let expected = [
        "aggregate_id",
        "aggregate_type",
        "aggregate_version",
        "attempts",
        "behind",
        "cause",
        "created_at",
        "event_id",
        "event_type",
        "head_id",
        "id",
        "last_error",
        "next_attempt_at",
        "parked_at",
        "state",
    ];
    assert_eq!(
        (keys(&list), keys(&list["failures"][0])),
        (vec!["failures", "group", "next_after"], expected.to_vec())
    );
    assert_eq!(list["failures"].as_array().map(Vec::len), Some(2));
    assert_eq!((&part["next_after"], &rest["failures"][0]["id"]), (&3.into(), &4.into()));
    let expected = [
        "cause",
        "dead",
        "events",
        "example_error",
        "example_event_id",
        "example_id",
        "first_seen_at",
        "last_seen_at",
        "max_attempts",
        "min_attempts",
        "retry",
        "waiting",
    ];
    assert_eq!((keys(&causes), keys(&causes["causes"][0])), (vec!["causes", "group"], expected.to_vec()));
    assert_eq!(none["failures"], Value::Array(vec![]));
    assert_eq!(
        (&shown["id"], &shown["fate"], &shown["parked"]["state"]),
        (&3.into(), &"parked".into(), &"dead".into())
    );
    assert_eq!(shown["parked"]["behind"][0]["id"], 4);
    assert_eq!(unknown["fate"], "unknown");
    assert!(cli.text(0, &["list"]).await.contains("waits for 1"));
    assert!(cli.text(0, &["show", "1"]).await.contains("behind it: 2 (version 2, Changed, waiting)"));
    for (arguments, advice) in [
        (&["list", "--limit", "1001"][..], "limit is refused: wants 1 to 1,000"),
        (&["list", "--state", "lost"], "wants retry, waiting or dead"),
        (&["list", "--cause", ""], "cause is refused: wants 1 to 64"),
        (&["list", "--from", "yesterday"], "--from"),
        (&["show", "one"], "wants the number of an outbox row"),
        (&["list", "--group", ""], "group is refused"),
    ] {
        let refused = cli.refused(arguments).await;
        assert!(refused.contains(advice), "{arguments:?}: {refused}");
    }
}

#[tokio::test]
async fn retry_and_discard_want_a_reason_and_a_discard_a_yes() {
    let cli = Cli::start().await;
    cli.parking.park(&["big-1", "big-2"], 1..=2, true, "message_too_large").await;
    let why = ["--why", "fixed"];

    for (arguments, advice) in [
        (&["retry", "1"][..], "--why"),
        (&["retry", "1", "--why", ""], "why is refused: wants 1 to 500 characters"),
        (&["retry", "--why", "fixed"], "nothing is selected"),
        (&["retry", "1", "--why", "fixed", "--by", " "], "by is refused: wants 1 to 128 characters"),
        (&["discard", "1"], "--why"),
        (&["discard", "--why", "gone"], "nothing is selected"),
        (&["discard", "--all", "--breaks-order", "--why", "gone"], "say --yes"),
        (&["discard", "--all", "--yes", "--why", "gone"], "say --breaks-order"),
        (&["discard", "--all", "--yes", "--why", "gone"], "or --whole-aggregate"),
        (&["discard", "--all", "--yes", "--dry-run", "--why", "gone"], "--dry-run"),
    ] {
        let refused = cli.refused(arguments).await;
        assert!(refused.contains(advice), "{arguments:?}: {refused}");
    }
    assert_eq!(cli.json(0, &["audit"]).await["entries"], Value::Array(vec![]), "nothing was done yet");

    let planned =
        cli.json(0, &[&["retry", "--cause", "message_too_large", "--dry-run"], &why[..]].concat()).await;
    let retried = cli.json(1, &[&["retry", "1", "2", "--by", "ann"], &why[..]].concat()).await;
    let plan = cli.json(0, &["discard", "--all", "--dry-run"]).await;
    let whole = ["discard", "3", "--whole-aggregate", "--yes", "--why", "gone"];
    let discarded = cli.json(0, &whole).await;
    let again = cli.json(1, &whole).await;

    assert_eq!((planned["events"].as_array().map(Vec::len), &planned["dry_run"]), (Some(2), &true.into()));
    assert_eq!(keys(&retried), ["dry_run", "events", "group", "more", "skipped"]);
    let expected = [
        "aggregate_id",
        "aggregate_type",
        "aggregate_version",
        "attempts",
        "behind",
        "cause",
        "event_id",
        "event_type",
        "id",
        "was",
    ];
    assert_eq!(keys(&retried["events"][0]), expected);
    assert_eq!(retried["skipped"], serde_json::json!([{"event": "2", "because": "waits", "head_id": 1}]));
    assert_eq!((&plan["broken"], &plan["discarded"]), (&2.into(), &2.into()));
    assert_eq!(plan["events"][0]["breaks_order"], "later_follow");
    assert_eq!(keys(&discarded), ["broken", "discarded", "dry_run", "events", "group", "more", "skipped"]);
    let expected = [
        "aggregate_id",
        "aggregate_type",
        "aggregate_version",
        "attempts",
        "breaks_order",
        "cause",
        "event_id",
        "event_type",
        "followed_by",
        "id",
        "with_it",
    ];
    assert_eq!(keys(&discarded["events"][0]), expected);
    assert_eq!((&discarded["discarded"], &again["discarded"]), (&2.into(), &0.into()));
    assert_eq!(again["skipped"][0]["because"], "not_parked");
    let audit = cli.json(0, &["audit"]).await;
    assert_eq!(
        keys(&audit["entries"][0]),
        ["action", "at", "by", "event", "event_id", "id", "outbox_id", "reason"]
    );
    let who: Vec<_> = audit["entries"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|e| e["by"].as_str().expect("a name"))
        .collect();
    assert_eq!((who.len(), who[2]), (3, "ann"));
    assert!(who[0].contains('@'), "{who:?}");
    let pauses = cli.json(0, &["audit", "--action", "pause"]).await;
    assert_eq!(pauses["entries"], Value::Array(vec![]));
    assert!(cli.text(0, &["audit", "--id", "3"]).await.contains("discard"));
}

#[tokio::test]
async fn prune_pause_and_resume_concern_the_whole_group() {
    let cli = Cli::start().await;
    commit_events(&cli.parking.shop, "order", 1..=5).await;
    cli.parking.drain().await;

    let planned = cli.json(0, &["prune", "--keep", "0s", "--dry-run"]).await;
    let young = cli.json(0, &["prune", "--keep", "7d", "--yes"]).await;
    let unasked = cli.refused(&["prune", "--keep", "0s"]).await;
    let pruned = cli.json(0, &["prune", "--keep", "0s", "--rows", "2", "--yes"]).await;
    let would_pause = cli.json(0, &["pause", "--dry-run"]).await;
    let paused = cli.json(0, &["pause", "--why", "the broker moves"]).await;
    let text = cli.text(0, &["pause", "--why", "again"]).await;
    let again = cli.json(0, &["pause", "--dry-run"]).await;
    let would_resume = cli.json(0, &["resume", "--dry-run"]).await;
    let resumed = cli.json(0, &["resume", "--why", "it has moved"]).await;
    let nothing = cli.json(0, &["resume", "--dry-run"]).await;
    let unmade = cli.json(0, &["pause", "--dry-run", "--group", "archive", "--new-group"]).await;

    assert_eq!(keys(&planned), ["below", "first_id", "group", "held_by", "last_id", "rows"]);
    assert_eq!((&planned["rows"], &planned["below"]), (&4.into(), &5.into()));
    assert_eq!((&young["rows"], &pruned["rows"], &pruned["steps"]), (&0.into(), &4.into(), &3.into()));
    assert_eq!(keys(&pruned), ["checkpoints", "group", "rows", "steps"]);
    assert!(unasked.contains("say --yes"), "{unasked}");
    assert_eq!(ids(&cli.parking.shop).await, [5]);
    assert_eq!(
        (keys(&paused), keys(&paused["pause"])),
        (vec!["changed", "dry_run", "group", "pause"], vec!["at", "by", "reason"])
    );
    for (answer, dry_run, changed, reason) in [
        (&would_pause, true, true, None),
        (&paused, false, true, Some("the broker moves")),
        (&again, true, false, Some("the broker moves")),
        (&would_resume, true, true, Some("the broker moves")),
        (&resumed, false, true, Some("the broker moves")),
        (&nothing, true, false, None),
        (&unmade, true, true, None),
    ] {
        let told =
            (answer["dry_run"].as_bool(), answer["changed"].as_bool(), answer["pause"]["reason"].as_str());
        assert_eq!(told, (Some(dry_run), Some(changed), reason), "{answer}");
    }
    let done = cli.json(0, &["audit"]).await;
    let done: Vec<_> = done["entries"].as_array().expect("a list").iter().map(|e| &e["action"]).collect();
    assert_eq!(done, ["resume", "pause", "prune", "prune"], "a dry run leaves nothing");
    assert_eq!(
        cli.json(0, &["status"]).await["groups"].as_array().map(Vec::len),
        Some(1),
        "and makes nothing"
    );
    assert!(text.contains("is paused already"), "{text}");
    for (arguments, advice) in [
        (&["prune", "--yes"][..], "--keep"),
        (&["prune", "--keep", "a week", "--yes"], "write 7d"),
        (&["prune", "--keep", "7d", "--rows", "0", "--yes"], "rows is refused: wants 1 to 10,000"),
        (&["pause", "--group", "archive", "--why", "x"], "relay group archive is unknown: there is default"),
        (&["pause", "--group", "archive", "--dry-run"], "relay group archive is unknown: there is default"),
        (&["resume", "--group", "archive", "--dry-run"], "relay group archive is unknown: there is default"),
        (&["pause"], "--why"),
        (&["resume"], "--why"),
        (&["audit", "--action", "drop"], "possible values"),
    ] {
        let refused = cli.refused(arguments).await;
        assert!(refused.contains(advice), "{arguments:?}: {refused}");
    }
}

#[tokio::test]
async fn a_group_that_nobody_runs_is_named_by_each_prune_that_it_holds_back() {
    let cli = Cli::start().await;
    commit_events(&cli.parking.shop, "order", 1..=5).await;
    cli.parking.drain().await;
    cli.json(0, &["pause", "--new-group", "--group", "mistyped", "--why", "a slip of the hand"]).await;
    for how in [&["--yes"][..], &["--dry-run"], &[]] {
        let text = cli.text(0, &[&["prune", "--keep", "0s"], how].concat()).await;
        assert!(text.contains("oldest gap of group mistyped"), "{how:?}: {text}");
    }
}

#[tokio::test]
async fn nothing_to_prune_is_nothing_to_ask_about_and_nothing_goes() {
    let cli = Cli::start().await;
    commit_events(&cli.parking.shop, "order", 1..=5).await;
    cli.parking.drain().await;

    let nothing = cli.json(0, &["prune", "--keep", "7d"]).await;
    let text = cli.text(0, &["prune", "--keep", "7d"]).await;

    assert_eq!(
        (&nothing["rows"], &nothing["steps"], text.as_str()),
        (&0.into(), &0.into(), "nothing to delete\n")
    );
    assert_eq!(cli.json(0, &["audit"]).await["entries"], Value::Array(vec![]));
}

#[tokio::test]
async fn a_discard_says_what_follows_as_far_as_it_is_known() {
    let cli = Cli::start().await;
    let parking = &cli.parking;
    parking.park(&["alone", "begun", "known"], 1..=2, true, "message_too_large").await;
    run(&parking.shop, "DELETE FROM outbox_failures WHERE aggregate_id = 'known' AND aggregate_version = 1")
        .await;
    run(&parking.shop, "UPDATE outbox_failures SET state = 'dead' WHERE aggregate_id = 'known'").await;
    commit_events(&parking.shop, "begun", 3..=4).await;
    let later = "whatever is written to the same aggregates later follows without them";
    let whole = ["discard", "--all", "--whole-aggregate"];

    let heads = cli.text(0, &["discard", "--all", "--dry-run"]).await;
    let plan = cli.text(0, &[&whole[..], &["--dry-run"]].concat()).await;
    let refused = cli.refused(&[&whole[..], &["--why", "gone", "--yes"]].concat()).await;
    let harmless = ["discard", "1", "--whole-aggregate", "--why", "gone", "--yes"];
    let done = cli.text(0, &harmless).await;
    let accepted = cli.text(0, &[&whole[..], &["--breaks-order", "--why", "gone", "--yes"]].concat()).await;

    for told in
        ["broken: 1 later follow", "broken: 3 later follow", "broken: readers never get version 2", later]
    {
        assert!(heads.contains(told), "{told}: {heads}");
    }
    assert!(
        heads.contains("3 events would be discarded, the order of 3 aggregates broken now or by"),
        "{heads}"
    );
    for told in
        ["readers have nothing of it", "broken: 2 later follow", "broken: readers never get version 2", later]
    {
        assert!(plan.contains(told), "{told}: {plan}");
    }
    for told in [
        "the order of 2 of 3 aggregates would be broken",
        "say --breaks-order",
        "once a relay has reached it",
    ] {
        assert!(refused.contains(told), "{told}: {refused}");
    }
    assert!(done.contains(&format!("2 events discarded; {later}")), "{done}");
    assert!(
        accepted.contains("3 events discarded, the order of 2 aggregates broken now or by"),
        "{accepted}"
    );
}

#[tokio::test]
async fn what_could_not_be_discarded_any_more_is_told_with_what_was_and_exits_with_1() {
    let cli = Cli::start().await;
    cli.parking.park(&["first", "second"], 1..=2, true, "message_too_large").await;
    let discard = ["discard", "--all", "--whole-aggregate", "--yes", "--why", "gone"];
    let relay = hold(&cli.parking.shop).await;
    let meanwhile = async {
        // It has planned, and nothing is discarded yet.
        cli.parking.shop.until_locked_out().await;
        commit_events(&cli.parking.shop, "second", 3..=3).await;
        relay.rollback().await.unwrap();
    };

    let (discarded, ()) = tokio::join!(cli.json(1, &discard), meanwhile);
    let again = cli.refused(&discard).await;
    let text = cli
        .text(1, &["discard", "3", "4", "--whole-aggregate", "--breaks-order", "--yes", "--why", "x"])
        .await;

    assert_eq!((&discarded["discarded"], &discarded["broken"]), (&2.into(), &0.into()));
    let skipped = serde_json::json!([{"event": "3", "because": "breaks_order", "followed_by": 1}]);
    assert_eq!((&discarded["events"][0]["aggregate_id"], &discarded["skipped"]), (&"first".into(), &skipped));
    assert!(again.contains("broken: 1 later follow without it"), "{again}");
    assert!(text.contains("2 events discarded") && text.contains("skipped 4: it waits behind 3"), "{text}");
}
