//! The C interface of `libchdb.so`, opened at run time: the only file of this package with `unsafe`.
//!
//! The signatures are those of `chdb.h` 26.7. libchdb 26.5 lacks the streaming insert; [`Engine::open`]
//! then names the missing symbol instead of running without it.
//!
//! What the engine guarantees, and what this module holds it to: one path a process; any number of
//! connections to it, side by side; one statement at a time on each of them. A connection is a session:
//! its settings, current database and temporary tables die with it. Opening one costs a tenth of a
//! millisecond.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Mutex;

/// `chdb_connection`: what the query functions take.
type RawConnection = *mut c_void;
/// `chdb_result *`.
type RawResult = *mut c_void;
/// `chdb_insert_stream`.
type RawInsert = *mut c_void;
/// `CHDBSuccess` of `chdb_state`.
const SUCCESS: c_int = 0;

type Connect = unsafe extern "C" fn(c_int, *mut *mut c_char) -> *mut RawConnection;
type Close = unsafe extern "C" fn(*mut RawConnection);
type Run<T> = unsafe extern "C" fn(
    RawConnection,
    *const c_char,
    usize,
    *const c_char,
    usize,
    *const *const c_char,
    *const usize,
    *const *const c_char,
    *const usize,
    usize,
) -> T;
type Count = unsafe extern "C" fn(RawResult) -> u64;

/// The functions used, resolved once. The library is never unloaded (its threads outlive every
/// connection), so the pointers stay valid for the life of the process.
#[derive(Clone, Copy)]
struct Api {
    connect: Connect,
    close: Close,
    query: Run<RawResult>,
    stream: Run<RawResult>,
    fetch: unsafe extern "C" fn(RawConnection, RawResult) -> RawResult,
    cancel: unsafe extern "C" fn(RawConnection, RawResult),
    insert: Run<RawInsert>,
    append: unsafe extern "C" fn(RawInsert, *const c_void, usize) -> c_int,
    done: unsafe extern "C" fn(RawInsert) -> RawResult,
    insert_error: unsafe extern "C" fn(RawInsert) -> *const c_char,
    destroy_insert: unsafe extern "C" fn(RawInsert),
    buffer: unsafe extern "C" fn(RawResult) -> *mut c_char,
    length: unsafe extern "C" fn(RawResult) -> usize,
    error: unsafe extern "C" fn(RawResult) -> *const c_char,
    rows: Count,
    read_rows: Count,
    read_bytes: Count,
    written_rows: Count,
    written_bytes: Count,
    destroy: unsafe extern "C" fn(RawResult),
}

/// Why the engine could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// `dlopen` refused the file.
    #[error("cannot open {}", path.display())]
    Open {
        /// The library asked for.
        path: PathBuf,
        /// What the loader said.
        #[source]
        source: libloading::Error,
    },
    /// The library is older than the interface used here.
    #[error("{} has no {symbol}: take libchdb 26.7 or newer", path.display())]
    Symbol {
        /// The library asked for.
        path: PathBuf,
        /// The function that is not in it.
        symbol: &'static str,
        /// What the loader said.
        #[source]
        source: libloading::Error,
    },
    /// The path holds a NUL byte.
    #[error("the data directory {} has a NUL byte in its name", .0.display())]
    Path(PathBuf),
    /// `chdb_connect` returned nothing; the engine doesn't say why.
    #[error("libchdb refused to open {}: is it writable, and not in use by another process?", .0.display())]
    Connect(PathBuf),
}

/// What the engine says about a statement that failed: `Code: 60. DB::Exception: …`.
pub(crate) type Failure = String;

/// libchdb on one data directory. Holds one connection open, so that the engine's background work
/// (merges, refreshable views) goes on between requests.
pub(crate) struct Engine {
    api: Api,
    data: PathBuf,
    arguments: Vec<CString>,
    anchor: Mutex<Option<Connection>>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("data", &self.data).finish_non_exhaustive()
    }
}

impl Engine {
    /// Loads the library and opens `data`, which it creates when absent.
    pub(crate) fn open(library: &Path, data: &Path) -> Result<Self, EngineError> {
        let path = CString::new(format!("--path={}", data.display()))
            .map_err(|_| EngineError::Path(data.to_owned()))?;
        let api = Api::load(library)?;
        let engine = Self {
            api,
            data: data.to_owned(),
            arguments: vec![CString::from(c"clickhouse"), path],
            anchor: Mutex::new(None),
        };
        let anchor = engine.connect()?;
        *engine.anchor.lock().expect("nothing panics while holding the anchor") = Some(anchor);
        Ok(engine)
    }

    /// A session of its own: nothing of an earlier one is left in it.
    pub(crate) fn connect(&self) -> Result<Connection, EngineError> {
        let mut arguments: Vec<*mut c_char> =
            self.arguments.iter().map(|argument| argument.as_ptr().cast_mut()).collect();
        let count = c_int::try_from(arguments.len()).expect("there are two arguments");
        // SAFETY: `arguments` holds `count` NUL-terminated strings that outlive the call; chdb_connect
        // copies them and never writes through them. It may be called from any thread.
        let handle = unsafe { (self.api.connect)(count, arguments.as_mut_ptr()) };
        let handle = NonNull::new(handle).ok_or_else(|| EngineError::Connect(self.data.clone()))?;
        Ok(Connection { api: self.api, handle })
    }

    /// Closes the last connection. Call it when no other one is open: the engine then stops its work.
    pub(crate) fn close(&self) {
        self.anchor.lock().expect("nothing panics while holding the anchor").take();
    }
}

impl Api {
    fn load(path: &Path) -> Result<Self, EngineError> {
        // SAFETY: the library's initialisers set up its allocator and registries and expect nothing of
        // the process. It is the file that the operator named.
        let library = unsafe { libloading::Library::new(path) }
            .map_err(|source| EngineError::Open { path: path.to_owned(), source })?;
        macro_rules! symbol {
            ($name:literal) => {
                // SAFETY: the type of the field that takes it is the signature in chdb.h.
                *unsafe { library.get($name.as_bytes()) }.map_err(|source| EngineError::Symbol {
                    path: path.to_owned(),
                    symbol: $name,
                    source,
                })?
            };
        }
        let signals: unsafe extern "C" fn(c_int) = symbol!("chdb_set_signal_handlers_enabled");
        let api = Self {
            connect: symbol!("chdb_connect"),
            close: symbol!("chdb_close_conn"),
            query: symbol!("chdb_query_with_params_n"),
            stream: symbol!("chdb_stream_query_with_params_n"),
            fetch: symbol!("chdb_stream_fetch_result"),
            cancel: symbol!("chdb_stream_cancel_query"),
            insert: symbol!("chdb_stream_insert_with_params_n"),
            append: symbol!("chdb_stream_append"),
            done: symbol!("chdb_stream_done"),
            insert_error: symbol!("chdb_stream_insert_error"),
            destroy_insert: symbol!("chdb_destroy_insert_stream"),
            buffer: symbol!("chdb_result_buffer"),
            length: symbol!("chdb_result_length"),
            error: symbol!("chdb_result_error"),
            rows: symbol!("chdb_result_rows_read"),
            read_rows: symbol!("chdb_result_storage_rows_read"),
            read_bytes: symbol!("chdb_result_storage_bytes_read"),
            written_rows: symbol!("chdb_result_rows_written"),
            written_bytes: symbol!("chdb_result_bytes_written"),
            destroy: symbol!("chdb_destroy_query_result"),
        };
        // SAFETY: called before the first chdb_connect, as chdb.h asks: SIGTERM stays ours.
        unsafe { signals(0) };
        std::mem::forget(library);
        Ok(api)
    }
}

/// One session. It may move between threads, and runs one statement at a time (`&mut`).
pub(crate) struct Connection {
    api: Api,
    handle: NonNull<RawConnection>,
}

// SAFETY: the engine binds nothing of a connection to a thread between calls, and every call takes
// `&mut self`, so that no two of them run at once.
unsafe impl Send for Connection {}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: `handle` came from chdb_connect and is closed once, here; the streams borrow the
        // connection, so none of them is alive.
        unsafe { (self.api.close)(self.handle.as_ptr()) }
    }
}

impl Connection {
    fn raw(&self) -> RawConnection {
        // SAFETY: `handle` points at the connection until `drop` closes it.
        unsafe { *self.handle.as_ptr() }
    }

    /// Runs `sql` and returns its whole result. `format` is used where `sql` names none.
    pub(crate) fn query(
        &mut self,
        sql: &[u8],
        format: &str,
        parameters: &[(String, String)],
    ) -> Result<Chunk, Failure> {
        let result = self.run(self.api.query, sql, format, parameters);
        Chunk::new(self.api, result)
    }

    /// Starts a SELECT whose result comes in chunks. Every chunk is a document of its own: with its
    /// header where the format has one.
    pub(crate) fn stream(
        &mut self,
        sql: &[u8],
        format: &str,
        parameters: &[(String, String)],
    ) -> Result<SelectStream<'_>, Failure> {
        let result = self.run(self.api.stream, sql, format, parameters);
        let head = Chunk::new(self.api, result)?;
        Ok(SelectStream { connection: self, head })
    }

    /// Starts an INSERT whose data follows through [`InsertStream::append`]. `sql` ends before its
    /// `FORMAT` or `VALUES`.
    pub(crate) fn insert(
        &mut self,
        sql: &[u8],
        format: &str,
        parameters: &[(String, String)],
    ) -> Result<InsertStream<'_>, Failure> {
        let handle = self.run(self.api.insert, sql, format, parameters);
        let stream = InsertStream { connection: self, handle };
        match stream.error() {
            Some(failure) => Err(failure),
            None => Ok(stream),
        }
    }

    fn run<T>(&mut self, function: Run<T>, sql: &[u8], format: &str, parameters: &[(String, String)]) -> T {
        let names: Vec<*const c_char> = parameters.iter().map(|(name, _)| name.as_ptr().cast()).collect();
        let name_lengths: Vec<usize> = parameters.iter().map(|(name, _)| name.len()).collect();
        let values: Vec<*const c_char> = parameters.iter().map(|(_, value)| value.as_ptr().cast()).collect();
        let value_lengths: Vec<usize> = parameters.iter().map(|(_, value)| value.len()).collect();
        // SAFETY: the connection is open; every pointer is valid for the length that goes with it until
        // the call returns, and the engine copies what it keeps.
        unsafe {
            function(
                self.raw(),
                sql.as_ptr().cast(),
                sql.len(),
                format.as_ptr().cast(),
                format.len(),
                names.as_ptr(),
                name_lengths.as_ptr(),
                values.as_ptr(),
                value_lengths.as_ptr(),
                parameters.len(),
            )
        }
    }
}

/// A result, or a piece of one.
pub(crate) struct Chunk {
    api: Api,
    result: RawResult,
}

/// Rows and bytes that a statement went through.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Progress {
    pub(crate) result_rows: u64,
    pub(crate) read_rows: u64,
    pub(crate) read_bytes: u64,
    pub(crate) written_rows: u64,
    pub(crate) written_bytes: u64,
}

impl Chunk {
    fn new(api: Api, result: RawResult) -> Result<Self, Failure> {
        let chunk = Self { api, result };
        // SAFETY: `result` is alive until `chunk` is dropped; a null one gives a null message.
        match text(unsafe { (api.error)(result) }) {
            Some(failure) => Err(failure),
            None => Ok(chunk),
        }
    }

    /// The formatted rows.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: both take a live result; the buffer belongs to it and isn't changed any more.
        unsafe {
            let buffer = (self.api.buffer)(self.result);
            if buffer.is_null() {
                return &[];
            }
            std::slice::from_raw_parts(buffer.cast(), (self.api.length)(self.result))
        }
    }

    pub(crate) fn progress(&self) -> Progress {
        // SAFETY: all of them take a live result.
        unsafe {
            Progress {
                result_rows: (self.api.rows)(self.result),
                read_rows: (self.api.read_rows)(self.result),
                read_bytes: (self.api.read_bytes)(self.result),
                written_rows: (self.api.written_rows)(self.result),
                written_bytes: (self.api.written_bytes)(self.result),
            }
        }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: the result is owned by this value and destroyed once; null is allowed.
        unsafe { (self.api.destroy)(self.result) }
    }
}

/// A SELECT that is running. Dropping it cancels what is left.
pub(crate) struct SelectStream<'c> {
    connection: &'c mut Connection,
    head: Chunk,
}

impl SelectStream<'_> {
    /// The next chunk; `None` after the last one.
    pub(crate) fn next(&mut self) -> Result<Option<Chunk>, Failure> {
        let api = self.connection.api;
        // SAFETY: the connection and its stream are alive, and `&mut self` keeps calls apart. Fetching
        // beyond the end is allowed.
        let result = unsafe { (api.fetch)(self.connection.raw(), self.head.result) };
        let chunk = Chunk::new(api, result)?;
        Ok((!chunk.bytes().is_empty()).then_some(chunk))
    }
}

impl Drop for SelectStream<'_> {
    fn drop(&mut self) {
        // SAFETY: as in `next`; cancelling a stream that has ended does nothing.
        unsafe { (self.connection.api.cancel)(self.connection.raw(), self.head.result) }
    }
}

/// An INSERT that is taking data. Dropping it without [`InsertStream::done`] cancels it: blocks that
/// were already written stay, as ClickHouse has it, and the one being filled is thrown away.
pub(crate) struct InsertStream<'c> {
    connection: &'c mut Connection,
    handle: RawInsert,
}

impl InsertStream<'_> {
    /// Hands over a piece of the body. Blocks while the engine is behind. `false`: the insert has
    /// failed, and [`InsertStream::done`] says why.
    pub(crate) fn append(&mut self, data: &[u8]) -> bool {
        // SAFETY: the handle is alive, the bytes are valid during the call and copied by it.
        let state = unsafe { (self.connection.api.append)(self.handle, data.as_ptr().cast(), data.len()) };
        state == SUCCESS
    }

    /// Ends the body and waits until its rows are written.
    pub(crate) fn done(self) -> Result<Progress, Failure> {
        // SAFETY: the handle is alive; done leaves its destruction to `drop`.
        let result = unsafe { (self.connection.api.done)(self.handle) };
        Chunk::new(self.connection.api, result).map(|chunk| chunk.progress())
    }

    fn error(&self) -> Option<Failure> {
        // SAFETY: the handle is alive; it is never null.
        text(unsafe { (self.connection.api.insert_error)(self.handle) })
    }
}

impl Drop for InsertStream<'_> {
    fn drop(&mut self) {
        // SAFETY: destroyed once; chdb.h: "cancels first if not finalized".
        unsafe { (self.connection.api.destroy_insert)(self.handle) }
    }
}

fn text(message: *const c_char) -> Option<Failure> {
    if message.is_null() {
        return None;
    }
    // SAFETY: the engine's messages are NUL-terminated and live as long as the handle they came from,
    // which the caller holds.
    Some(unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned())
}
