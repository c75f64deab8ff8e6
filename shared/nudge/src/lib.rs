//! Wakes a sleeping relay after a commit: an asynchronous invocation of its function, so that an event need not wait for
//! the next tick of the schedule.
//!
//! A nudge that is lost, late or doubled changes nothing but a latency: the schedule delivers what no nudge was sent for,
//! and a relay that is nudged for nothing finds nothing to do.
//!
//! Few nudges do for many commits. A relay at work needs none; for one that sleeps, a nudge is sent once for each of its
//! fencing tokens, since whichever relay comes next takes a new one and sees all that was committed by then. So a commit
//! that finds the token changed is exactly the one that needs another nudge.
//!
//! Must not: fail a caller, keep him waiting for longer than [`TIME_LIMIT`], or send anything after the call has returned:
//! Lambda freezes the process once it has answered.

mod error;
mod invoke;
mod signature;

pub use error::NudgeError;

use invoke::Invoke;
use std::{
    error::Error,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// For the whole of a nudge: connecting, TLS, the answer, and one more try on a connection that turned out to be dead.
pub const TIME_LIMIT: Duration = Duration::from_millis(300);

/// When a relay has not come for a nudge by then, the nudge counts as lost and the next commit sends another. So while
/// nudges fail, one caller a second waits for that, and not all of them.
pub const LOST_AFTER: Duration = Duration::from_secs(1);

/// Nudges one relay. Share it: what it has sent is known to all who hold the same one.
#[derive(Debug, Default)]
pub struct Nudge {
    /// None: nudges are off.
    invoke: Option<Invoke>,
    last: Mutex<Option<Sent>>,
    /// What the last nudge met was trouble, and was told.
    in_trouble: AtomicBool,
}

/// The last nudge.
#[derive(Clone, Copy, Debug)]
struct Sent {
    token: u64,
    at: Instant,
}

impl Nudge {
    /// Nudges the function at this URL of Lambda's Invoke API, `…/2015-03-31/functions/<name>/invocations`. Without a URL
    /// nothing is ever sent, and the schedule alone delivers.
    ///
    /// `https` is Lambda itself: requests are signed (`AWS_REGION`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
    /// `AWS_SESSION_TOKEN`, as Lambda sets them for each function). `http` is an emulator, which wants no signature.
    ///
    /// Connects to nobody yet.
    ///
    /// # Errors
    /// A URL that is none, or `https` where credentials or root certificates are missing.
    pub fn new(url: Option<&str>) -> Result<Self, NudgeError> {
        let invoke = url.filter(|url| !url.is_empty()).map(Invoke::new).transpose()?;
        if invoke.is_none() {
            tracing::debug!("no address to nudge the relay at, its schedule alone delivers");
        }
        Ok(Self { invoke, ..Self::default() })
    }

    /// Nudges the relay if it sleeps. Call it after the commit and before the answer.
    ///
    /// `sleeping` tells the relay's newest fencing token where no relay is at work, and None where a nudge is of no use. It
    /// is not asked where nudges are off.
    pub async fn wake(&self, sleeping: impl Future<Output = Option<u64>>) {
        let Some(invoke) = &self.invoke else { return };
        let Some(token) = sleeping.await else { return };
        if !self.is_due(token, Instant::now()) {
            return;
        }
        match tokio::time::timeout(TIME_LIMIT, invoke.send()).await {
            Ok(Ok(())) => {
                if self.in_trouble.swap(false, Ordering::Relaxed) {
                    tracing::info!("relay is nudged again");
                }
                tracing::debug!(token, "relay nudged");
            }
            Ok(Err(failure)) => self.trouble(&failure),
            Err(elapsed) => self.trouble(&elapsed),
        }
    }

    /// False for a token that somebody has just nudged for. An older one is that of a caller who was overtaken between
    /// asking and sending: the relay that took the newer token came after his commit.
    fn is_due(&self, token: u64, now: Instant) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let on_its_way =
            last.is_some_and(|last| token <= last.token && now.duration_since(last.at) < LOST_AFTER);
        if !on_its_way {
            *last = Some(Sent { token, at: now });
        }
        !on_its_way
    }

    /// Told once, until a nudge arrives again: an outage must not fill the log.
    fn trouble(&self, error: &dyn Error) {
        let error = chain(error);
        if self.in_trouble.swap(true, Ordering::Relaxed) {
            tracing::debug!(error, "relay not nudged");
        } else {
            tracing::warn!(error, "relay not nudged, events wait for its next tick");
        }
    }
}

/// The error and its causes in one line, outermost first.
fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        source = cause.source();
    }
    line
}

#[cfg(test)]
mod tests;
