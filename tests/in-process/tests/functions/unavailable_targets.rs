//! Deliveries while the store does not answer the calls of traffic control.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use shared::{status::Status, store::StoreError};

use crate::{
    intercepted::{Call, Intercepted, Interceptor},
    receiver::{Receiver, assert_delivered},
    world::status,
};

/// A store whose calls for targets never end.
#[derive(Debug, Default)]
struct Hanging {
    calls: AtomicUsize,
}

#[async_trait]
impl Interceptor for Hanging {
    async fn before(&self, call: Call<'_>) -> Result<(), StoreError> {
        match call {
            Call::ReadTargets
            | Call::WriteTarget
            | Call::TakeSlots(_)
            | Call::ReplaceCounters(_) => {
                self.calls.fetch_add(1, Ordering::SeqCst);
                pending().await
            }
            _ => Ok(()),
        }
    }
}

/// Each kind of call hangs once for one attempt, and not once for each webhook of the batch. So the
/// outcomes are recorded long before the leases end.
#[tokio::test]
async fn a_store_that_hangs_delays_a_batch_by_a_few_calls() {
    const WEBHOOKS: usize = 8;
    let hanging = Arc::new(Hanging::default());
    let interceptor = Arc::clone(&hanging);
    let receiver = Receiver::changed(
        &[("RATE_LIMITS", "example.com=10/1s"), ("CIRCUIT_FAILURES", "100")],
        |path, _| status(if path == "/broken" { 500 } else { 200 }),
        |world| {
            let inner = Arc::clone(&world.context.store);
            world.context.store = Arc::new(Intercepted { inner, interceptor });
        },
    );
    // No time passes for the store, so no call is made again after a pause.
    let started = Instant::now();
    let mut webhooks = Vec::new();
    for _ in 0..WEBHOOKS {
        webhooks.push((receiver.accept("/hook").await, receiver.accept("/broken").await));
    }
    while receiver.arrived().len() < 2 * WEBHOOKS {
        assert!(receiver.world.run(&receiver.deliver).await.is_empty(), "nothing is handed back");
    }
    for (delivered, failed) in &webhooks {
        assert_delivered(&receiver.world.stored(delivered).await);
        assert_eq!(receiver.world.stored(failed).await.status, Status::Retrying);
    }
    let calls = hanging.calls.load(Ordering::SeqCst);
    assert!((2..=4).contains(&calls), "{calls} calls in {:?}", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(30), "{calls} calls");
}
