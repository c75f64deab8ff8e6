//! A schedule at work: one invocation at each tick, never two at once.

use crate::{
    event::schedule_event,
    invoke::{Invoker, Outcome, Patience},
    kafka::Reminder,
    stop::Stop,
    template::Schedule,
};
use bytes::Bytes;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::time::MissedTickBehavior;
use tracing::{debug, info, warn};
use uuid::Uuid;

/// Ticks until `stop`; an invocation that runs then has `grace` to end.
///
/// A tick that fails is not tried again: the next one is its retry.
pub(crate) async fn run(
    schedule: Schedule,
    invoker: Invoker,
    mut patience: Patience,
    grace: Duration,
    mut stop: Stop,
) {
    let mut ticks = tokio::time::interval(schedule.every);
    // After a slow invocation the pace starts anew; nobody wants the missed ticks in a burst.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut trouble = Reminder::default();
    let mut well = true;
    loop {
        tokio::select! {
            () = stop.asked() => return,
            _ = ticks.tick() => {}
        }
        let event = schedule_event(&schedule, &Uuid::now_v7().to_string(), OffsetDateTime::now_utc());
        let invocation = invoker.invoke(&schedule.function, Bytes::from(event.to_string()), &mut patience);
        tokio::pin!(invocation);
        let outcome = tokio::select! {
            outcome = &mut invocation => outcome,
            () = stop.asked() => match tokio::time::timeout(grace, invocation).await {
                Ok(outcome) => outcome,
                Err(_) => return,
            },
        };
        let function = schedule.function.as_str();
        let why = match outcome {
            Outcome::Answer(answer) => {
                if !std::mem::replace(&mut well, true) {
                    info!(function, "schedule runs again");
                }
                debug!(function, answer = %String::from_utf8_lossy(&answer), "ticked");
                continue;
            }
            Outcome::Failed(error) => format!("{}: {}", error.error_type, error.error_message),
            Outcome::Unavailable(why) => why,
        };
        well = false;
        if trouble.is_new(&why) {
            warn!(schedule = schedule.name, function, why, "tick failed, the next one tries again");
        }
    }
}
