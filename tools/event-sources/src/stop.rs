//! The wish to stop, known to every task.

use tokio::sync::watch;

/// Asks all holders of a [`Stop`] to end.
#[derive(Debug)]
pub(crate) struct Stopper(watch::Sender<bool>);

/// Tells its holder when to end.
#[derive(Clone, Debug)]
pub(crate) struct Stop(watch::Receiver<bool>);

pub(crate) fn channel() -> (Stopper, Stop) {
    let (sender, receiver) = watch::channel(false);
    (Stopper(sender), Stop(receiver))
}

impl Stopper {
    pub(crate) fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    /// Ends when a stop is asked for, or when nobody is left to ask. Safe to drop and to call again.
    pub(crate) async fn asked(&mut self) {
        // An error means that the stopper is gone, which is a stop as well.
        let _ = self.0.wait_for(|stop| *stop).await;
    }
}
