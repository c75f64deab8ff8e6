//! What a store over the network does beside keeping objects: it goes away, it loses answers, it asks who is there.

use crate::{
    s3::S3,
    shelf::{Shelf, key, now_active, open, signed, slots},
    support::{engine, patched, test_guest},
};
use outflow_transform::{
    Active, ActiveError, ChangeKind, Digest, Generation, Registry, RegistryError, Signed, Stats,
};
use std::{process::Command, time::Instant};

#[tokio::test]
async fn while_the_store_is_away_the_last_good_module_goes_on_and_the_next_one_is_seen_afterwards() {
    let mut shelf = Shelf::on_s3();
    let (first, second) = shelf.publish_two().await;
    shelf.activate(&first).await;
    let (active, now) = (shelf.active(), Instant::now());
    assert_eq!(now_active(&active, now).await, (1, first.clone()));

    shelf.server().stop();
    assert_eq!(now_active(&active, now).await, (1, first.clone()));
    let error = shelf.registry.activate(&second, None, signed()).await.expect_err("nobody listens");
    assert!(matches!(error, RegistryError::Read { .. }), "{error}");
    assert_eq!(now_active(&active, now).await, (1, first));

    shelf.server().start_again();
    shelf.activate(&second).await;
    assert_eq!(now_active(&active, now).await, (2, second));
}

#[tokio::test]
async fn a_start_without_the_store_is_an_error_that_names_it_and_mends_itself() {
    let mut shelf = Shelf::on_s3();
    let digest = shelf.publish(test_guest()).await;
    shelf.activate(&digest).await;
    shelf.server().stop();
    let (active, now) = (shelf.active(), Instant::now());
    let error = active.refresh(now).await.expect_err("nobody listens");
    assert!(matches!(error, ActiveError::Registry { .. }), "{error}");
    expect_test::expect![
        "the registry s3://transforms/shop/registry could not be asked which transforms are active"
    ]
    .assert_eq(&error.to_string());
    shelf.server().start_again();
    assert_eq!(now_active(&active, now).await, (1, digest));
}

#[tokio::test]
async fn where_nothing_has_changed_one_object_is_asked_for() {
    let mut shelf = Shelf::on_s3();
    let digest = shelf.publish(test_guest()).await;
    shelf.activate(&digest).await;
    let (active, now) = (shelf.active(), Instant::now());
    assert_eq!(now_active(&active, now).await, (1, digest.clone()));
    shelf.server().take_seen();
    assert_eq!(now_active(&active, now).await, (1, digest));
    assert_eq!(shelf.server().take_seen(), ["GET pointers/00000002.json"]);
}

#[tokio::test]
async fn of_twenty_that_write_the_same_pointer_at_one_moment_one_wins_and_the_others_are_told() {
    const ALL: usize = 20;
    let mut shelf = Shelf::on_s3();
    let (first, second) = shelf.publish_two().await;
    shelf.server().gather(ALL);
    let why = |i: usize| Signed { why: Some(format!("the {i}th of them")), ..signed() };
    let activate = |i| {
        let digest = if i % 2 == 0 { &first } else { &second };
        shelf.registry.activate(digest, None, why(i))
    };
    let results = futures_util::future::join_all((0..ALL).map(activate)).await;
    let won: Vec<_> = results.iter().filter_map(|result| result.as_ref().ok()).collect();
    let [winner] = &won[..] else { panic!("{} won", won.len()) };
    let told = |result: &&Result<_, _>| matches!(result, Err(RegistryError::Conflict { .. }));
    assert_eq!(results.iter().filter(told).count(), ALL - 1);
    let stored = shelf.registry.pointer(winner.generation).await.expect("it can be read");
    assert_eq!(stored.as_ref(), Some(*winner));
}

/// A batch waits for this, and it is done within the function's timeout only if it is soon over.
#[tokio::test]
async fn a_store_that_fails_is_asked_a_few_times_more_and_not_for_minutes() {
    let mut shelf = Shelf::on_s3();
    let digest = shelf.publish(test_guest()).await;
    shelf.activate(&digest).await;
    let (active, now) = (shelf.active(), Instant::now());
    assert_eq!(now_active(&active, now).await, (1, digest.clone()));
    shelf.server().take_seen();
    shelf.server().fall_ill();
    assert_eq!(now_active(&active, now).await, (1, digest));
    assert_eq!(shelf.server().take_seen(), ["GET pointers/00000002.json"; 4]);
}

/// Asked again, the store says that there is such a pointer already: it is the one that it was asked for.
#[tokio::test]
async fn an_activation_whose_answer_was_lost_is_not_taken_for_somebody_elses() {
    let mut shelf = Shelf::on_s3();
    let (first, second) = shelf.publish_two().await;
    shelf.server().lose_an_answer();
    assert_eq!(shelf.activate(&first).await.get(), 1);
    shelf.activate(&second).await;
    shelf.server().lose_an_answer();
    let back = shelf.registry.roll_back(None, signed()).await.expect("there is one to go back to");
    assert_eq!((back.change.kind, back.generation.get()), (ChangeKind::RollBack, 3));
    assert_eq!(now_active(&shelf.active(), Instant::now()).await, (3, first));
}

#[tokio::test]
async fn who_may_not_read_and_a_bucket_that_is_not_there_are_errors() {
    let mut shelf = Shelf::on_s3();
    let server = shelf.server();
    let stranger = open(server, &[("AWS_SECRET_ACCESS_KEY", "wrong")]).expect("it is asked later");
    let settings = server.settings();
    let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let elsewhere = Registry::open_with("s3://nowhere/registry", &settings, key().public().into());
    for registry in [stranger, elsewhere.expect("it is asked later")] {
        let error = registry.generations().await.expect_err("there is nothing to see");
        assert!(matches!(error, RegistryError::Read { .. }), "{error}");
        let error = registry.find(Digest::of(b"any").as_str()).await.expect_err("there is nothing to see");
        assert!(matches!(error, RegistryError::Read { .. }), "{error}");
    }
}

#[tokio::test]
async fn who_may_only_read_follows_what_is_active_and_can_change_nothing() {
    let mut shelf = Shelf::on_s3();
    let (first, second) = shelf.publish_two().await;
    shelf.activate(&first).await;
    let reader = open(shelf.server(), &S3::reader()).expect("the registry opens");
    let active = Active::new(engine(), reader.clone());
    assert_eq!(now_active(&active, Instant::now()).await, (1, first));
    let refused = [
        reader.activate(&second, None, signed()).await.map(drop),
        reader.deactivate(&slots()[0], signed()).await.map(drop),
        reader.put_stats(Generation::FIRST, "a", &Stats::default()).await,
    ];
    for error in refused.map(|result| result.expect_err("it may not write")) {
        assert!(matches!(error, RegistryError::Write { .. }), "{error}");
    }
    assert_eq!(shelf.registry.generations().await.expect("they can be listed"), [Generation::FIRST]);
}

#[test]
fn a_setting_that_s3_does_not_know_and_a_missing_bucket_are_refused() {
    for (location, setting) in
        [("s3://bucket/x", "AWS_REGOIN"), ("s3://", "AWS_REGION"), ("s3:///x", "AWS_REGION")]
    {
        let opened = Registry::open_with(location, &[(setting, "eu-central-1")], key().public().into());
        assert!(matches!(opened, Err(RegistryError::Open { .. })), "{location} was opened with {setting}");
    }
}

/// In a process of its own: its environment is its own too.
#[tokio::test]
async fn the_usual_variables_of_aws_lead_to_the_store() {
    const NAME: &str = "store::the_usual_variables_of_aws_lead_to_the_store";
    const LOCATION: &str = "OUTFLOW_TEST_REGISTRY";
    if let Ok(location) = std::env::var(LOCATION) {
        let registry = Registry::open(&location, key().public().into()).expect("the registry opens");
        assert_eq!(registry.modules().await.expect("they can be listed").len(), 1);
        return;
    }
    let mut shelf = Shelf::on_s3();
    shelf.publish(&patched("note_id", "memo_id")).await;
    let child = Command::new(std::env::current_exe().expect("this test runs"))
        .args(["--exact", NAME])
        .envs(shelf.server().settings())
        .env(LOCATION, shelf.server().location())
        .output()
        .expect("it runs again");
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && said.contains("1 passed"), "{said}");
}
