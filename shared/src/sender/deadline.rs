//! The end of an attempt, kept also where the process was stopped in the middle of it.
//!
//! A worker that was suspended must not, once it wakes, send what another worker has meanwhile taken over. A timer alone does
//! not see to that: after the stop the socket may be ready first. So time is asked *before* each step, up to the moment at which
//! the connection takes the request's bytes.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

/// No attempt is given longer than this, whatever is asked: a day. It keeps sums of times within range.
const MAX_DEADLINE: Duration = Duration::from_secs(24 * 60 * 60);

/// A point in time after which nothing is done any more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    at: Instant,
    /// The same by the clock on the wall, by which leases end: the other stands still while a machine sleeps.
    wall: SystemTime,
}

impl Deadline {
    pub(super) fn after(wait: Duration) -> Self {
        let wait = wait.min(MAX_DEADLINE);
        Self { at: Instant::now() + wait, wall: SystemTime::now() + wait }
    }

    /// This deadline, or `wait` from now if that is earlier.
    pub(super) fn or_after(self, wait: Duration) -> Self {
        let other = Self::after(wait);
        Self { at: self.at.min(other.at), wall: self.wall.min(other.wall) }
    }

    pub(super) fn has_passed(&self) -> bool {
        Instant::now() >= self.at || SystemTime::now() >= self.wall
    }

    /// What `future` returns, or `None` at the deadline; not polled once that has passed.
    pub(super) async fn run<F: Future>(self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        let mut alarm = pin!(tokio::time::sleep_until(self.at));
        poll_fn(|cx| {
            if alarm.as_mut().poll(cx).is_ready() || self.has_passed() {
                return Poll::Ready(None);
            }
            future.as_mut().poll(cx).map(Some)
        })
        .await
    }
}

/// A request's body that refuses to be sent after the deadline.
///
/// The connection asks for it after it has laid out the request's head and before it writes either; on an error it writes
/// nothing and closes.
#[derive(Debug)]
pub(super) struct DatedBody {
    payload: Option<Bytes>,
    deadline: Deadline,
}

/// The deadline passed before the request was written.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the deadline passed before the request was sent")]
pub(super) struct PastDeadline;

impl DatedBody {
    pub(super) fn new(payload: Bytes, deadline: Deadline) -> Self {
        Self { payload: Some(payload), deadline }
    }
}

impl Body for DatedBody {
    type Data = Bytes;
    type Error = PastDeadline;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, PastDeadline>>> {
        if self.payload.is_some() && self.deadline.has_passed() {
            return Poll::Ready(Some(Err(PastDeadline)));
        }
        Poll::Ready(self.payload.take().map(|payload| Ok(Frame::data(payload))))
    }

    fn is_end_stream(&self) -> bool {
        self.payload.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.payload.as_ref().map_or(0, |payload| payload.len() as u64))
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncReadExt, net::TcpListener};

    use super::*;
    use crate::{model::ErrorKind, sender::failure};

    async fn frame(body: &mut DatedBody) -> Option<Result<Frame<Bytes>, PastDeadline>> {
        poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await
    }

    /// The body comes whole and once, and not at all after the deadline.
    #[tokio::test]
    async fn a_body_is_not_sent_after_its_deadline() {
        let mut body = DatedBody::new(Bytes::from_static(b"{}"), Deadline::after(Duration::MAX));
        assert_eq!((body.is_end_stream(), body.size_hint().exact()), (false, Some(2)));
        assert_eq!(frame(&mut body).await.unwrap().unwrap().into_data().unwrap(), "{}");
        assert!(body.is_end_stream() && frame(&mut body).await.is_none());

        let mut late = DatedBody::new(Bytes::from_static(b"{}"), Deadline::after(Duration::ZERO));
        assert!(frame(&mut late).await.unwrap().is_err());
    }

    /// The machine slept: its timer stood still, but by the clock on the wall the deadline is over.
    #[tokio::test]
    async fn either_clock_ends_it() {
        let asleep = Deadline { at: Instant::now() + MAX_DEADLINE, wall: SystemTime::now() };
        assert!(asleep.has_passed());
        assert_eq!(asleep.run(async { unreachable!("must not be polled") as u8 }).await, None);
    }

    /// A future that is ready at the deadline is too late: it might be the connection that was just made.
    #[tokio::test(start_paused = true)]
    async fn what_is_ready_at_the_deadline_is_too_late() {
        let deadline = Deadline::after(Duration::from_secs(1));
        let ready_at = |seconds| tokio::time::sleep(Duration::from_secs(seconds));
        assert_eq!(deadline.run(ready_at(1)).await, None);
        let deadline = Deadline::after(Duration::from_secs(2));
        assert_eq!(deadline.run(ready_at(1)).await, Some(()));
        assert!(deadline.or_after(Duration::ZERO).has_passed() && !deadline.has_passed());
    }

    /// The HTTP library keeps the promise: the connection is made, the body refuses, and not even the head is written.
    #[tokio::test]
    async fn nothing_of_a_request_is_written_after_its_deadline() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let tls = crate::tls::http_client().unwrap();
        let client = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build().unwrap();
        let late = DatedBody::new(Bytes::from_static(b"{}"), Deadline::after(Duration::ZERO));
        let call = client.post(url).body(reqwest::Body::wrap(late)).send();
        let destination = async {
            let (mut connection, _) = listener.accept().await.unwrap();
            connection.read(&mut [0; 100]).await.unwrap()
        };
        let (answer, bytes_written) = tokio::join!(call, destination);
        assert_eq!(bytes_written, 0);
        assert_eq!(failure::describe(&answer.unwrap_err()).error, Some(ErrorKind::Timeout));
    }
}
