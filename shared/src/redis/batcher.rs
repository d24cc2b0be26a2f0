//! Batches concurrent calls: calls that arrive during a round trip share the next one.

use std::{
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ::redis::RedisResult;
use tokio::sync::oneshot;

/// The most items of a batch, unless a single call has more.
const MAX_ITEMS: usize = 100;

/// Batches the calls of one kind. The calls of a batch succeed or fail together. Each item has its
/// own answer.
pub(crate) struct Batcher<T, A = ()>(Arc<Mutex<Waiting<T, A>>>);

struct Waiting<T, A> {
    calls: Vec<Waits<T, A>>,
    /// Whether a task is running the batches.
    is_led: bool,
}

type Waits<T, A> = (Vec<T>, oneshot::Sender<RedisResult<Vec<A>>>);

impl<T, A> Default for Batcher<T, A> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Waiting { calls: Vec::new(), is_led: false })))
    }
}

impl<T, A> fmt::Debug for Batcher<T, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batcher").finish_non_exhaustive()
    }
}

impl<T: Send + 'static, A: Send + 'static> Batcher<T, A> {
    /// Runs the items in a batch and returns their answers. `run` gets the items of all calls in
    /// the batch, and answers them one by one in order. A task runs the batch, so a caller that
    /// gives up does not cancel the items of others.
    pub(crate) async fn add<Run, Answer>(&self, items: Vec<T>, run: Run) -> RedisResult<Vec<A>>
    where
        Run: Fn(Vec<T>) -> Answer + Send + 'static,
        Answer: Future<Output = RedisResult<Vec<A>>> + Send + 'static,
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

async fn lead<T, A, Run, Answer>(mut lead: Lead<T, A>, run: Run)
where
    Run: Fn(Vec<T>) -> Answer,
    Answer: Future<Output = RedisResult<Vec<A>>>,
{
    while let Some(calls) = lead.next() {
        let counts: Vec<usize> = calls.iter().map(|(items, _)| items.len()).collect();
        let (items, waiting): (Vec<Vec<T>>, Vec<_>) = calls.into_iter().unzip();
        let outcome = run(items.into_iter().flatten().collect()).await;
        let mut outcome = outcome.map(Vec::into_iter);
        for (done, count) in waiting.into_iter().zip(counts) {
            let own = match &mut outcome {
                Ok(answers) => Ok(answers.take(count).collect()),
                Err(error) => Err(error.clone()),
            };
            // A caller that has given up gets no answer.
            let _ = done.send(own);
        }
    }
}

/// The running task. If it ends early, with its runtime, the waiting callers get an error.
struct Lead<T, A> {
    waiting: Arc<Mutex<Waiting<T, A>>>,
    is_over: bool,
}

impl<T, A> Lead<T, A> {
    /// The calls of the next batch. Ends the task if there are none.
    fn next(&mut self) -> Option<Vec<Waits<T, A>>> {
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

impl<T, A> Drop for Lead<T, A> {
    fn drop(&mut self) {
        if !self.is_over {
            let mut waiting = lock(&self.waiting);
            waiting.is_led = false;
            waiting.calls.clear();
        }
    }
}

fn lock<T, A>(waiting: &Mutex<Waiting<T, A>>) -> MutexGuard<'_, Waiting<T, A>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}
