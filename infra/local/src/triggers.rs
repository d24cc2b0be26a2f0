//! The triggers of the functions: a mapping for each lane, and the schedule. They are the same
//! whether the functions run in this process or in others. Only the invocation differs.

use std::{sync::Arc, time::Duration};

use aws_lambda_events::event::sqs::{SqsBatchResponse, SqsEvent};
use bytes::Bytes;
use deliver::Deliver;
use shared::{
    clock::{Clock, SystemClock},
    context::Context,
    queue::Lane,
    sender::Sender,
};
use tokio::{sync::watch, task::JoinSet};

use crate::{
    events,
    functions::{CallError, Function, Functions},
    mapping::{BatchError, Mapping},
    options::Options,
    schedule,
};

/// Concurrent batches of dead letters. Archiving is one write each.
const DLQ_CONCURRENCY: usize = 4;

/// The time after which a sweep leaves the rest to the next one.
const SWEEP_TIME: Duration = Duration::from_secs(50);

/// How much longer than a function's timeout its response is awaited.
const RESPONSE_MARGIN: Duration = Duration::from_secs(5);

fn mapping(context: &Context, lane: Lane, max_concurrency: usize) -> Mapping {
    Mapping {
        queue: Arc::clone(&context.queue),
        lane,
        batch_size: context.config.batch_size,
        max_concurrency,
        visibility: context.config.visibility_timeout(),
    }
}

/// Starts the triggers of functions in this process, as parts of the stack.
pub(crate) fn start_in_process(
    context: &Context,
    sender: Arc<dyn Sender>,
    options: &Options,
    stopped: &watch::Receiver<bool>,
    parts: &mut JoinSet<()>,
) {
    let deliver = Deliver::new(context.clone(), sender);
    let function_timeout = context.config.function_timeout();
    let slots = deliver.clone();
    let clock = Arc::clone(&context.clock);
    parts.spawn(mapping(context, Lane::Webhooks, deliver.max_concurrent_attempts()).run(
        move |event| {
            let (deliver, until) = (deliver.clone(), clock.now().plus(function_timeout));
            async move { Ok(deliver.handle(event, until).await) }
        },
        async move || slots.free_slots().await,
        stopped.clone(),
    ));
    let dlq = context.clone();
    parts.spawn(mapping(context, Lane::DeadLetters, DLQ_CONCURRENCY).run(
        move |event| {
            let context = dlq.clone();
            async move { Ok(dlq::handle(&context, event).await) }
        },
        async || usize::MAX,
        stopped.clone(),
    ));
    let (sweep, interval) = (context.clone(), Duration::from_millis(options.sweep_interval_ms));
    parts.spawn(schedule::run(
        async move || {
            let swept = sweep::handle(&sweep, sweep.clock.now().plus(SWEEP_TIME)).await;
            // Counters that no invocation has flushed since.
            sweep.metrics.flush_if_due(&*sweep.store, sweep.clock.now()).await;
            swept.map(|_| ())
        },
        interval,
        stopped.clone(),
    ));
}

/// Starts the triggers of functions in other processes, as parts of the stack.
pub(crate) fn start_remote(
    context: &Context,
    options: &Options,
    functions: &Functions,
    stopped: &watch::Receiver<bool>,
    parts: &mut JoinSet<()>,
) {
    let timeout = context.config.function_timeout() + RESPONSE_MARGIN;
    // A message must not be processed any more once it is visible again.
    let retry_timeout = context.config.visibility_timeout().saturating_sub(2 * timeout);
    for (name, lane) in [("deliver", Lane::Webhooks), ("dlq", Lane::DeadLetters)] {
        let function = functions.function(name, || bytes_of(&SqsEvent::default()), stopped.clone());
        let ready = function.clone();
        parts.spawn(mapping(context, lane, options.function_concurrency).run(
            move |event| call_with_batch(function.clone(), event, timeout, retry_timeout),
            async move || {
                ready.wait_until_ready().await;
                usize::MAX
            },
            stopped.clone(),
        ));
    }
    let sweep = functions.function(
        "sweep",
        || bytes_of(&events::schedule(SystemClock.now())),
        stopped.clone(),
    );
    let (interval, stopping) = (Duration::from_millis(options.sweep_interval_ms), stopped.clone());
    parts.spawn(schedule::run(
        async move || {
            let mut stop = stopping.clone();
            let call = async {
                sweep.wait_until_ready().await;
                sweep
                    .call(bytes_of(&events::schedule(SystemClock.now())), timeout, Duration::ZERO)
                    .await
                    .map(drop)
            };
            tokio::select! {
                // The sweep continues by itself, and the next one does the rest.
                _ = stop.wait_for(|stop| *stop) => Ok::<(), CallError>(()),
                swept = call => swept,
            }
        },
        interval,
        stopped.clone(),
    ));
}

async fn call_with_batch(
    function: Function,
    event: SqsEvent,
    timeout: Duration,
    retry_timeout: Duration,
) -> Result<SqsBatchResponse, BatchError> {
    let response = function.call(bytes_of(&event), timeout, retry_timeout).await?;
    Ok(events::batch_response(&response)?)
}

/// Every event has a JSON form.
fn bytes_of(event: &impl serde::Serialize) -> Bytes {
    serde_json::to_vec(event).unwrap_or_default().into()
}
