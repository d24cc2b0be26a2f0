//! One HTTP/1.1 exchange: writes a request and reads its response.
//!
//! **Once a complete HTTP/1.x status line was received, the status decides.** Nothing in the rest
//! of the response changes the outcome: neither invalid header lines, contradictory lengths, a head
//! that is too long or incomplete, a reset, nor an invalid body. They only prevent that the
//! connection is reused.
//!
//! HTTP libraries reject such responses as a whole, so Posthaste has its own implementation. It is
//! small: it sends a body of known length and reads at most [`MAX_RESPONSE_BYTES`] of a body. It
//! supports no redirects, compression, trailers, upgrades, or `100-continue`.
//!
//! The head and the body are written together, in one system call if possible. The deadline is
//! checked before each write. A receiver can respond and close before it has read the whole
//! request. The response is therefore read during the write, and also after a failed write.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::{BufMut, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use super::{
    body::{Framing, Read},
    deadline::Deadline,
    head::{self, Beginning, Head, MAX_HEAD_BYTES, MAX_STATUS_LINE_BYTES, StatusLine},
};

/// The maximum number of bytes read of a response body. A longer body closes the connection.
pub const MAX_RESPONSE_BYTES: usize = 64 * 1024;

/// The size of the read buffer. Most responses fit.
const READ_BYTES: usize = 8 * 1024;

/// Why no status was received.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoStatus {
    /// The connection failed or was closed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The response is not HTTP/1.x.
    #[error("the response is not HTTP/1.1")]
    NotHttp,
    /// The status line exceeds its maximum length.
    #[error("the response has no complete status line")]
    TooLong,
    /// The deadline passed before the whole request was written.
    #[error("the deadline passed before the request was sent")]
    PastDeadline,
}

/// The part of a request that is not written yet.
struct Outgoing {
    head: Bytes,
    payload: Bytes,
    is_flushed: bool,
}

/// A response whose status was received.
#[derive(Debug)]
pub(super) struct Response<S> {
    pub(super) status: StatusLine,
    incoming: Incoming<S>,
    /// Whether the whole request was sent. Otherwise the connection cannot be reused.
    is_request_sent: bool,
    body_bytes: usize,
    is_ended: bool,
}

/// A connection and its unprocessed bytes.
#[derive(Debug)]
struct Incoming<S> {
    stream: S,
    bytes: Vec<u8>,
}

/// Sends a request once and waits for the status. Writes nothing after the deadline.
pub(super) async fn send<S>(
    stream: S,
    head: Vec<u8>,
    payload: Bytes,
    deadline: Deadline,
) -> Result<Response<S>, NoStatus>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut outgoing = Outgoing { head: head.into(), payload, is_flushed: false };
    let mut incoming = Incoming { stream, bytes: Vec::new() };
    let mut write_error = None;
    let mut interim = None;
    let status = poll_fn(|cx| {
        if write_error.is_none() && !outgoing.is_flushed {
            match outgoing.poll_write(Pin::new(&mut incoming.stream), cx, deadline) {
                Poll::Ready(Err(NoStatus::PastDeadline)) => {
                    return Poll::Ready(Err(NoStatus::PastDeadline));
                }
                Poll::Ready(Err(error)) => write_error = Some(error),
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
        }
        loop {
            if let Some(status) = incoming.take_status(&mut interim).transpose() {
                return Poll::Ready(status);
            }
            match ready!(incoming.poll_fill(cx)) {
                Ok(0) => return Poll::Ready(Err(write_error.take().unwrap_or(closed()))),
                Ok(_) => {}
                // The write failed first, for the same reason.
                Err(error) => return Poll::Ready(Err(write_error.take().unwrap_or(error.into()))),
            }
        }
    })
    .await?;
    Ok(Response {
        status,
        incoming,
        is_request_sent: outgoing.is_flushed,
        body_bytes: 0,
        is_ended: false,
    })
}

fn closed() -> NoStatus {
    io::Error::from(io::ErrorKind::UnexpectedEof).into()
}

impl Outgoing {
    /// Writes the remaining bytes until the socket is full or the deadline passes.
    fn poll_write<S: AsyncWrite>(
        &mut self,
        mut stream: Pin<&mut S>,
        cx: &mut Context<'_>,
        deadline: Deadline,
    ) -> Poll<Result<(), NoStatus>> {
        while !(self.head.is_empty() && self.payload.is_empty()) {
            if deadline.has_passed() {
                return Poll::Ready(Err(NoStatus::PastDeadline));
            }
            let slices = [IoSlice::new(&self.head), IoSlice::new(&self.payload)];
            let written = ready!(stream.as_mut().poll_write_vectored(cx, &slices))?;
            if written == 0 {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into()));
            }
            let of_head = written.min(self.head.len());
            // `split_to` leaves the bytes that are not written.
            drop(self.head.split_to(of_head));
            drop(self.payload.split_to(written - of_head));
        }
        // TLS can still buffer the last bytes.
        if deadline.has_passed() {
            return Poll::Ready(Err(NoStatus::PastDeadline));
        }
        ready!(stream.poll_flush(cx))?;
        self.is_flushed = true;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> Incoming<S> {
    /// Reads more bytes and returns their number, 0 at the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.bytes.reserve(READ_BYTES);
        // `read_buf` does not zero the buffer first. Each poll begins a new read, since a read that
        // is pending has taken no bytes.
        let mut buffer = (&mut self.bytes).limit(READ_BYTES);
        pin!(self.stream.read_buf(&mut buffer)).poll(cx)
    }

    async fn fill(&mut self) -> io::Result<usize> {
        poll_fn(|cx| self.poll_fill(cx)).await
    }

    /// Returns the status line if it is complete. Skips interim responses (`100 Continue`, `103
    /// Early Hints`) with their header lines. While it skips one, `interim` is the number of its
    /// bytes that were searched for the end.
    fn take_status(&mut self, interim: &mut Option<usize>) -> Result<Option<StatusLine>, NoStatus> {
        loop {
            if let Some(seen) = *interim {
                let Some(end) = head::end_of_lines(&self.bytes, seen) else {
                    *interim = Some(self.bytes.len());
                    return if self.bytes.len() > MAX_HEAD_BYTES {
                        Err(NoStatus::TooLong)
                    } else {
                        Ok(None)
                    };
                };
                self.bytes.drain(..end);
                *interim = None;
            }
            match head::status_line(&self.bytes) {
                Beginning::NotHttp => return Err(NoStatus::NotHttp),
                Beginning::Incomplete if self.bytes.len() > MAX_STATUS_LINE_BYTES => {
                    return Err(NoStatus::TooLong);
                }
                Beginning::Incomplete => return Ok(None),
                Beginning::Status(line, length) => {
                    self.bytes.drain(..length);
                    if !line.is_interim() {
                        return Ok(Some(line));
                    }
                    *interim = Some(0);
                }
            }
        }
    }
}

impl<S: AsyncRead + Unpin> Response<S> {
    /// Reads the header lines. If they are incomplete, exceed [`MAX_HEAD_BYTES`], or do not end
    /// before `until`, the received lines count, and the connection is not reused.
    pub(super) async fn head(&mut self, until: Deadline) -> Head {
        let incoming = &mut self.incoming;
        let read = async {
            let mut seen = 0;
            loop {
                if let Some(end) = head::end_of_lines(&incoming.bytes, seen) {
                    return Some(end);
                }
                seen = incoming.bytes.len();
                if seen > MAX_HEAD_BYTES || incoming.fill().await.ok()? == 0 {
                    return None;
                }
            }
        };
        let end = until.run(read).await.flatten();
        let taken = end.unwrap_or(self.incoming.bytes.len());
        let head = Head::parse(self.status, &self.incoming.bytes[..taken], end.is_some());
        self.incoming.bytes.drain(..taken);
        self.is_ended = end.is_none();
        head
    }

    /// Continues to read the body until it has `enough` bytes of content, the body ends, fails, or
    /// exceeds [`MAX_RESPONSE_BYTES`], or `until` passes. `head` must be the head of this response.
    pub(super) async fn body(
        &mut self,
        head: &mut Head,
        until: Deadline,
        mut content: impl FnMut(&[u8]),
        enough: usize,
    ) {
        let mut came = 0;
        let read = async {
            while !self.is_ended && !head.framing.is_finished() && came < enough {
                if self.incoming.bytes.is_empty()
                    && (self.is_too_long() || !matches!(self.incoming.fill().await, Ok(1..)))
                {
                    self.is_ended = true;
                    return;
                }
                self.body_bytes += self.incoming.bytes.len();
                let read = head.framing.read(&self.incoming.bytes, |part| {
                    came += part.len();
                    content(part);
                });
                match read {
                    Read::Unfinished => self.incoming.bytes.clear(),
                    Read::Finished(taken) => {
                        self.incoming.bytes.drain(..taken);
                        head.framing = Framing::Length(0);
                    }
                    Read::Broken => self.is_ended = true,
                }
            }
        };
        until.run(read).await;
    }

    fn is_too_long(&self) -> bool {
        self.body_bytes >= MAX_RESPONSE_BYTES
    }

    /// Returns the connection if it can be reused: the response is complete, and no bytes follow.
    pub(super) fn into_kept(self, head: &Head) -> Option<S> {
        let is_over =
            head.framing.is_finished() && !self.is_ended && self.incoming.bytes.is_empty();
        (is_over && head.is_reusable && self.is_request_sent).then_some(self.incoming.stream)
    }
}

#[cfg(test)]
mod tests;
