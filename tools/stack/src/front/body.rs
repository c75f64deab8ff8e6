//! A request's body as a blocking reader, and a response's as a blocking writer: the engine is driven
//! from a thread, the network from the runtime.

use std::io::{self, Read};
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::compress::NativeReader;
use super::error::{Exception, code};
use super::request::Request;

/// How long the client may stay silent while its body is read, or refuse to take what it asked for.
/// ClickHouse's `http_receive_timeout` and `http_send_timeout` are 30 s; a loader that fills a batch
/// slowly gets more.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long the rest of a body is read and thrown away after an error, so that the client, still
/// writing, gets to read the answer.
const DRAIN: Duration = Duration::from_secs(10);

/// Reads the body as it comes.
pub(crate) struct BodyReader {
    stream: BodyDataStream,
    runtime: Handle,
    current: Bytes,
}

impl BodyReader {
    pub(crate) fn new(body: Body, runtime: Handle) -> Self {
        Self { stream: body.into_data_stream(), runtime, current: Bytes::new() }
    }

    /// See [`drain`].
    pub(crate) fn drain(&mut self) {
        self.runtime.block_on(drain(&mut self.stream));
    }
}

/// Reads what is left of a body and throws it away, for a while. Past that the connection is closed, which
/// is all that can be done.
pub(crate) async fn drain(stream: &mut BodyDataStream) {
    let rest = async { while let Some(Ok(_)) = stream.next().await {} };
    let _ = tokio::time::timeout(DRAIN, rest).await;
}

impl Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            let next = self.stream.next();
            match self.runtime.block_on(async { tokio::time::timeout(PATIENCE, next).await }) {
                Ok(Some(Ok(bytes))) => self.current = bytes,
                Ok(Some(Err(error))) => {
                    let message =
                        format!("the client broke off within its body ({error}); nothing more is inserted");
                    return Err(Exception::new(code::NETWORK_ERROR, "NETWORK_ERROR", message).into());
                }
                Ok(None) => return Ok(0),
                Err(_) => {
                    let message = format!("no byte of the body for {} s", PATIENCE.as_secs());
                    return Err(Exception::new(code::SOCKET_TIMEOUT, "SOCKET_TIMEOUT", message).into());
                }
            }
        }
        let count = buffer.len().min(self.current.len());
        buffer[..count].copy_from_slice(&self.current.split_to(count));
        Ok(count)
    }
}

/// The body with its compression taken off.
pub(crate) fn decoded<'r>(
    body: &'r mut BodyReader,
    request: &Request,
) -> Result<Box<dyn Read + 'r>, Exception> {
    let body: Box<dyn Read + 'r> = match request.encoding.as_deref() {
        None | Some("" | "identity") => Box::new(body),
        Some("lz4") => Box::new(lz4_flex::frame::FrameDecoder::new(body)),
        Some(other) => {
            let message = format!("Content-Encoding {other}: this server takes lz4 or none");
            let name = "UNKNOWN_COMPRESSION_METHOD";
            return Err(Exception::new(code::UNKNOWN_COMPRESSION_METHOD, name, message));
        }
    };
    Ok(if request.compressed { Box::new(NativeReader::new(body)) } else { body })
}

/// The response's body was given up: the client must not take it for a whole one.
#[derive(Debug, thiserror::Error)]
#[error("the query failed after its result had begun")]
pub(crate) struct Broken;

/// Sends pieces of a response's body, waiting while the client is slow.
pub(crate) struct BodyWriter {
    pub(crate) sender: mpsc::Sender<Result<Bytes, Broken>>,
    pub(crate) runtime: Handle,
}

impl BodyWriter {
    /// `false`: the client is gone, or takes nothing.
    pub(crate) fn send(&self, piece: Result<Bytes, Broken>) -> bool {
        let sent = async { tokio::time::timeout(PATIENCE, self.sender.send(piece)).await };
        matches!(self.runtime.block_on(sent), Ok(Ok(())))
    }
}
