//! Against a real HTTP server that behaves, and that misbehaves in each way that a network can.

use super::*;
use axum::{Router, body::Bytes, extract::State, http::HeaderMap, http::StatusCode, routing::post};
use std::{future::ready, sync::Arc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

const PATH: &str = "/2015-03-31/functions/outbox-relay/invocations";
/// What the machine may need beside the limit of a nudge.
const SLACK: Duration = Duration::from_millis(700);

/// An Invoke API that keeps what it was sent.
#[derive(Clone)]
struct Lambda {
    url: String,
    calls: Arc<Mutex<Vec<(HeaderMap, Bytes)>>>,
    answer: Arc<Mutex<StatusCode>>,
}

impl Lambda {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let url = format!("http://{}{PATH}", listener.local_addr().expect("it listens"));
        let lambda = Self { url, calls: Arc::default(), answer: Arc::new(Mutex::new(StatusCode::ACCEPTED)) };
        let router = lambda.router();
        tokio::spawn(async move { axum::serve(listener, router).await });
        lambda
    }

    fn router(&self) -> Router {
        async fn invoke(State(lambda): State<Lambda>, headers: HeaderMap, body: Bytes) -> StatusCode {
            lambda.calls.lock().expect("no holder panics").push((headers, body));
            *lambda.answer.lock().expect("no holder panics")
        }
        Router::new().route(PATH, post(invoke)).with_state(self.clone())
    }

    fn answers(&self, status: StatusCode) {
        *self.answer.lock().expect("no holder panics") = status;
    }

    fn calls(&self) -> usize {
        self.calls.lock().expect("no holder panics").len()
    }
}

fn nudge(url: &str) -> Nudge {
    Nudge::new(Some(url)).expect("the test's address is good")
}

async fn wake(nudge: &Nudge, token: u64) {
    nudge.wake(ready(Some(token))).await;
}

/// Against a server that gives no good answer: nobody waits longer than the limit, and the next commits not at all.
async fn is_borne(url: &str) {
    let nudge = nudge(url);
    let started = Instant::now();
    wake(&nudge, 1).await;
    assert!(started.elapsed() < TIME_LIMIT + SLACK, "{:?}", started.elapsed());
    assert!(nudge.in_trouble.load(Ordering::Relaxed), "it was told");

    let started = Instant::now();
    for _ in 0..1_000 {
        wake(&nudge, 1).await;
    }
    assert!(started.elapsed() < LOST_AFTER, "a thousand commits waited: {:?}", started.elapsed());
}

#[tokio::test]
async fn a_sleeping_relay_is_invoked_asynchronously_for_one_drain() {
    let lambda = Lambda::start().await;

    wake(&nudge(&lambda.url), 0).await;

    let calls = lambda.calls.lock().expect("no holder panics");
    let [(headers, body)] = calls.as_slice() else { panic!("{calls:?}") };
    assert_eq!(headers["x-amz-invocation-type"], "Event");
    assert_eq!(body.as_ref(), b"{}");
    assert!(!headers.contains_key("authorization"), "an emulator wants no signature");
}

#[tokio::test]
async fn a_relay_at_work_is_left_alone() {
    let lambda = Lambda::start().await;

    nudge(&lambda.url).wake(ready(None)).await;

    assert_eq!(lambda.calls(), 0);
}

#[tokio::test]
async fn without_an_address_nobody_is_asked_and_nothing_is_sent() {
    for url in [None, Some("")] {
        let nudge = Nudge::new(url).expect("no address is fine");
        nudge.wake(async { panic!("asked for nothing") }).await;
    }
}

#[tokio::test]
async fn a_token_is_nudged_for_once_however_many_commits_find_it() {
    let lambda = Lambda::start().await;
    let nudge = Arc::new(nudge(&lambda.url));
    let commits: Vec<_> = (0..300)
        .map(|_| {
            let nudge = Arc::clone(&nudge);
            tokio::spawn(async move { wake(&nudge, 7).await })
        })
        .collect();
    for commit in commits {
        commit.await.expect("no commit panics");
    }
    assert_eq!(lambda.calls(), 1);

    // A relay came and went: whoever commits now is not seen by it.
    wake(&nudge, 8).await;
    // And one who had asked before it came, was.
    wake(&nudge, 7).await;
    assert_eq!(lambda.calls(), 2);
}

#[test]
fn a_nudge_that_brings_no_relay_is_sent_again_after_a_second() {
    let nudge = Nudge::default();
    let start = Instant::now();
    let due = |token, after| nudge.is_due(token, start + after);

    assert!(due(7, Duration::ZERO));
    assert!(!due(7, LOST_AFTER - Duration::from_millis(1)));
    assert!(due(7, LOST_AFTER));
    assert!(!due(7, LOST_AFTER * 2 - Duration::from_millis(1)), "the second counts from the second nudge");
    // The database was set back.
    assert!(due(3, LOST_AFTER * 3));
}

#[tokio::test]
async fn trouble_is_told_once_and_ends_with_the_first_nudge_that_arrives() {
    let lambda = Lambda::start().await;
    let nudge = nudge(&lambda.url);
    for (token, status) in
        [(1, StatusCode::FORBIDDEN), (2, StatusCode::TOO_MANY_REQUESTS), (3, StatusCode::OK)]
    {
        lambda.answers(status);
        wake(&nudge, token).await;
        assert!(nudge.in_trouble.load(Ordering::Relaxed), "{status} is no 202");
    }
    assert_eq!(lambda.calls(), 3, "what was refused is not tried again at once");

    lambda.answers(StatusCode::ACCEPTED);
    wake(&nudge, 4).await;

    assert!(!nudge.in_trouble.load(Ordering::Relaxed));
}

#[tokio::test]
async fn a_server_that_fails_costs_one_commit_a_little_and_the_others_nothing() {
    let lambda = Lambda::start().await;
    lambda.answers(StatusCode::INTERNAL_SERVER_ERROR);

    is_borne(&lambda.url).await;

    assert_eq!(lambda.calls(), 1);
}

#[tokio::test]
async fn a_server_that_hangs_costs_one_commit_the_limit_and_the_others_nothing() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");

    is_borne(&format!("http://{}{PATH}", silent.local_addr().expect("it listens"))).await;
}

#[tokio::test]
async fn a_server_that_closes_or_is_not_there_costs_one_commit_a_little_and_the_others_nothing() {
    let closing = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let url = format!("http://{}{PATH}", closing.local_addr().expect("it listens"));
    let closes = tokio::spawn(async move { while closing.accept().await.is_ok() {} });
    is_borne(&url).await;

    closes.abort();
    let _ = closes.await;
    is_borne(&url).await;
}

#[tokio::test]
async fn a_connection_that_died_while_the_process_was_frozen_costs_no_nudge() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let url = format!("http://{}{PATH}", listener.local_addr().expect("it listens"));
    let answered = Arc::new(Mutex::new(0));
    let count = Arc::clone(&answered);
    tokio::spawn(async move {
        // Answers once, promises to stay, and resets the connection as soon as the next request has come.
        while let Ok((mut connection, _)) = listener.accept().await {
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let mut request = [0; 4_096];
                let read = connection.read(&mut request).await.unwrap_or_default();
                if read > 0 {
                    *count.lock().expect("no holder panics") += 1;
                    let _ = connection.write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n").await;
                }
                let _ = connection.read(&mut request).await;
            });
        }
    });
    let nudge = nudge(&url);

    for token in 1..=3 {
        wake(&nudge, token).await;
    }

    assert_eq!(*answered.lock().expect("no holder panics"), 3);
    assert!(!nudge.in_trouble.load(Ordering::Relaxed));
}

#[test]
fn an_address_that_is_none_is_refused_at_the_start() {
    for url in
        ["outbox-relay", "tcp://127.0.0.1:9101/invocations", "http://127.0.0.1:9101", "http:///invocations"]
    {
        let error = Nudge::new(Some(url)).expect_err("it is no address");
        assert!(error.to_string().contains("/2015-03-31/functions/<name>/invocations"), "{error}");
    }
}

mod over_tls {
    use super::*;
    use crate::signature::tests::signer;
    use rustls::{ClientConfig, RootCertStore, ServerConfig, crypto::ring, pki_types::PrivatePkcs8KeyDer};
    use tokio_rustls::TlsAcceptor;

    /// Nudges a server whose certificate the client trusts, or does not.
    async fn nudged(trusted: bool) -> (Lambda, Nudge) {
        let provider = Arc::new(ring::default_provider());
        let made =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate can be made");
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("ring speaks TLS")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .expect("certificate and key fit");
        let mut roots = RootCertStore::empty();
        if trusted {
            roots.add(made.cert.der().clone()).expect("it is a certificate");
        }
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring speaks TLS")
            .with_root_certificates(roots)
            .with_no_client_auth();

        let lambda = Lambda::start().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let port = listener.local_addr().expect("it listens").port();
        let behind = lambda.url.clone();
        tokio::spawn(async move {
            let acceptor = TlsAcceptor::from(Arc::new(server));
            let authority = behind.strip_prefix("http://").and_then(|rest| rest.split('/').next());
            let authority = authority.expect("it has an address").to_owned();
            while let Ok((connection, _)) = listener.accept().await {
                let (acceptor, authority) = (acceptor.clone(), authority.clone());
                tokio::spawn(async move {
                    let Ok(mut plain) = acceptor.accept(connection).await else { return };
                    let mut server = tokio::net::TcpStream::connect(authority).await.expect("it listens");
                    let _ = tokio::io::copy_bidirectional(&mut plain, &mut server).await;
                });
            }
        });
        let uri = format!("https://localhost:{port}{PATH}").parse().expect("it is an address");
        let invoke = Some(Invoke::over(uri, client, Some(signer())));
        let nudge = Nudge { invoke, ..Nudge::default() };
        wake(&nudge, 1).await;
        (lambda, nudge)
    }

    #[tokio::test]
    async fn lambda_itself_gets_a_signed_request() {
        let (lambda, _) = nudged(true).await;

        let calls = lambda.calls.lock().expect("no holder panics");
        let [(headers, _)] = calls.as_slice() else { panic!("{calls:?}") };
        let authorization = headers["authorization"].to_str().expect("headers are text");
        assert!(authorization.contains("/eu-west-1/lambda/aws4_request"), "{authorization}");
        assert!(authorization.contains("host;x-amz-date;x-amz-invocation-type;x-amz-security-token"));
        assert_eq!(headers["x-amz-security-token"], "session-token");
    }

    #[tokio::test]
    async fn a_stranger_gets_nothing() {
        let (lambda, nudge) = nudged(false).await;

        assert_eq!(lambda.calls(), 0);
        assert!(nudge.in_trouble.load(Ordering::Relaxed));
    }
}
