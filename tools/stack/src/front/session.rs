//! One request from its first byte to its last, on a thread of its own: a fresh connection, the
//! settings, then a SELECT that is streamed out, an INSERT that is streamed in, or anything else.
//!
//! A request is a session: whatever it sets ends with its connection, so that nothing of one request
//! can reach another.

use std::borrow::Cow;
use std::io::Read;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::body::{BodyReader, BodyWriter, Broken, decoded};
use super::chdb::{Chunk, Connection, Engine, Progress, SelectStream};
use super::compress::{Coding, Encoder, fill};
use super::error::{Exception, code};
use super::format::{self, Chunks};
use super::native;
use super::request::Request;
use super::sql::{self, Head, Insert, Query, Verb};
use super::users::User;

/// The longest statement, without an INSERT's data. The engine's own `max_query_size` (256 KiB) counts
/// what it parses; this bounds what is kept in memory.
const MAX_STATEMENT: usize = 16 * 1024 * 1024;
/// How much of the body is read while the statement's head is looked for.
const HEAD_STEP: usize = 16 * 1024;
/// How much of an INSERT's body is handed over at once.
const INSERT_STEP: usize = 256 * 1024;
/// Pieces of a response that may wait for the client.
const PENDING: usize = 2;
/// The settings in which the embedded engine differs from the server.
const AS_SERVER: &str = "implicit_select = 0, allow_introspection_functions = 0";

/// What the response says before its body.
pub(crate) struct Answer {
    pub(crate) format: String,
    /// The session's time zone, where the request or the user sets one.
    pub(crate) timezone: Option<String>,
    pub(crate) progress: Progress,
    pub(crate) body: Answered,
}

/// A response's body.
pub(crate) enum Answered {
    /// All of it.
    Whole(Bytes),
    /// The rest follows; an exception within is marked with this tag.
    Stream { pieces: mpsc::Receiver<Result<Bytes, Broken>>, tag: String },
}

/// A request with what it needs to run.
pub(crate) struct Session<'e> {
    pub(crate) engine: &'e Engine,
    pub(crate) user: &'e User,
    pub(crate) request: Request,
    pub(crate) version: &'e str,
}

impl Session<'_> {
    /// Runs the request; `reply` gets the answer, or what went wrong before the first byte of it.
    pub(crate) fn run(mut self, mut body: BodyReader, reply: oneshot::Sender<Result<Answer, Exception>>) {
        let mut reply = Some(reply);
        if let Err(exception) = self.answer(&mut body, &mut reply) {
            body.drain();
            if let Some(reply) = reply {
                // The client may be gone by now.
                let _ = reply.send(Err(exception));
            }
        }
    }

    fn answer(&mut self, body: &mut BodyReader, reply: &mut Reply) -> Result<(), Exception> {
        if let Some(boundary) = self.request.boundary.take() {
            let mut form = Vec::new();
            read_statement(&mut decoded(body, &self.request)?, &mut form, |_, complete| complete)?;
            self.request.take_form(&form, &boundary)?;
        }
        let runtime = tokio::runtime::Handle::current();
        let mut text = std::mem::take(&mut self.request.query).into_bytes();
        if !text.is_empty() {
            text.push(b'\n');
        }
        let mut data = decoded(body, &self.request)?;
        let mut insert = None;
        read_statement(&mut data, &mut text, |text, complete| match sql::head(text, complete) {
            Head::More => false,
            Head::Other => complete,
            Head::Insert(found) => {
                insert = Some(found);
                true
            }
        })?;
        match insert {
            Some(insert) => {
                let mut connection = self.connect()?;
                let answer = self.insert(&mut connection, &text, &insert, &mut data)?;
                finish(reply, answer);
                Ok(())
            }
            None => {
                let query = sql::query(&text)?;
                self.check_rights(&query)?;
                let mut connection = self.connect()?;
                self.query(&mut connection, &text, &query, reply, &runtime)
            }
        }
    }

    /// A connection with the user's settings and then the request's, as ClickHouse applies them.
    fn connect(&self) -> Result<Connection, Exception> {
        let mut connection = self
            .engine
            .connect()
            .map_err(|error| Exception::new(code::UNKNOWN_EXCEPTION, "UNKNOWN_EXCEPTION", error))?;
        let mut script = String::new();
        if let Some(database) = &self.request.database {
            script.push_str(&format!("USE {};", sql::identifier(database)));
        }
        script.push_str(&format!("SET {AS_SERVER}"));
        for (name, value) in &self.user.settings {
            script.push_str(&format!(", {name} = {}", sql::literal(value)));
        }
        script.push(';');
        let settings: Vec<String> = self
            .request
            .settings
            .iter()
            .map(|(name, value)| format!("{name} = {}", sql::literal(value)))
            .collect();
        let settings =
            if settings.is_empty() { String::new() } else { format!("SET {};", settings.join(", ")) };
        // A reader can't leave `readonly`, so it comes before what the request asks for. A GET reads
        // by any user, unless the request itself says how.
        if self.user.readonly {
            script.push_str(&format!("SET readonly = 2;{settings}"));
        } else if self.request.reads && !self.request.settings.iter().any(|(name, _)| name == "readonly") {
            script.push_str(&format!("{settings}SET readonly = 2;"));
        } else {
            script.push_str(&settings);
        }
        connection.query(script.as_bytes(), "Null", &[]).map_err(Exception::engine)?;
        Ok(connection)
    }

    fn reads_only(&self) -> bool {
        self.user.readonly || self.request.reads
    }

    /// What the engine's `readonly` leaves open: `INSERT INTO FUNCTION` and reading files.
    fn check_rights(&self, query: &Query) -> Result<(), Exception> {
        if query.verb == Verb::Write && self.reads_only() {
            return Err(readonly(self.request.reads));
        }
        match &query.outside {
            Some(function) if self.user.readonly => {
                let message = format!(
                    "{}: Not enough privileges: {function}() reaches outside the database",
                    self.user.name
                );
                Err(Exception::new(code::ACCESS_DENIED, "ACCESS_DENIED", message))
            }
            _ => Ok(()),
        }
    }

    fn insert(
        &self,
        connection: &mut Connection,
        text: &[u8],
        insert: &Insert,
        data: &mut dyn Read,
    ) -> Result<Answer, Exception> {
        if self.reads_only() {
            return Err(readonly(self.request.reads));
        }
        let statement = &text[..insert.statement];
        let mut stream = connection
            .insert(statement, &insert.format, &self.request.parameters)
            .map_err(Exception::engine)?;
        let mut alive = text.len() == insert.data || stream.append(&text[insert.data..]);
        let mut step = vec![0; INSERT_STEP];
        while alive {
            // An error here drops the stream, which cancels it.
            match fill(&mut &mut *data, &mut step)? {
                0 => break,
                count => alive = stream.append(&step[..count]),
            }
        }
        let progress = stream.done().map_err(Exception::engine)?;
        Ok(Answer {
            format: self.request.format.clone(),
            timezone: self.timezone(),
            progress,
            body: Answered::Whole(Bytes::new()),
        })
    }

    fn query(
        &self,
        connection: &mut Connection,
        text: &[u8],
        query: &Query,
        reply: &mut Reply,
        runtime: &tokio::runtime::Handle,
    ) -> Result<(), Exception> {
        let format = query.format.as_deref().unwrap_or(&self.request.format);
        let chunks = if query.verb == Verb::Select && !self.request.wait {
            format::chunks(format)
        } else {
            Chunks::Whole
        };
        let parameters = &self.request.parameters;
        if chunks == Chunks::Whole {
            let chunk = connection.query(text, format, parameters).map_err(Exception::engine)?;
            let answer = self.whole(format, &[&chunk])?;
            finish(reply, answer);
            return Ok(());
        }
        let mut stream = connection.stream(text, format, parameters).map_err(Exception::engine)?;
        // Two chunks are waited for: a result of one chunk goes out whole, with its length and summary,
        // and an error within the first rows still gets its status.
        let first = stream.next().map_err(Exception::engine)?;
        let second = if first.is_some() { stream.next().map_err(Exception::engine)? } else { None };
        let (Some(first), Some(second)) = (&first, second) else {
            let found: Vec<&Chunk> = first.iter().collect();
            let answer = self.whole(format, &found)?;
            finish(reply, answer);
            return Ok(());
        };
        let (sender, pieces) = mpsc::channel(PENDING);
        let tag = uuid::Uuid::now_v7().simple().to_string()[16..].to_owned();
        let answer = Answer {
            format: format.to_owned(),
            timezone: self.timezone(),
            progress: add(first.progress(), second.progress()),
            body: Answered::Stream { pieces, tag: tag.clone() },
        };
        finish(reply, answer);
        let writer = BodyWriter { sender, runtime: runtime.clone() };
        let mut encoder = Encoder::new(self.request.coding);
        let sent = self.send(format, &writer, &mut encoder, &mut stream, [first, &second], chunks);
        match sent {
            Ok(false) => {}
            Ok(true) => {
                let end = encoder.finish()?;
                if !end.is_empty() {
                    writer.send(Ok(end.into()));
                }
            }
            Err(exception) => {
                let text = exception.body(self.version);
                let block =
                    format!("\r\n__exception__\r\n{tag}\r\n{text}{} {tag}\r\n__exception__\r\n", text.len());
                let piece = encoder.encode(block.as_bytes())?;
                if writer.send(Ok(piece.into())) {
                    writer.send(Err(Broken));
                }
            }
        }
        Ok(())
    }

    /// Sends all chunks; `false` when the client has gone.
    fn send(
        &self,
        format: &str,
        writer: &BodyWriter,
        encoder: &mut Encoder,
        stream: &mut SelectStream<'_>,
        ready: [&Chunk; 2],
        chunks: Chunks,
    ) -> Result<bool, Exception> {
        let mut piece = |bytes: &[u8]| -> Result<bool, Exception> {
            Ok(writer.send(Ok(encoder.encode(&self.shaped(format, bytes)?)?.into())))
        };
        let [first, second] = ready;
        if !piece(first.bytes())? || !piece(&second.bytes()[chunks.header(second.bytes())..])? {
            return Ok(false);
        }
        while let Some(chunk) = stream.next().map_err(Exception::engine)? {
            let bytes = chunk.bytes();
            if !piece(&bytes[chunks.header(bytes)..])? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn whole(&self, format: &str, chunks: &[&Chunk]) -> Result<Answer, Exception> {
        let mut encoder = Encoder::new(self.request.coding);
        let mut bytes = Vec::new();
        let mut progress = Progress::default();
        for chunk in chunks {
            bytes.extend(encoder.encode(&self.shaped(format, chunk.bytes())?)?);
            progress = add(progress, chunk.progress());
        }
        bytes.extend(encoder.finish()?);
        Ok(Answer {
            format: format.to_owned(),
            timezone: self.timezone(),
            progress,
            body: Answered::Whole(bytes.into()),
        })
    }

    /// Rows as the client's protocol revision wants them.
    fn shaped<'b>(&self, format: &str, bytes: &'b [u8]) -> Result<Cow<'b, [u8]>, Exception> {
        if self.request.revision > 0 && format.eq_ignore_ascii_case("Native") {
            native::for_revision(bytes, self.request.revision).map(Cow::Owned)
        } else {
            Ok(Cow::Borrowed(bytes))
        }
    }

    fn timezone(&self) -> Option<String> {
        let of = |name: &String, value: &String| {
            (name == "session_timezone" && !value.is_empty()).then(|| value.clone())
        };
        let asked = self.request.settings.iter().rev().find_map(|(name, value)| of(name, value));
        asked.or_else(|| self.user.settings.iter().find_map(|(name, value)| of(name, value)))
    }
}

type Reply = Option<oneshot::Sender<Result<Answer, Exception>>>;

fn finish(reply: &mut Reply, answer: Answer) {
    if let Some(reply) = reply.take() {
        // A client that has gone gets no answer.
        let _ = reply.send(Ok(answer));
    }
}

fn readonly(get: bool) -> Exception {
    let message = if get {
        "Cannot execute query in readonly mode. For queries over HTTP, method GET implies readonly. \
         You should use method POST for modifying queries"
    } else {
        "Cannot execute query in readonly mode"
    };
    Exception::new(code::READONLY, "READONLY", message)
}

fn add(left: Progress, right: Progress) -> Progress {
    Progress {
        result_rows: left.result_rows + right.result_rows,
        read_rows: left.read_rows + right.read_rows,
        read_bytes: left.read_bytes + right.read_bytes,
        written_rows: left.written_rows + right.written_rows,
        written_bytes: left.written_bytes + right.written_bytes,
    }
}

/// Reads into `text` until `enough` says so; `enough` learns whether the body has ended.
fn read_statement(
    body: &mut dyn Read,
    text: &mut Vec<u8>,
    mut enough: impl FnMut(&[u8], bool) -> bool,
) -> Result<(), Exception> {
    // The head is looked for again when the text has doubled: reading stays linear.
    let mut step = HEAD_STEP;
    if enough(text, false) {
        return Ok(());
    }
    loop {
        let old = text.len();
        text.resize(old + step, 0);
        let count = fill(&mut &mut *body, &mut text[old..])?;
        text.truncate(old + count);
        let complete = count < step;
        // Before the answer: a statement that has just grown too long is too long.
        if text.len() > MAX_STATEMENT {
            let message = format!(
                "the statement is over {MAX_STATEMENT} bytes: send data as an INSERT's body, or filter by a table"
            );
            return Err(Exception::new(code::QUERY_IS_TOO_LARGE, "QUERY_IS_TOO_LARGE", message));
        }
        if enough(text, complete) || complete {
            return Ok(());
        }
        step = text.len();
    }
}

/// The name of a response's compression, for `Content-Encoding`.
pub(crate) fn content_encoding(coding: Coding) -> Option<&'static str> {
    (coding == Coding::Lz4Frame).then_some("lz4")
}
