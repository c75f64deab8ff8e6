//! What the registry and the follower of its pointers promise.

mod metrics;
#[cfg(feature = "s3")]
mod s3;
mod shelf;
#[cfg(feature = "s3")]
mod store;
#[path = "../support/mod.rs"]
mod support;

use outflow_transform::{
    ActiveError, ChangeKind, Digest, Generation, Loaded, Outcome, Pointer, Registry, RegistryError,
    RejectLimit, Signed, SigningKey, Slot, Stats, Target,
};
use shelf::{Shelf, key, now_active, signed, slots};
use std::{
    fs,
    time::{Duration, Instant},
};
use support::{patched, stamp, test_guest, told};

/// Holds each promise on each kind of store. One that isn't named here is never called, which the compiler tells.
macro_rules! on_each_store {
    ($($promise:ident,)+) => {
        mod in_a_folder {
            $(#[tokio::test]
            async fn $promise() {
                super::$promise(super::Shelf::in_a_folder()).await;
            })+
        }

        #[cfg(feature = "s3")]
        mod on_s3 {
            $(#[tokio::test]
            async fn $promise() {
                super::$promise(super::Shelf::on_s3()).await;
            })+
        }
    };
}

on_each_store! {
    without_an_activation_the_error_names_the_command,
    a_new_module_is_seen_at_the_next_refresh_and_a_rollback_too,
    each_rollback_goes_one_further_back,
    the_same_module_activated_again_gets_a_new_generation,
    transforms_of_different_tables_are_active_side_by_side,
    whatever_is_wrong_with_the_newest_pointer_the_last_good_module_goes_on,
    native_code_is_loaded_only_where_a_trusted_key_signed_for_it,
    a_damaged_half_that_counts_never_runs_and_the_other_half_goes_on,
    a_refused_module_is_tried_again_once_it_waited_and_not_before,
    a_slot_without_any_module_that_can_be_used_is_an_error,
    a_new_slot_whose_module_is_not_trusted_stops_every_slot_until_it_is_mended_or_deactivated,
    an_unreadable_registry_leaves_the_module_in_memory,
    of_activations_at_one_moment_each_wins_a_generation_of_its_own_or_is_told,
    a_module_that_rejects_too_much_is_rolled_back_once_and_only_while_it_is_active,
    a_verdict_is_told_again_until_the_roll_back_is_done,
    a_verdict_is_settled_where_nothing_is_left_to_roll_back,
    a_module_is_rolled_back_while_other_slots_change,
    what_each_process_did_adds_up,
    what_was_not_published_for_every_machine_can_not_be_activated,
    publishing_again_changes_nothing_and_mends_what_is_damaged,
    a_digest_is_found_by_its_beginning_if_that_is_unique,
    going_back_needs_an_earlier_module,
    reports_of_a_candidate_are_numbered_and_never_replaced,
    a_slot_meets_whatever_fills_one_of_its_tables,
    more_pointers_than_a_page_holds_are_all_seen,
}

async fn without_an_activation_the_error_names_the_command(shelf: Shelf) {
    let error = shelf.active().refresh(Instant::now()).await.expect_err("nothing is active");
    assert!(matches!(error, ActiveError::None { .. }));
    assert!(error.to_string().contains("outflow transform publish"), "{error}");
}

async fn a_new_module_is_seen_at_the_next_refresh_and_a_rollback_too(shelf: Shelf) {
    let (first, second) = shelf.publish_two().await;
    let (active, now) = (shelf.active(), Instant::now());

    shelf.activate(&first).await;
    assert_eq!(now_active(&active, now).await, (1, first.clone()));
    assert_eq!(now_active(&active, now).await, (1, first.clone()));
    shelf.activate(&second).await;
    assert_eq!(now_active(&active, now).await, (2, second.clone()));
    let back = shelf.registry.roll_back(None, signed()).await.expect("there is one to go back to");
    assert_eq!((back.change.kind, back.generation.get()), (ChangeKind::RollBack, 3));
    assert_eq!(now_active(&active, now).await, (3, first));
}

async fn each_rollback_goes_one_further_back(shelf: Shelf) {
    let mut digests = Vec::new();
    for name in ["note_id", "memo_id", "slip_id"] {
        digests.push(shelf.publish(&patched("note_id", name)).await);
        shelf.activate(digests.last().expect("just pushed")).await;
    }
    let active = shelf.active();
    for expected in [&digests[1], &digests[0]] {
        shelf.registry.roll_back(None, signed()).await.expect("there is one to go back to");
        assert_eq!(now_active(&active, Instant::now()).await.1, *expected);
    }
    let error = shelf.registry.roll_back(None, signed()).await.expect_err("there is none");
    assert!(matches!(error, RegistryError::NothingToRollBackTo { .. }));
}

async fn the_same_module_activated_again_gets_a_new_generation(shelf: Shelf) {
    let digest = shelf.publish(test_guest()).await;
    let (active, now) = (shelf.active(), Instant::now());
    shelf.activate(&digest).await;
    let before = active.refresh(now).await.expect("a module is active");
    shelf.activate(&digest).await;
    let after = active.refresh(now).await.expect("a module is active");
    assert_eq!((before[0].generation.get(), after[0].generation.get()), (1, 2));
    assert!(std::sync::Arc::ptr_eq(&before[0].module, &after[0].module), "it was loaded twice");
}

async fn transforms_of_different_tables_are_active_side_by_side(shelf: Shelf) {
    let first = shelf.publish(test_guest()).await;
    let second = shelf.publish(&patched("table_one", "table_two")).await;
    let (active, now) = (shelf.active(), Instant::now());
    shelf.activate(&first).await;
    shelf.activate(&second).await;
    let loaded = active.refresh(now).await.expect("two are active");
    let seen: Vec<_> =
        loaded.iter().map(|l| (l.slot.clone(), l.generation.get(), l.digest().clone())).collect();
    let [one, two] = slots();
    assert_eq!(seen, [(one.clone(), 1, first.clone()), (two.clone(), 2, second)]);

    // A change in one slot leaves the other's generation alone.
    let memo = shelf.publish(&patched("note_id", "memo_id")).await;
    shelf.activate(&memo).await;
    let loaded = active.refresh(now).await.expect("two are active");
    assert_eq!(loaded.iter().map(|l| l.generation.get()).collect::<Vec<_>>(), [3, 2]);

    let error = shelf.registry.roll_back(None, signed()).await.expect_err("which one?");
    assert!(matches!(error, RegistryError::WhichSlot { .. }), "{error}");
    shelf.registry.roll_back(Some(&one), signed()).await.expect("it can go back");
    shelf.registry.deactivate(&two, signed()).await.expect("it was active");
    assert_eq!(now_active(&active, now).await, (4, first));
    let error = shelf.registry.deactivate(&two, signed()).await.expect_err("nothing is there");
    assert!(matches!(error, RegistryError::NotActive { .. }), "{error}");
    shelf.registry.deactivate(&one, signed()).await.expect("it was active");
    assert!(matches!(active.refresh(now).await, Err(ActiveError::None { .. })));
}

async fn whatever_is_wrong_with_the_newest_pointer_the_last_good_module_goes_on(shelf: Shelf) {
    let (good, other) = shelf.publish_two().await;
    shelf.activate(&good).await;
    let (active, now) = (shelf.active(), Instant::now());
    assert_eq!(now_active(&active, now).await, (1, good.clone()));

    shelf.forge(2, "\u{0}garbage");
    assert_eq!(now_active(&active, now).await, (1, good.clone()), "garbage");
    let pointer = fs::read_to_string(shelf.path("pointers/00000001.json")).expect("it is there");
    shelf.forge(3, &pointer);
    assert_eq!(now_active(&active, now).await, (1, good.clone()), "a copy under another number");
    let unknown = pointer.replace("\"generation\": 1", "\"generation\": 4");
    shelf.forge(4, &unknown.replace(good.as_str(), Digest::of(b"?").as_str()));
    assert_eq!(now_active(&active, now).await, (1, good.clone()), "a module that was never published");

    shelf.activate(&other).await;
    shelf.damage(&other, "cwasm");
    assert_eq!(now_active(&active, now).await, (1, good.clone()), "damaged native code");

    // A function that starts now finds the good one behind the bad ones.
    assert_eq!(now_active(&shelf.active(), now).await, (1, good));
}

async fn native_code_is_loaded_only_where_a_trusted_key_signed_for_it(shelf: Shelf) {
    let (good, other) = shelf.publish_two().await;
    shelf.activate(&good).await;
    let (active, now) = (shelf.active(), Instant::now());
    assert_eq!(now_active(&active, now).await, (1, good.clone()));
    shelf.activate(&other).await;
    let about = shelf.artifact_path(&other, "json");
    let honest = fs::read_to_string(&about).expect("it is there");
    let of_good = fs::read_to_string(shelf.artifact_path(&good, "json")).expect("it is there");
    let signature = |text: &str| {
        let record: serde_json::Value = serde_json::from_str(text).expect("it is JSON");
        record["signature"].as_str().expect("it is signed").to_owned()
    };

    // Another module's whole record, another module's signature, none, and another target's.
    let cases = [
        of_good.clone(),
        honest.replace(&signature(&honest), &signature(&of_good)),
        honest.replace(&signature(&honest), ""),
        honest.replace(Target::THIS.key, "wasmtime-48-r3-riscv64-linux"),
    ];
    for forged in &cases {
        fs::write(&about, forged).expect("it can be written");
        assert_eq!(now_active(&shelf.active(), now).await, (1, good.clone()), "{forged}");
        let error =
            shelf.registry.activate(&other, None, signed()).await.expect_err("it is not to be trusted");
        assert!(matches!(error, RegistryError::Untrusted { .. } | RegistryError::Mismatch { .. }), "{error}");
    }

    // Native code of one module under the name of another, with a key that nobody trusts.
    let stranger = SigningKey::from_seed([8; 32]);
    shelf.publish_by(&patched("note_id", "memo_id"), &stranger).await;
    let error = shelf.registry.activate(&other, None, signed()).await.expect_err("a stranger signed");
    assert!(matches!(error, RegistryError::Untrusted { .. }), "{error}");
    assert!(
        error.to_string().contains("outflow transform publish"),
        "it says which command mends it: {error}"
    );
    assert_eq!(now_active(&shelf.active(), now).await, (1, good.clone()));

    // Published again by whom is trusted, it is taken.
    shelf.publish(&patched("note_id", "memo_id")).await;
    let later = now + Duration::from_secs(120);
    assert_eq!(now_active(&active, later).await, (2, other));
}

async fn a_refused_module_is_tried_again_once_it_waited_and_not_before(shelf: Shelf) {
    let (first, second) = shelf.publish_two().await;
    let (active, now) = (shelf.active(), Instant::now());
    shelf.activate(&first).await;
    assert_eq!(now_active(&active, now).await, (1, first.clone()));
    shelf.activate(&second).await;
    let path = shelf.artifact_path(&second, "cwasm");
    let native = fs::read(&path).expect("it is there");
    fs::remove_file(&path).expect("it can be removed");

    assert_eq!(now_active(&active, now).await, (1, first.clone()));
    fs::write(&path, native).expect("it can be written");
    assert_eq!(now_active(&active, now + Duration::from_millis(900)).await, (1, first));
    assert_eq!(now_active(&active, now + Duration::from_secs(1)).await, (2, second));
}

async fn a_slot_without_any_module_that_can_be_used_is_an_error(shelf: Shelf) {
    let digest = shelf.publish(test_guest()).await;
    shelf.activate(&digest).await;
    fs::remove_file(shelf.artifact_path(&digest, "cwasm")).expect("it can be removed");
    let error = shelf.active().refresh(Instant::now()).await.expect_err("nothing can be used");
    assert!(matches!(error, ActiveError::NoGoodOne { .. }), "{error}");
}

async fn a_new_slot_whose_module_is_not_trusted_stops_every_slot_until_it_is_mended_or_deactivated(
    shelf: Shelf,
) {
    let good = shelf.publish(test_guest()).await;
    shelf.activate(&good).await;
    let (active, now) = (shelf.active(), Instant::now());
    assert_eq!(now_active(&active, now).await, (1, good.clone()));
    // Whoever activates trusts a key that the function doesn't.
    let stranger = SigningKey::from_seed([8; 32]);
    let beside = patched("table_one", "table_two");
    let digest = shelf.publish_by(&beside, &stranger).await;
    let operator = shelf.open_trusting(&format!("{},{}", key().public(), stranger.public()));
    operator.activate(&digest, None, signed()).await.expect("whoever activates trusts the signer");

    // Neither a function that runs nor one that starts does a batch, which would be done without the new slot's rows.
    for active in [&active, &shelf.active()] {
        for later in [0, 1, 100] {
            let error = active.refresh(now + Duration::from_secs(later)).await.expect_err("one is missing");
            let ActiveError::NoGoodOne { slot, .. } = &error else { panic!("{error}") };
            assert_eq!(*slot, slots()[1]);
            for told in
                ["not signed by a trusted key", "transform publish NAME", "deactivate --slot table_two"]
            {
                assert!(error.to_string().contains(told), "{error}");
            }
        }
    }

    // Left out, it keeps nobody up; activated and mended, it runs beside the other.
    shelf.registry.deactivate(&slots()[1], signed()).await.expect("it was active");
    assert_eq!(now_active(&active, now).await, (1, good.clone()));
    operator.activate(&digest, None, signed()).await.expect("whoever activates trusts the signer");
    active.refresh(now).await.expect_err("it is still not trusted");
    shelf.publish(&beside).await;
    let loaded = active.refresh(now + Duration::from_secs(60)).await.expect("both can be used");
    assert_eq!(loaded.iter().map(|loaded| loaded.digest()).collect::<Vec<_>>(), [&good, &digest]);
}

async fn an_unreadable_registry_leaves_the_module_in_memory(shelf: Shelf) {
    let digest = shelf.publish(test_guest()).await;
    shelf.activate(&digest).await;
    let (active, now) = (shelf.active(), Instant::now());
    assert_eq!(now_active(&active, now).await, (1, digest.clone()));
    // A file where the folder of pointers was: reading in it fails, whoever asks (root too).
    fs::remove_dir_all(shelf.path("pointers")).expect("it can be removed");
    fs::write(shelf.path("pointers"), "no folder").expect("it can be written");
    assert_eq!(now_active(&active, now).await, (1, digest));
    assert!(matches!(
        shelf.active().refresh(now).await,
        Err(ActiveError::Registry { .. } | ActiveError::None { .. })
    ));
}

async fn of_activations_at_one_moment_each_wins_a_generation_of_its_own_or_is_told(shelf: Shelf) {
    let (first, second) = shelf.publish_two().await;
    let all = futures_util::future::join_all((0..20).map(|i| {
        let digest = if i % 2 == 0 { &first } else { &second };
        let why = Signed { why: Some(format!("the {i}th of them")), ..signed() };
        shelf.registry.activate(digest, None, why)
    }))
    .await;
    let mut won: Vec<Pointer> = Vec::new();
    for result in all {
        match result {
            Ok(pointer) => won.push(pointer),
            Err(RegistryError::Conflict { .. }) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
    won.sort_unstable_by_key(|pointer| pointer.generation);
    let generations = shelf.registry.generations().await.expect("they can be listed");
    assert_eq!(won.iter().map(|pointer| pointer.generation).collect::<Vec<_>>(), generations);
    assert!(won.len() < 20, "none of 20 at once was told of another");
    // What a winner wrote stands: none of the others has overwritten it.
    for pointer in won {
        let stored = shelf.registry.pointer(pointer.generation).await.expect("it can be read");
        assert_eq!(stored, Some(pointer));
    }
}

/// S3 lists a thousand names at once.
async fn more_pointers_than_a_page_holds_are_all_seen(shelf: Shelf) {
    const LAST: u32 = 2_003;
    let digest = shelf.publish(test_guest()).await;
    shelf.activate(&digest).await;
    let first = fs::read_to_string(shelf.path("pointers/00000001.json")).expect("it is there");
    for number in 2..=LAST {
        shelf.forge(number, &first.replace("\"generation\": 1", &format!("\"generation\": {number}")));
    }
    let generations = shelf.registry.generations().await.expect("they can be listed");
    assert_eq!(generations.iter().map(|g| g.get()).collect::<Vec<_>>(), Vec::from_iter(1..=LAST));
    assert_eq!(now_active(&shelf.active(), Instant::now()).await, (LAST, digest.clone()));
    assert_eq!(shelf.activate(&digest).await.get(), LAST + 1);
}

async fn a_module_that_rejects_too_much_is_rolled_back_once_and_only_while_it_is_active(shelf: Shelf) {
    let (first, second) = shelf.publish_two().await;
    let slot = &slots()[0];
    let limit = RejectLimit { percent: 10, from_records: 4, to_records: 1_000 };
    shelf.activate(&first).await;
    shelf.registry.activate(&second, Some(limit), signed()).await.expect("it is activated");
    let (active, now) = (shelf.active(), Instant::now());
    let loaded = active.refresh(now).await.expect("one is active").remove(0);

    assert_eq!(loaded.verdict(), None, "nothing was counted yet");
    run(&loaded, &["a", "reject", "a", "panic"]);
    let verdict = loaded.verdict().expect("half of it was rejected").to_owned();
    assert_eq!(verdict, "it rejected 2 of its first 4 records (1 by trapping), more than 10 %");

    let why = Signed { why: Some(verdict.clone()), ..signed() };
    let back = active.roll_back(&loaded, why.clone()).await.expect("it goes back");
    assert_eq!((back.change.kind, back.change.why), (ChangeKind::AutoRollBack, Some(verdict)));
    assert_eq!(loaded.verdict(), None, "it is done");
    assert_eq!(now_active(&active, now).await, (3, first));
    // Another instance that comes to the same judgement finds it done.
    let late =
        shelf.registry.roll_back_by_itself(slot, loaded.generation, why).await.expect_err("it is done");
    assert!(matches!(late, RegistryError::Superseded { .. }), "{late}");
}

/// Runs and counts a batch, as the function does.
fn run(loaded: &Loaded, orders: &[&str]) {
    let events: Vec<_> = orders.iter().map(|order| told(order)).collect();
    let batch = loaded.module.run(&events, stamp());
    loaded.count(&batch, events.iter().map(|_| true), Duration::from_micros(7));
}

async fn a_verdict_is_told_again_until_the_roll_back_is_done(shelf: Shelf) {
    let (first, second) = shelf.publish_two().await;
    let limit = RejectLimit { percent: 10, from_records: 2, to_records: 3 };
    shelf.activate(&first).await;
    shelf.registry.activate(&second, Some(limit), signed()).await.expect("it is activated");
    let (active, now) = (shelf.active(), Instant::now());
    let loaded = active.refresh(now).await.expect("one is active").remove(0);
    run(&loaded, &["reject", "reject"]);
    let verdict = loaded.verdict().expect("all of it was rejected").to_owned();

    // What it should go back to can't be used at this moment.
    fs::remove_file(shelf.artifact_path(&first, "cwasm")).expect("it can be removed");
    active.roll_back(&loaded, signed()).await.expect_err("its predecessor is damaged");
    assert_eq!(loaded.verdict(), Some(&*verdict), "it has to be tried again");

    // What it does meanwhile takes nothing back, though it is past its first records.
    run(&loaded, &["a"; 50]);
    shelf.publish(test_guest()).await;
    assert_eq!(loaded.verdict(), Some(&*verdict));
    active.roll_back(&loaded, signed()).await.expect("it goes back");
    assert_eq!(loaded.verdict(), None);
    assert_eq!(now_active(&active, now).await, (3, first));
}

async fn a_verdict_is_settled_where_nothing_is_left_to_roll_back(shelf: Shelf) {
    let (first, second) = shelf.publish_two().await;
    let limit = Some(RejectLimit { percent: 10, from_records: 1, to_records: 10 });
    let (active, now) = (shelf.active(), Instant::now());
    let judged = async |digest| {
        shelf.registry.activate(digest, limit, signed()).await.expect("it is activated");
        let loaded = active.refresh(now).await.expect("one is active").remove(0);
        run(&loaded, &["reject"]);
        loaded.verdict().expect("all of it was rejected");
        loaded
    };

    let loaded = judged(&first).await;
    let error = active.roll_back(&loaded, signed()).await.expect_err("none was before it");
    assert!(matches!(error, RegistryError::NothingToRollBackTo { .. }), "{error}");
    assert_eq!(loaded.verdict(), None);

    let loaded = judged(&second).await;
    shelf.activate(&first).await;
    let error = active.roll_back(&loaded, signed()).await.expect_err("somebody was faster");
    assert!(matches!(error, RegistryError::Superseded { .. }), "{error}");
    assert_eq!(loaded.verdict(), None);

    let loaded = judged(&second).await;
    shelf.registry.deactivate(&loaded.slot, signed()).await.expect("it was active");
    let error = active.roll_back(&loaded, signed()).await.expect_err("somebody was faster");
    assert!(matches!(error, RegistryError::NotActive { .. }), "{error}");
    assert_eq!(loaded.verdict(), None);
}

/// Four others want the same number: each of them can win once, and the fifth try is the function's.
async fn a_module_is_rolled_back_while_other_slots_change(shelf: Shelf) {
    let (good, bad) = shelf.publish_two().await;
    let beside = shelf.publish(&patched("table_one", "table_two")).await;
    let slot = &slots()[0];
    for round in 0..6 {
        shelf.activate(&good).await;
        let judged = shelf.activate(&bad).await;
        let others =
            futures_util::future::join_all((0..4).map(|_| shelf.registry.activate(&beside, None, signed())));
        let back = shelf.registry.roll_back_by_itself(slot, judged, signed());
        let (others, back) = futures_util::future::join(others, back).await;

        let back = back.unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert_eq!(back.change.kind, ChangeKind::AutoRollBack);
        let active = back.in_slot(slot).map(|active| &active.digest);
        assert_eq!(active, Some(&good), "round {round}, beside {others:?}");
    }
}

async fn what_each_process_did_adds_up(shelf: Shelf) {
    let generation = Generation::new(3).expect("in range");
    let stats = |records| Stats { records, rows: records * 2, run_us: 5, ..Stats::default() };
    for (instance, records) in [("a", 1), ("b", 10), ("a", 2)] {
        shelf.registry.put_stats(generation, instance, &stats(records)).await.expect("it is written");
    }
    let sum = shelf.registry.stats(generation).await.expect("they can be read");
    assert_eq!((sum.records, sum.rows, sum.run_us), (12, 24, 10));
    let none = shelf.registry.stats(Generation::FIRST).await.expect("they can be read");
    assert_eq!(none, Stats::default());
}

async fn what_was_not_published_for_every_machine_can_not_be_activated(shelf: Shelf) {
    let digest = shelf.publish(test_guest()).await;
    for target in Target::published() {
        let about = shelf.path("artifacts").join(target.key).join(format!("{digest}.json"));
        let record = fs::read(&about).expect("it is there");
        fs::remove_file(&about).expect("it can be removed");
        let error =
            shelf.registry.activate(&digest, None, signed()).await.expect_err("it has no native code");
        let RegistryError::NoArtifact { engine, .. } = error else { panic!("{error}") };
        assert_eq!(engine, target.key);
        fs::write(&about, record).expect("it can be written");
    }
    let never = Digest::of(b"never published");
    let error = shelf.registry.activate(&never, None, signed()).await.expect_err("it isn't there");
    assert!(matches!(error, RegistryError::UnknownModule { .. }));
    assert!(shelf.registry.generations().await.expect("they can be listed").is_empty());
}

async fn a_damaged_half_that_counts_never_runs_and_the_other_half_goes_on(shelf: Shelf) {
    let digest = shelf.publish(test_guest()).await;
    shelf.activate(&digest).await;
    shelf.damage(&digest, "metered.cwasm");

    let loaded = shelf.active().refresh(Instant::now()).await.expect("usual batches don't need it").remove(0);
    let outcomes = |orders: [&str; 2]| loaded.module.run(&orders.map(told), stamp());
    let batch = outcomes(["a", "panic"]);
    assert!(matches!(&batch.outcomes[..], [Outcome::Rows(_), Outcome::Reject(_)]), "{batch:?}");
    // Without a count nobody can tell a loop from a machine that stands still.
    let batch = outcomes(["a", "loop"]);
    assert!(matches!(&batch.outcomes[..], [Outcome::Rows(_)]), "{batch:?}");
    assert_eq!(batch.unfinished.map(|rest| rest.from), Some(1));

    let error = shelf.registry.check_activation(&digest).await.expect_err("both halves are looked at");
    assert!(matches!(error, RegistryError::Damaged { .. }), "{error}");
    let error = shelf.registry.activate(&digest, None, signed()).await.expect_err("they still are");
    assert!(matches!(error, RegistryError::Damaged { .. }), "{error}");
}

async fn publishing_again_changes_nothing_and_mends_what_is_damaged(shelf: Shelf) {
    let digest = shelf.publish(test_guest()).await;
    for end in ["cwasm", "metered.cwasm"] {
        let path = shelf.artifact_path(&digest, end);
        let native = fs::read(&path).expect("it is there");
        fs::write(&path, b"torn").expect("it can be written");
        let torn = shelf.registry.whole_artifact(&digest, Target::THIS).await;
        assert!(matches!(torn, Err(RegistryError::Damaged { .. })), "{torn:?}");
        shelf.publish(test_guest()).await;
        assert_eq!(fs::read(&path).expect("it is there"), native);
    }
    assert_eq!(shelf.registry.modules().await.expect("they can be listed").len(), 1);
    assert_eq!(shelf.registry.module(&digest).await.expect("it is there"), test_guest());
}

async fn a_digest_is_found_by_its_beginning_if_that_is_unique(shelf: Shelf) {
    let (first, second) = shelf.publish_two().await;
    let found = shelf.registry.find(first.short()).await.expect("it is there");
    assert_eq!((found.digest, found.tables[0].columns[0].0.as_str()), (first, "note_id"));
    assert_ne!(second.short(), "");
    assert!(matches!(shelf.registry.find("").await, Err(RegistryError::UnknownModule { .. })));
    assert!(matches!(shelf.registry.find("zz").await, Err(RegistryError::UnknownModule { .. })));
}

async fn going_back_needs_an_earlier_module(shelf: Shelf) {
    let error = shelf.registry.roll_back(None, signed()).await.expect_err("nothing is active");
    assert!(matches!(error, RegistryError::NoneActive));
    let digest = shelf.publish(test_guest()).await;
    shelf.activate(&digest).await;
    shelf.activate(&digest).await;
    let error = shelf.registry.roll_back(None, signed()).await.expect_err("there is none");
    assert!(matches!(error, RegistryError::NothingToRollBackTo { .. }));
}

async fn reports_of_a_candidate_are_numbered_and_never_replaced(shelf: Shelf) {
    let (first, second) = shelf.publish_two().await;
    let registry = &shelf.registry;
    assert!(registry.shadow_reports(&first).await.expect("they can be listed").is_empty());

    // Several people try it at once.
    let reports: Vec<String> = (0..12).map(|report| report.to_string()).collect();
    let kept = futures_util::future::join_all(reports.iter().map(|r| registry.put_shadow_report(&first, r)));
    let mut kept: Vec<u32> = kept.await.into_iter().map(|number| number.expect("it is kept")).collect();
    assert_eq!(registry.put_shadow_report(&second, &"other").await.expect("it is kept"), 1);

    let numbers: Vec<u32> = (1..=12).collect();
    assert_eq!(registry.shadow_reports(&first).await.expect("they can be listed"), numbers);
    let mut found = Vec::new();
    for (report, number) in reports.iter().zip(&kept) {
        let stored: Option<String> = registry.shadow_report(&first, *number).await.expect("it can be read");
        assert_eq!(stored.as_ref(), Some(report));
        found.extend(stored);
    }
    assert_eq!(found, reports);
    kept.sort_unstable();
    assert_eq!(kept, numbers);
    let none: Option<String> = registry.shadow_report(&first, 13).await.expect("it can be asked");
    assert_eq!(none, None);
}

async fn a_slot_meets_whatever_fills_one_of_its_tables(shelf: Shelf) {
    let digest = shelf.publish(test_guest()).await;
    shelf.activate(&digest).await;
    let pointer = shelf.registry.newest().await.expect("it can be read").0.expect("something is active");
    for (slot, met) in [("table_one", 1), ("table_one+table_two", 1), ("table_two", 0), ("table_on", 0)] {
        assert_eq!(pointer.on_tables_of(&Slot::from(slot)).count(), met, "{slot}");
    }
}

#[test]
fn only_a_folder_or_a_bucket_is_a_registry() {
    for bad in ["", "http://host/x", "file://relative"] {
        let opened = Registry::open(bad, key().public().into());
        assert!(matches!(opened, Err(RegistryError::Open { .. })), "{bad:?} was opened");
    }
}

#[test]
fn a_pointer_is_read_back_as_it_was_written() {
    let text = r#"{"generation": 2, "change": {"kind": "activate", "slot": "t", "by": "mina",
        "at": "2026-11-23T07:58:49Z"}, "active": []}"#;
    let pointer: Pointer = serde_json::from_str(text).expect("it is one");
    assert_eq!((pointer.generation.get(), pointer.change.why), (2, None));
}
