//! An S3 server of a test's own: `s3s-fs` on a free port, with a folder of its own, that can be watched, stopped and made
//! to fail. It checks signatures, as S3 does.

use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, header::IF_NONE_MATCH, server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use s3s::{
    Body, HttpError, HttpRequest, S3Result,
    access::{S3Access, S3AccessContext},
    auth::SimpleAuth,
    service::{S3Service, S3ServiceBuilder},
};
use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};
use tempfile::TempDir;
use tokio::{net::TcpListener, runtime::Runtime, sync::Barrier};

const BUCKET: &str = "transforms";
/// The registry is not alone in its bucket.
const PREFIX: &str = "shop/registry";
const KEY: (&str, &str) = ("test-key", "test-secret");
/// Of somebody who may read and list, and nothing else.
const READER: (&str, &str) = ("reader", "readers-secret");

/// The server. Its threads are its own: a test that waits for a compiler doesn't keep it from answering.
pub(crate) struct S3 {
    folder: TempDir,
    address: SocketAddr,
    shared: Arc<Shared>,
    running: Option<Runtime>,
}

struct Shared {
    s3: S3Service,
    /// Method and path of each request.
    seen: Mutex<Vec<String>>,
    conditional_put: tokio::sync::Mutex<()>,
    gathering: Mutex<Option<Arc<Barrier>>>,
    loses_an_answer: AtomicBool,
    is_ill: AtomicBool,
}

impl S3 {
    pub(crate) fn start() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        fs::create_dir(folder.path().join(BUCKET)).expect("a bucket is a folder");
        let files = s3s_fs::FileSystem::new(folder.path()).expect("the folder is there");
        let mut builder = S3ServiceBuilder::new(files);
        let mut keys = SimpleAuth::from_single(KEY.0, KEY.1);
        keys.register(READER.0.to_owned(), READER.1.into());
        builder.set_auth(keys);
        builder.set_access(Rights);
        let shared = Shared {
            s3: builder.build(),
            seen: Mutex::default(),
            conditional_put: tokio::sync::Mutex::default(),
            gathering: Mutex::default(),
            loses_an_answer: AtomicBool::new(false),
            is_ill: AtomicBool::new(false),
        };
        let address = ([127, 0, 0, 1], 0).into();
        let mut server = Self { folder, address, shared: Arc::new(shared), running: None };
        server.start_again();
        server
    }

    /// Closes its port and every connection at once.
    pub(crate) fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.shutdown_background();
        }
    }

    /// On the port that it had, with all that is in its folder.
    pub(crate) fn start_again(&mut self) {
        let running = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime starts");
        let listener = std::net::TcpListener::bind(self.address).expect("the port is free");
        listener.set_nonblocking(true).expect("a socket can be made so");
        self.address = listener.local_addr().expect("it is bound");
        let shared = self.shared.clone();
        running.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("within a runtime");
            while let Ok((connection, _)) = listener.accept().await {
                let shared = shared.clone();
                let service = service_fn(move |request| serve(shared.clone(), request));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(connection), service));
            }
        });
        self.running = Some(running);
    }

    pub(crate) fn location(&self) -> String {
        format!("s3://{BUCKET}/{PREFIX}")
    }

    /// Where the registry's objects lie: each is a file of its name.
    pub(crate) fn files(&self) -> PathBuf {
        self.folder.path().join(BUCKET).join(PREFIX)
    }

    /// What leads to it, by the names of AWS's variables.
    pub(crate) fn settings(&self) -> [(&'static str, String); 5] {
        [
            ("AWS_ENDPOINT_URL", format!("http://{}", self.address)),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_REGION", "eu-central-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", KEY.0.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", KEY.1.to_owned()),
        ]
    }

    /// What makes a reader of whoever has those settings.
    pub(crate) fn reader() -> [(&'static str, &'static str); 2] {
        [("AWS_ACCESS_KEY_ID", READER.0), ("AWS_SECRET_ACCESS_KEY", READER.1)]
    }

    /// The requests since it was last asked, without the registry's prefix.
    pub(crate) fn take_seen(&self) -> Vec<String> {
        let mut seen = self.shared.seen.lock().expect("nothing panics there");
        seen.drain(..).map(|seen| seen.replace(&format!("/{BUCKET}/{PREFIX}/"), "")).collect()
    }

    /// Lets conditional puts wait until so many have come, and all of them go on at once.
    pub(crate) fn gather(&self, count: usize) {
        *self.shared.gathering.lock().expect("nothing panics there") = Some(Arc::new(Barrier::new(count)));
    }

    /// Does what the next conditional put asks, and answers that it failed.
    pub(crate) fn lose_an_answer(&self) {
        self.shared.loses_an_answer.store(true, SeqCst);
    }

    /// Answers everything with 503.
    pub(crate) fn fall_ill(&self) {
        self.shared.is_ill.store(true, SeqCst);
    }
}

struct Rights;

#[async_trait::async_trait]
impl S3Access for Rights {
    async fn check(&self, asked: &mut S3AccessContext<'_>) -> S3Result<()> {
        match asked.credentials() {
            Some(who) if who.access_key != READER.0 || asked.method() == Method::GET => Ok(()),
            _ => Err(s3s::s3_error!(AccessDenied)),
        }
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn serve(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Body>, HttpError> {
    let asked = format!("{} {}", request.method(), request.uri());
    shared.seen.lock().expect("nothing panics there").push(asked);
    if shared.is_ill.load(SeqCst) {
        return Ok(failed(StatusCode::SERVICE_UNAVAILABLE));
    }
    let is_conditional = request.method() == Method::PUT && request.headers().contains_key(IF_NONE_MATCH);
    let gathering = shared.gathering.lock().expect("nothing panics there").clone().filter(|_| is_conditional);
    if let Some(gathering) = gathering {
        gathering.wait().await;
    }
    // S3 decides in one step whether an object is new. s3s-fs looks first and writes then, and of two at one moment both
    // would win: so it is asked by one after the other.
    let turn = if is_conditional { Some(shared.conditional_put.lock().await) } else { None };
    let request: HttpRequest = request.map(Body::from);
    let response = shared.s3.call(request).await?;
    drop(turn);
    if is_conditional && shared.loses_an_answer.swap(false, SeqCst) {
        return Ok(failed(StatusCode::INTERNAL_SERVER_ERROR));
    }
    Ok(response)
}

fn failed(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}
