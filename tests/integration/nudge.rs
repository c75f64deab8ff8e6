//! Few nudges do for many commits, also where many processes write: each of them knows only what it has sent itself.

use axum::{Router, http::StatusCode, routing::post};
use outflow_nudge::Nudge;
use outflow_outbox::{Relay, RelaySettings};
use outflow_tests::{Recorder, TestShop, long, until, write_event};
use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    net::TcpListener,
    sync::{
        Mutex,
        mpsc::{UnboundedReceiver, unbounded_channel},
    },
};

/// Instances of the function that writes; each holds a nudge of its own.
const WRITERS: u32 = 8;
/// Instances of the relay's function, as `template.yaml` reserves them.
const RELAYS: usize = 3;
/// What a nudge's drain may take, and how long it goes on looking (`functions/outbox-relay`).
const LONGEST_DRAIN: Duration = Duration::from_secs(2);
const IDLE: Duration = Duration::from_millis(500);

/// Answers as Lambda's Invoke API does and has a relay run for each invocation, in their order. Nothing else starts one.
async fn invoke_api(shop: &TestShop, recorder: &Recorder) -> (String, Arc<AtomicUsize>) {
    let (queue, queued) = unbounded_channel();
    let queued = Arc::new(Mutex::new(queued));
    for _ in 0..RELAYS {
        let relay = shop.relay_to(recorder, RelaySettings::default());
        tokio::spawn(serve(relay, Arc::clone(&queued)));
    }
    let invocations = Arc::new(AtomicUsize::new(0));
    let received = Arc::clone(&invocations);
    let invoke = post(async move || {
        received.fetch_add(1, Ordering::SeqCst);
        queue.send(()).unwrap();
        StatusCode::ACCEPTED
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = Router::new().route("/2015-03-31/functions/outbox-relay/invocations", invoke);
    tokio::spawn(axum::serve(listener, app).into_future());
    (format!("http://{address}/2015-03-31/functions/outbox-relay/invocations"), invocations)
}

/// One instance: an invocation after the other.
async fn serve(relay: Relay<Recorder>, queued: Arc<Mutex<UnboundedReceiver<()>>>) {
    loop {
        let Some(()) = queued.lock().await.recv().await else { return };
        relay.run(Instant::now() + LONGEST_DRAIN, IDLE).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_writers_as_fast_as_they_can_nudge_for_a_twentieth_of_their_commits_and_all_is_delivered() {
    let commits = if long() { 4_000 } else { 500 };
    let shop = Arc::new(TestShop::start().await);
    let recorder = Recorder::default();
    let (url, invocations) = invoke_api(&shop, &recorder).await;
    let mut writers = tokio::task::JoinSet::new();
    let began_at = Instant::now();
    for writer in 0..WRITERS {
        let (shop, nudge) = (Arc::clone(&shop), Nudge::new(Some(&url)).unwrap());
        writers.spawn(async move {
            let mut connection = shop.connect().await;
            for version in 1..=commits {
                // A transaction of its own.
                write_event(&mut connection, &format!("writer-{writer}"), version).await;
                nudge.wake(shop.store.sleeping_relay()).await;
            }
            nudge
        });
    }
    let nudges = writers.join_all().await;
    let took = began_at.elapsed();
    let nudged = invocations.load(Ordering::SeqCst);
    // What is committed while a drain gives its lease back is left to the next commit's nudge (ADR 0006).
    until("the relay sleeps", async || shop.store.sleeping_relay().await.is_some()).await;
    shop.commit("last", 1).await;
    nudges[0].wake(shop.store.sleeping_relay()).await;

    let written = WRITERS * commits + 1;
    let delivered = || recorder.published().iter().map(|event| event.id).collect::<HashSet<_>>().len();
    until("all is delivered", async || delivered() == written as usize).await;
    eprintln!("{written} commits in {took:?}: {nudged} invocations");
    assert!(nudged * 20 <= written as usize, "{nudged} invocations for {written} commits");
    for writer in 0..WRITERS {
        let versions = recorder.versions_of(&format!("writer-{writer}"));
        assert!(versions.into_iter().eq(1..=commits), "writer {writer}");
    }
}
