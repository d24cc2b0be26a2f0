//! Calls that come while another one is on its way go together, as the next one: under load, a round trip and a script serve many.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ::redis::RedisResult;
use tokio::sync::oneshot;

/// Items that go at a time, unless a single call has more.
const MAX_ITEMS: usize = 100;

/// One thing that calls do together. Each call succeeds or fails with all that it went with.
#[derive(Debug)]
pub(super) struct Together<T>(Arc<Mutex<Waiting<T>>>);

#[derive(Debug)]
struct Waiting<T> {
    calls: Vec<Waits<T>>,
    /// Whether a task is at work on them.
    is_led: bool,
}

type Waits<T> = (Vec<T>, oneshot::Sender<RedisResult<()>>);

impl<T> Default for Together<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Waiting { calls: Vec::new(), is_led: false })))
    }
}

impl<T: Send + 'static> Together<T> {
    /// Answers what `run` says of these items and those of others. They are a task's by then, so a caller who gives up takes nobody
    /// else's along.
    pub(super) async fn add<Run, Answer>(&self, items: Vec<T>, run: Run) -> RedisResult<()>
    where
        Run: Fn(Vec<T>) -> Answer + Send + 'static,
        Answer: Future<Output = RedisResult<()>> + Send + 'static,
    {
        let (done, outcome) = oneshot::channel();
        let leads = {
            let mut waiting = lock(&self.0);
            waiting.calls.push((items, done));
            !std::mem::replace(&mut waiting.is_led, true)
        };
        if leads {
            tokio::spawn(lead(Lead { waiting: Arc::clone(&self.0), is_over: false }, run));
        }
        outcome.await.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::Interrupted).into()))
    }
}

async fn lead<T, Run, Answer>(mut lead: Lead<T>, run: Run)
where
    Run: Fn(Vec<T>) -> Answer,
    Answer: Future<Output = RedisResult<()>>,
{
    while let Some(calls) = lead.next() {
        let (items, waiting): (Vec<Vec<T>>, Vec<_>) = calls.into_iter().unzip();
        let outcome = run(items.into_iter().flatten().collect()).await;
        for done in waiting {
            // Who has given up is not told.
            let _ = done.send(outcome.clone());
        }
    }
}

/// The task that is at work. Should it end before its work does, with its runtime, those who wait are told.
struct Lead<T> {
    waiting: Arc<Mutex<Waiting<T>>>,
    is_over: bool,
}

impl<T> Lead<T> {
    /// The next calls that go together; ends the lead when there are none.
    fn next(&mut self) -> Option<Vec<Waits<T>>> {
        let mut waiting = lock(&self.waiting);
        let (mut items, mut calls) = (0, 0);
        for (more, _) in &waiting.calls {
            items += more.len();
            if calls > 0 && items > MAX_ITEMS {
                break;
            }
            calls += 1;
        }
        waiting.is_led = calls > 0;
        self.is_over = calls == 0;
        (calls > 0).then(|| waiting.calls.drain(..calls).collect())
    }
}

impl<T> Drop for Lead<T> {
    fn drop(&mut self) {
        if !self.is_over {
            let mut waiting = lock(&self.waiting);
            waiting.is_led = false;
            waiting.calls.clear();
        }
    }
}

fn lock<T>(waiting: &Mutex<Waiting<T>>) -> MutexGuard<'_, Waiting<T>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}
