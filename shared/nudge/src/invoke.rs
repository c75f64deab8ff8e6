//! One asynchronous invocation by Lambda's Invoke API.
//!
//! The client is hyper's, which every function carries already for Lambda's runtime API, with rustls on ring: see
//! `docs/adr/0006-nudge-after-commit.md` for what an SDK would bring.

use crate::{
    error::{Lost, NudgeError},
    signature::Signer,
};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, Uri, header, uri::Scheme};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use std::sync::Arc;

/// What the relay takes as "one drain, now".
const TICK: &[u8] = b"{}";
/// So much of a refusal is logged.
const ANSWER_BYTES: usize = 1_000;
/// A connection that stood idle while Lambda froze the process is often dead by the time it is used.
const TRIES: u32 = 2;

#[derive(Debug)]
pub(crate) struct Invoke {
    uri: Uri,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    /// None for an emulator.
    signer: Option<Signer>,
}

impl Invoke {
    pub(crate) fn new(url: &str) -> Result<Self, NudgeError> {
        let bad_url = || NudgeError::Url(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| bad_url())?;
        let signed = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => return Err(bad_url()),
        };
        if uri.host().is_none_or(str::is_empty) || !uri.path().ends_with("/invocations") {
            return Err(bad_url());
        }
        let signer = signed.then(|| Signer::from_vars(std::env::vars())).transpose()?;
        let trust = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(NudgeError::Tls)?;
        let trust = if signed {
            trust.with_native_roots().map_err(NudgeError::RootCertificates)?
        } else {
            // Nobody has to be trusted: no certificate is read.
            trust.with_root_certificates(RootCertStore::empty())
        };
        Ok(Self::over(uri, trust.with_no_client_auth(), signer))
    }

    pub(crate) fn over(uri: Uri, tls: ClientConfig, signer: Option<Signer>) -> Self {
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        Self { uri, client: Client::builder(TokioExecutor::new()).build(connector), signer }
    }

    /// Takes as long as it takes: the caller limits it.
    pub(crate) async fn send(&self) -> Result<(), Lost> {
        let mut tries = 1;
        let answer = loop {
            match self.client.request(self.request()?).await {
                Ok(answer) => break answer,
                // Twice is as good as once: the second finds nothing to do.
                Err(error) if tries < TRIES => {
                    tracing::debug!(%error, "nudge met a dead connection, trying another");
                    tries += 1;
                }
                Err(error) => return Err(Lost::Send(error)),
            }
        };
        let status = answer.status();
        // Read to its end, so that the connection can be used again.
        let body = Limited::new(answer.into_body(), ANSWER_BYTES).collect().await;
        if status == StatusCode::ACCEPTED {
            return Ok(());
        }
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        Err(Lost::Refused { status, answer: String::from_utf8_lossy(&body).into_owned() })
    }

    fn request(&self) -> Result<Request<Full<Bytes>>, Lost> {
        let mut request = Request::new(Full::new(Bytes::from_static(TICK)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert("x-amz-invocation-type", HeaderValue::from_static("Event"));
        if let Some(signer) = &self.signer {
            signer.sign(&mut request, TICK, std::time::SystemTime::now())?;
        }
        Ok(request)
    }
}
