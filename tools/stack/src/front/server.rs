//! The HTTP side: routes, the pool's bound, response headers, start and stop.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request as HttpRequest, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::serve::ListenerExt;
use futures_util::stream;
use nix::fcntl::{Flock, FlockArg};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};

use super::body::{BodyReader, drain};
use super::chdb::Engine;
use super::compress::{Coding, Encoder};
use super::error::{Exception, code};
use super::format::content_type;
use super::request::Request;
use super::session::{Answer, Answered, Session, content_encoding};
use super::users::Users;

/// How long a request waits for one of the connections before it is refused.
const QUEUE: Duration = Duration::from_secs(60);
/// How many requests may wait; more are refused at once.
const MAX_WAITING: usize = 512;
/// How long running queries may take after SIGTERM.
const GRACE: Duration = Duration::from_secs(30);
/// How long a query's thread may take to close its connection after its response is out.
const LAST_BYTE: Duration = Duration::from_secs(2);

/// How the front is started.
#[derive(Debug, Clone)]
pub struct FrontSettings {
    /// `libchdb.so`.
    pub library: PathBuf,
    /// The engine's data folder; one process at a time.
    pub data: PathBuf,
    /// Where to listen. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// The users file, see [`super::User`].
    pub users: PathBuf,
    /// Queries that run at once; more wait.
    pub max_concurrent: usize,
}

struct Front {
    engine: Engine,
    users: Users,
    version: String,
    timezone: String,
    permits: Arc<Semaphore>,
    waiting: Semaphore,
}

/// Runs the front until SIGTERM or SIGINT, then lets running queries finish.
///
/// # Errors
/// When the library, the data folder, the users file or the port can't be used.
pub async fn serve(settings: FrontSettings) -> anyhow::Result<()> {
    if settings.max_concurrent == 0 {
        bail!("--max-concurrent must be at least 1");
    }
    let users = Users::read(&settings.users)?;
    std::fs::create_dir_all(&settings.data)
        .with_context(|| format!("cannot create the data folder {}", settings.data.display()))?;
    let data = std::fs::canonicalize(&settings.data)?;
    let lock = std::fs::File::create(data.join("front.lock"))?;
    let Ok(lock) = Flock::lock(lock, FlockArg::LockExclusiveNonblock) else {
        bail!("{} is in use by another clickhouse-front: stop it, or take another --data", data.display());
    };
    let listener = TcpListener::bind(settings.listen)
        .await
        .with_context(|| format!("cannot listen on {}", settings.listen))?;
    let address = listener.local_addr()?;
    let library = settings.library.clone();
    let (engine, about) = tokio::task::spawn_blocking(move || {
        let engine = Engine::open(&library, &data)?;
        let about = engine
            .connect()?
            .query(b"SELECT version(), timezone()", "TSV", &[])
            .map(|chunk| String::from_utf8_lossy(chunk.bytes()).trim().to_owned());
        anyhow::Ok((engine, about))
    })
    .await??;
    let about = about.map_err(|failure| anyhow::anyhow!("the engine doesn't answer: {failure}"))?;
    let (version, timezone) = about.split_once('\t').context("the engine's first answer has two columns")?;
    let front = Arc::new(Front {
        engine,
        users,
        version: version.to_owned(),
        timezone: timezone.to_owned(),
        permits: Arc::new(Semaphore::new(settings.max_concurrent)),
        waiting: Semaphore::new(MAX_WAITING),
    });
    let router = Router::new().fallback(handle).with_state(Arc::clone(&front));
    println!("clickhouse-front {version} is ready on http://{address}");
    tracing::info!(%address, version, "ready");
    let stop = Arc::new(tokio::sync::Notify::new());
    let stopping = Arc::clone(&stop);
    let listener = listener.tap_io(|stream| {
        // Answers are small; without this each waits for the client's delayed acknowledgement.
        let _ = stream.set_nodelay(true);
    });
    let serving = axum::serve(listener, router).with_graceful_shutdown(async move {
        if let Err(error) = stop_signal().await {
            tracing::error!(%error, "cannot wait for signals, stopping");
        }
        tracing::info!("stopping");
        stopping.notify_one();
    });
    let overdue = async {
        stop.notified().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        served = async { serving.await } => served?,
        () = overdue => tracing::warn!(seconds = GRACE.as_secs(), "queries are still running, giving them up"),
    }
    // The threads end right after their last byte; those given up are left to the process's end, which
    // the engine survives like a SIGKILL.
    let all = u32::try_from(settings.max_concurrent).unwrap_or(u32::MAX);
    if tokio::time::timeout(LAST_BYTE, front.permits.acquire_many(all)).await.is_ok() {
        front.engine.close();
        tracing::info!("stopped");
    }
    drop(lock);
    Ok(())
}

async fn stop_signal() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

async fn handle(State(front): State<Arc<Front>>, request: HttpRequest) -> Response {
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    let reads = parts.method == Method::GET || parts.method == Method::HEAD;
    match parts.uri.path() {
        "/ping" | "/replicas_status" if reads => return "Ok.\n".into_response(),
        "/" if reads && parts.uri.query().is_none() => return "Ok.\n".into_response(),
        "/" | "/query" => {}
        other => {
            let text = format!(
                "There is no handle {other}\n\nUse / or /ping for health checks.\nSend queries to / with POST or GET.\n"
            );
            return (StatusCode::NOT_FOUND, text).into_response();
        }
    }
    if !reads && parts.method != Method::POST {
        let allow = [(header::ALLOW, "GET, HEAD, POST")];
        return (StatusCode::METHOD_NOT_ALLOWED, allow, "use GET or POST\n").into_response();
    }
    let mut id = String::new();
    let mut coding = Coding::Plain;
    let mut body = Some(body);
    let answered = async {
        let (request, credentials) = Request::parse(&parts.method, &parts.uri, &parts.headers)?;
        id.clone_from(&request.id);
        front.users.authenticate(credentials.as_ref())?;
        coding = request.coding;
        let user = credentials.map(|given| given.name).unwrap_or_default();
        run(&front, request, user, body.take().unwrap_or_default()).await
    };
    let result: Result<_, Exception> = answered.await;
    if let Some(body) = body {
        drain(&mut body.into_data_stream()).await;
    }
    let mut response = match result {
        Ok(answer) => {
            let mut response = respond(answer, &front.timezone, started.elapsed());
            if let Some(name) = content_encoding(coding) {
                response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static(name));
            }
            response
        }
        Err(exception) => refuse(&exception, &front.version, &front.timezone, coding),
    };
    if let Ok(id) = HeaderValue::from_str(&id)
        && !id.is_empty()
    {
        response.headers_mut().insert("x-clickhouse-query-id", id);
    }
    response
}

/// Waits for a connection to be free, and runs the request on a thread.
async fn run(front: &Arc<Front>, request: Request, user: String, body: Body) -> Result<Answer, Exception> {
    let busy = |message: &str| {
        Exception::new(code::TOO_MANY_SIMULTANEOUS_QUERIES, "TOO_MANY_SIMULTANEOUS_QUERIES", message)
    };
    let waiting = front.waiting.try_acquire().map_err(|_| {
        busy(&format!("Too many simultaneous queries: {MAX_WAITING} are waiting; try again later"))
    })?;
    let permit = tokio::time::timeout(QUEUE, Arc::clone(&front.permits).acquire_owned()).await;
    drop(waiting);
    let Ok(Ok(permit)) = permit else {
        let message =
            format!("Too many simultaneous queries: no connection was free for {} s", QUEUE.as_secs());
        return Err(busy(&message));
    };
    let (reply, answer) = oneshot::channel();
    let front = Arc::clone(front);
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        // Held until the last byte of the response is out.
        let _permit = permit;
        let Some(user) = front.users.find(&user) else { return };
        let session = Session { engine: &front.engine, user, request, version: &front.version };
        session.run(BodyReader::new(body, runtime), reply);
    });
    answer.await.unwrap_or_else(|_| {
        let message = "the query's thread ended without an answer: see the front's log";
        Err(Exception::new(code::UNKNOWN_EXCEPTION, "UNKNOWN_EXCEPTION", message))
    })
}

fn respond(answer: Answer, timezone: &str, elapsed: Duration) -> Response {
    let progress = answer.progress;
    let summary = serde_json::json!({
        "read_rows": progress.read_rows.to_string(),
        "read_bytes": progress.read_bytes.to_string(),
        "written_rows": progress.written_rows.to_string(),
        "written_bytes": progress.written_bytes.to_string(),
        "total_rows_to_read": "0",
        "result_rows": progress.result_rows.to_string(),
        "result_bytes": "0",
        "elapsed_ns": elapsed.as_nanos().to_string(),
    });
    let mut tagged = None;
    let body = match answer.body {
        Answered::Whole(bytes) => Body::from(bytes),
        Answered::Stream { pieces, tag } => {
            tagged = Some(tag);
            Body::from_stream(stream::unfold(pieces, async |mut pieces| {
                let piece = pieces.recv().await?;
                if piece.is_err() {
                    // Lets the connection send what explains the break before it is broken.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Some((piece, pieces))
            }))
        }
    };
    let mut response = Response::new(body);
    let zone = answer.timezone.as_deref().unwrap_or(timezone);
    let headers: [(&'static str, String); 5] = [
        ("x-clickhouse-summary", summary.to_string()),
        ("x-clickhouse-format", answer.format.clone()),
        ("x-clickhouse-timezone", zone.to_owned()),
        ("x-clickhouse-exception-tag", tagged.unwrap_or_default()),
        ("content-type", content_type(&answer.format).to_owned()),
    ];
    for (name, value) in headers {
        if let Ok(value) = HeaderValue::from_str(&value)
            && !value.is_empty()
        {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

fn refuse(exception: &Exception, version: &str, timezone: &str, coding: Coding) -> Response {
    let text = exception.body(version);
    // Who asked for `compress=1` reads every body as compressed; `Content-Encoding` says so for others.
    let body = match coding {
        Coding::Native => Encoder::new(coding).encode(text.as_bytes()).unwrap_or_default(),
        Coding::Plain | Coding::Lz4Frame => text.into_bytes(),
    };
    let mut response = (exception.status(), body).into_response();
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=UTF-8"));
    let headers = response.headers_mut();
    headers.insert("x-clickhouse-exception-code", exception.code.into());
    if let Ok(zone) = HeaderValue::from_str(timezone) {
        headers.insert("x-clickhouse-timezone", zone);
    }
    if exception.status() == StatusCode::UNAUTHORIZED {
        let challenge = HeaderValue::from_static("Basic realm=\"ClickHouse server HTTP API\"");
        headers.insert(header::WWW_AUTHENTICATE, challenge);
    }
    response
}
