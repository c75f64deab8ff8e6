//! Stands where the functions send their nudges, counts them, and does to them what a network can do.

use crate::harness::Shop;
use anyhow::Context;
use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
    routing::post,
};
use outflow_event_sources::{EventSources, Options, Running};
use outflow_stack::workspace_root;
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

/// What becomes of a nudge.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    Delivered,
    /// Accepted, and gone.
    Lost,
    /// Once at once, once after this.
    Doubled(Duration),
    /// After this.
    Delayed(Duration),
}

/// Which other reason the relay has to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Schedule {
    On,
    Off,
}

/// The event sources of `template.yaml` in this process, with or without their schedule, and the door before them.
pub(crate) struct Postman {
    sources: Running,
    address: String,
    round: Round,
    door: Option<(oneshot::Sender<()>, JoinHandle<std::io::Result<()>>)>,
}

#[derive(Clone)]
struct Round {
    client: reqwest::Client,
    /// Of the event sources.
    url: String,
    way: Arc<Mutex<Way>>,
    received: Arc<AtomicUsize>,
}

/// Runs a test with a postman in place of the pipe's own event sources, which come back afterwards.
pub(crate) async fn with_postman(
    shop: &mut Shop,
    schedule: Schedule,
    test: impl AsyncFnOnce(&mut Shop, &mut Postman) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    shop.pipe.system.event_sources_process().destroy().await?;
    let mut postman = Postman::start(shop, schedule).await?;
    let outcome = test(shop, &mut postman).await;
    postman.close().await?;
    postman.sources.stop().await;
    shop.pipe.system.restart_event_sources().await?;
    outcome
}

impl Postman {
    async fn start(shop: &Shop, schedule: Schedule) -> anyhow::Result<Self> {
        let mut template =
            EventSources::from_template(workspace_root().join("template.yaml"))?.template().clone();
        if schedule == Schedule::Off {
            template.schedules.clear();
        }
        let mut options = Options::new(&shop.pipe.system.functions_url, &shop.pipe.endpoints.kafka.brokers);
        options.listen = Some("127.0.0.1:0".parse()?);
        let sources = EventSources::new(template).start(options).await?;
        let url = format!("http://{}", sources.address().context("the event sources listen")?);
        let address = shop.pipe.system.events_url.trim_start_matches("http://").to_owned();
        let round = Round {
            client: reqwest::Client::new(),
            url,
            way: Arc::new(Mutex::new(Way::Delivered)),
            received: Arc::default(),
        };
        let mut postman = Self { sources, address, round, door: None };
        postman.open().await?;
        Ok(postman)
    }

    /// Nudges can reach him.
    pub(crate) async fn open(&mut self) -> anyhow::Result<()> {
        let listener = TcpListener::bind(&self.address).await.context("the postman's door")?;
        let router = Router::new()
            .route("/2015-03-31/functions/{name}/invocations", post(take))
            .with_state(self.round.clone());
        let (close, closed) = oneshot::channel();
        let served = axum::serve(listener, router).with_graceful_shutdown(async move {
            let _ = closed.await;
        });
        self.door = Some((close, tokio::spawn(served.into_future())));
        Ok(())
    }

    /// Nobody listens any more, and connections are closed.
    pub(crate) async fn close(&mut self) -> anyhow::Result<()> {
        let Some((close, served)) = self.door.take() else { return Ok(()) };
        let _ = close.send(());
        served.await?.context("the postman's door")
    }

    pub(crate) fn will(&self, way: Way) {
        *self.round.way.lock().expect("no holder panics") = way;
    }

    /// Nudges that came to the door.
    pub(crate) fn received(&self) -> usize {
        self.round.received.load(Ordering::SeqCst)
    }
}

async fn take(State(round): State<Round>, Path(name): Path<String>, body: Bytes) -> StatusCode {
    round.received.fetch_add(1, Ordering::SeqCst);
    let way = *round.way.lock().expect("no holder panics");
    let pauses = match way {
        Way::Delivered => return round.deliver(&name, body).await,
        Way::Lost => vec![],
        Way::Doubled(pause) => vec![Duration::ZERO, pause],
        Way::Delayed(pause) => vec![pause],
    };
    for pause in pauses {
        let (round, name, body) = (round.clone(), name.clone(), body.clone());
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            round.deliver(&name, body).await
        });
    }
    StatusCode::ACCEPTED
}

impl Round {
    async fn deliver(&self, name: &str, body: Bytes) -> StatusCode {
        let url = format!("{}/2015-03-31/functions/{name}/invocations", self.url);
        let nudge = self.client.post(url).header("x-amz-invocation-type", "Event").body(body);
        match nudge.send().await {
            Ok(answer) => answer.status(),
            Err(_) => StatusCode::BAD_GATEWAY,
        }
    }
}
