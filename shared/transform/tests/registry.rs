//! What the registry and the follower of its pointers promise.

mod support;

use outflow_transform::{Active, ActiveError, Digest, Generation, PointerKind, Registry, RegistryError};
use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};
use support::{artifact, engine, load, patched, test_guest};
use tempfile::TempDir;
use time::OffsetDateTime;

/// A registry in a folder of its own.
struct Shelf {
    registry: Registry,
    folder: TempDir,
}

const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

impl Shelf {
    fn new() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let url = format!("file://{}", folder.path().join("registry").display());
        Self { registry: Registry::open(&url).expect("the registry opens"), folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("registry").join(name)
    }

    fn artifact_path(&self, digest: &Digest) -> PathBuf {
        self.path("artifacts").join(outflow_transform::ENGINE_KEY).join(format!("{digest}.cwasm"))
    }

    async fn publish(&self, wasm: &[u8]) -> Digest {
        let engine = engine();
        let module = load(&engine, wasm).expect("the module loads");
        let native = artifact(&engine, wasm);
        self.registry.publish(wasm, &native, module.schema(), NOW).await.expect("it is published");
        Digest::of(wasm)
    }

    async fn publish_two(&self) -> (Digest, Digest) {
        (self.publish(test_guest()).await, self.publish(&patched("note_id", "memo_id")).await)
    }

    async fn activate(&self, digest: &Digest) -> Generation {
        self.registry.activate(digest, "tester", NOW).await.expect("it is activated").generation
    }

    /// A pointer that no command wrote.
    fn forge(&self, number: u32, text: &str) {
        fs::write(self.path(&format!("pointers/{number:08}.json")), text).expect("the folder is there");
    }

    fn active(&self) -> Active {
        Active::new(engine(), self.registry.clone())
    }
}

async fn now_active(active: &Active, at: Instant) -> (u32, Digest) {
    let loaded = active.refresh(at).await.expect("a module is active");
    (loaded.generation.get(), loaded.digest().clone())
}

#[tokio::test]
async fn without_an_activation_the_error_names_the_command() {
    let shelf = Shelf::new();
    let error = shelf.active().refresh(Instant::now()).await.expect_err("nothing is active");
    assert!(matches!(error, ActiveError::None { .. }));
    assert!(error.to_string().contains("outflow transform publish"), "{error}");
}

#[tokio::test]
async fn a_new_module_is_seen_at_the_next_refresh_and_a_rollback_too() {
    let shelf = Shelf::new();
    let (first, second) = shelf.publish_two().await;
    let (active, now) = (shelf.active(), Instant::now());

    shelf.activate(&first).await;
    assert_eq!(now_active(&active, now).await, (1, first.clone()));
    assert_eq!(now_active(&active, now).await, (1, first.clone()));
    shelf.activate(&second).await;
    assert_eq!(now_active(&active, now).await, (2, second.clone()));
    let back = shelf.registry.roll_back("tester", NOW).await.expect("there is one to go back to");
    assert_eq!((back.kind, back.generation.get()), (PointerKind::RollBack, 3));
    assert_eq!(now_active(&active, now).await, (3, first));
}

#[tokio::test]
async fn the_same_module_activated_again_gets_a_new_generation() {
    let shelf = Shelf::new();
    let digest = shelf.publish(test_guest()).await;
    let (active, now) = (shelf.active(), Instant::now());
    shelf.activate(&digest).await;
    let before = active.refresh(now).await.expect("a module is active");
    shelf.activate(&digest).await;
    let after = active.refresh(now).await.expect("a module is active");
    assert_eq!((before.generation.get(), after.generation.get()), (1, 2));
    assert!(std::sync::Arc::ptr_eq(&before.module, &after.module), "it was loaded twice");
}

#[tokio::test]
async fn whatever_is_wrong_with_the_newest_pointer_the_last_good_module_goes_on() {
    let shelf = Shelf::new();
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
    let path = shelf.artifact_path(&other);
    let mut native = fs::read(&path).expect("it is there");
    let middle = native.len() / 2;
    native[middle] ^= 1;
    fs::write(&path, native).expect("it can be written");
    assert_eq!(now_active(&active, now).await, (1, good.clone()), "damaged native code");

    // A function that starts now finds the good one behind the bad ones.
    assert_eq!(now_active(&shelf.active(), now).await, (1, good));
}

#[tokio::test]
async fn a_refused_module_is_tried_again_once_it_waited_and_not_before() {
    let shelf = Shelf::new();
    let (first, second) = shelf.publish_two().await;
    let (active, now) = (shelf.active(), Instant::now());
    shelf.activate(&first).await;
    shelf.activate(&second).await;
    let path = shelf.artifact_path(&second);
    let native = fs::read(&path).expect("it is there");
    fs::remove_file(&path).expect("it can be removed");

    assert_eq!(now_active(&active, now).await, (1, first.clone()));
    fs::write(&path, native).expect("it can be written");
    assert_eq!(now_active(&active, now + Duration::from_millis(900)).await, (1, first));
    assert_eq!(now_active(&active, now + Duration::from_secs(1)).await, (2, second));
}

#[tokio::test]
async fn only_bad_pointers_and_no_module_in_memory_is_an_error() {
    let shelf = Shelf::new();
    fs::create_dir_all(shelf.path("pointers")).expect("the folder can be made");
    shelf.forge(1, "{}");
    let error = shelf.active().refresh(Instant::now()).await.expect_err("nothing can be used");
    assert!(matches!(error, ActiveError::NoGoodOne { .. }));
}

#[tokio::test]
async fn an_unreadable_registry_leaves_the_module_in_memory() {
    let shelf = Shelf::new();
    let digest = shelf.publish(test_guest()).await;
    shelf.activate(&digest).await;
    let (active, now) = (shelf.active(), Instant::now());
    assert_eq!(now_active(&active, now).await, (1, digest.clone()));
    // A file where the folder of pointers was: listing it fails, whoever asks (root too).
    fs::remove_dir_all(shelf.path("pointers")).expect("it can be removed");
    fs::write(shelf.path("pointers"), "no folder").expect("it can be written");
    assert_eq!(now_active(&active, now).await, (1, digest));
}

#[tokio::test]
async fn of_activations_at_one_moment_each_wins_a_generation_of_its_own_or_is_told() {
    let shelf = Shelf::new();
    let (first, second) = shelf.publish_two().await;
    let all = futures_util::future::join_all((0..20).map(|i| {
        let digest = if i % 2 == 0 { &first } else { &second };
        shelf.registry.activate(digest, "tester", NOW)
    }))
    .await;
    let mut won: Vec<u32> = Vec::new();
    for result in all {
        match result {
            Ok(pointer) => won.push(pointer.generation.get()),
            Err(RegistryError::Conflict { .. }) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
    won.sort_unstable();
    let generations = shelf.registry.generations().await.expect("they can be listed");
    assert_eq!(won, generations.iter().map(|g| g.get()).collect::<Vec<_>>());
    assert!(won.len() < 20, "none of 20 at once was told of another");
}

#[tokio::test]
async fn what_was_not_published_for_this_engine_can_not_be_activated() {
    let shelf = Shelf::new();
    let digest = shelf.publish(test_guest()).await;
    fs::remove_file(shelf.artifact_path(&digest)).expect("it can be removed");
    let error = shelf.registry.activate(&digest, "tester", NOW).await.expect_err("it has no native code");
    assert!(matches!(error, RegistryError::NoArtifact { .. }));
    let never = Digest::of(b"never published");
    let error = shelf.registry.activate(&never, "tester", NOW).await.expect_err("it isn't there");
    assert!(matches!(error, RegistryError::UnknownModule { .. }));
    assert!(shelf.registry.generations().await.expect("they can be listed").is_empty());
}

#[tokio::test]
async fn publishing_again_changes_nothing_and_mends_what_is_damaged() {
    let shelf = Shelf::new();
    let digest = shelf.publish(test_guest()).await;
    let path = shelf.artifact_path(&digest);
    let native = fs::read(&path).expect("it is there");

    fs::write(&path, b"torn").expect("it can be written");
    assert!(matches!(shelf.registry.artifact(&digest).await, Err(RegistryError::Damaged { .. })));
    shelf.publish(test_guest()).await;
    assert_eq!(fs::read(&path).expect("it is there"), native);
    assert_eq!(shelf.registry.modules().await.expect("they can be listed").len(), 1);
}

#[tokio::test]
async fn a_digest_is_found_by_its_beginning_if_that_is_unique() {
    let shelf = Shelf::new();
    let (first, second) = shelf.publish_two().await;
    let found = shelf.registry.find(first.short()).await.expect("it is there");
    assert_eq!((found.digest, found.tables[0].columns[0].0.as_str()), (first, "note_id"));
    assert_ne!(second.short(), "");
    assert!(matches!(shelf.registry.find("").await, Err(RegistryError::UnknownModule { .. })));
    assert!(matches!(shelf.registry.find("zz").await, Err(RegistryError::UnknownModule { .. })));
}

#[tokio::test]
async fn going_back_needs_an_earlier_module() {
    let shelf = Shelf::new();
    let digest = shelf.publish(test_guest()).await;
    shelf.activate(&digest).await;
    shelf.activate(&digest).await;
    let error = shelf.registry.roll_back("tester", NOW).await.expect_err("there is none");
    assert!(matches!(error, RegistryError::NothingToRollBackTo));
}

#[test]
fn only_a_folder_or_a_bucket_is_a_registry() {
    for bad in ["", "http://host/x", "file://relative"] {
        assert!(matches!(Registry::open(bad), Err(RegistryError::Open { .. })), "{bad:?} was opened");
    }
}
