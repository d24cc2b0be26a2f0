use std::{collections::VecDeque, time::Duration};

use tokio::io::ReadBuf;

use super::*;

/// The result of reading from a connection.
#[derive(Clone)]
enum Then {
    Gives(&'static [u8]),
    Ends,
    Fails(io::ErrorKind),
}

/// A connection that accepts up to `room` bytes per write, and records each write.
struct Script {
    writes: Vec<Vec<u8>>,
    room: usize,
    /// Called before each write. Its error fails the write.
    on_write: Box<dyn FnMut() -> io::Result<()> + Send>,
    reads: VecDeque<Then>,
}

impl Script {
    fn new(reads: &[Then]) -> Self {
        let on_write = Box::new(|| Ok(()));
        Self {
            writes: Vec::new(),
            room: usize::MAX,
            on_write,
            reads: reads.iter().cloned().collect(),
        }
    }
}

impl AsyncRead for Script {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.reads.pop_front() {
            Some(Then::Gives(bytes)) => {
                let (now, later) = bytes.split_at(bytes.len().min(buffer.remaining()));
                buffer.put_slice(now);
                if !later.is_empty() {
                    self.reads.push_front(Then::Gives(later));
                }
                Poll::Ready(Ok(()))
            }
            Some(Then::Ends) => Poll::Ready(Ok(())),
            Some(Then::Fails(kind)) => Poll::Ready(Err(kind.into())),
            None => Poll::Pending,
        }
    }
}

impl AsyncWrite for Script {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.room == 0 {
            return Poll::Pending;
        }
        (self.on_write)()?;
        let mut bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
        bytes.truncate(self.room);
        let count = bytes.len();
        self.writes.push(bytes);
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn ample() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

async fn send_to(script: Script) -> Result<Response<Script>, NoStatus> {
    send(script, b"HEAD".to_vec(), Bytes::from_static(b"BODY"), ample()).await
}

/// The head and the body are written in one call.
#[tokio::test]
async fn a_request_is_one_write() {
    let mut response = send_to(Script::new(&[Then::Gives(OK)])).await.unwrap();
    let mut head = response.head(ample()).await;
    response.body(&mut head, ample(), |_| (), usize::MAX).await;
    let connection = response.into_kept(&head).expect("it can serve again");
    assert_eq!(connection.writes, [b"HEADBODY".to_vec()]);
}

#[tokio::test]
async fn a_request_written_in_pieces_arrives_whole() {
    for room in 1..8 {
        let script = Script { room, ..Script::new(&[Then::Gives(OK)]) };
        let response = send_to(script).await.unwrap();
        assert_eq!(response.incoming.stream.writes.concat(), b"HEADBODY");
    }
}

/// The deadline passes during the write of the request. The rest is not written.
#[tokio::test]
async fn no_byte_is_written_after_the_deadline() {
    let late = Deadline::after(Duration::ZERO);
    let nothing = send(Script::new(&[]), b"HEAD".to_vec(), Bytes::new(), late).await;
    assert!(
        matches!(nothing, Err(NoStatus::PastDeadline)),
        "{:?}",
        nothing.map(|response| response.status)
    );

    // Long enough for the first write on a busy machine.
    let deadline = Deadline::after(Duration::from_millis(200));
    let written = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&written);
    let on_write = Box::new(move || {
        counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        while !deadline.has_passed() {
            std::hint::spin_loop();
        }
        Ok(())
    });
    let slow = Script { room: 3, on_write, ..Script::new(&[Then::Gives(OK)]) };
    let part = send(slow, b"HEAD".to_vec(), Bytes::from_static(b"BODY"), deadline).await;
    assert!(
        matches!(part, Err(NoStatus::PastDeadline)),
        "{:?}",
        part.map(|response| response.status)
    );
    assert_eq!(written.load(std::sync::atomic::Ordering::SeqCst), 1);
}

/// A receiver responds before it has read the whole request. The status decides, and the connection
/// is not reused.
#[tokio::test]
async fn an_early_response_decides() {
    let full = Script { room: 0, ..Script::new(&[Then::Gives(OK)]) };
    let closed = Script {
        on_write: Box::new(|| Err(io::ErrorKind::BrokenPipe.into())),
        ..Script::new(&[Then::Gives(OK), Then::Fails(io::ErrorKind::ConnectionReset)])
    };
    for script in [full, closed] {
        let mut response = send_to(script).await.unwrap();
        assert_eq!(response.status.code, 200);
        let mut head = response.head(ample()).await;
        response.body(&mut head, ample(), |_| (), usize::MAX).await;
        assert!(response.into_kept(&head).is_none());
    }
    let mute = Script {
        on_write: Box::new(|| Err(io::ErrorKind::BrokenPipe.into())),
        ..Script::new(&[Then::Ends])
    };
    let error = send_to(mute).await.map(|response| response.status).unwrap_err();
    assert!(
        matches!(&error, NoStatus::Io(error) if error.kind() == io::ErrorKind::BrokenPipe),
        "{error:?}"
    );
}

/// The result does not depend on how the bytes are split.
#[tokio::test]
async fn a_response_can_arrive_in_any_pieces() {
    let text: &[u8] = b"\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hi\r\nlink: \
        <a>\r\n\r\nHTTP/1.1 500 Oh\r\nx-a: b\r\n c\r\n\
        transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2;x\r\nde\r\n0\r\n\r\n";
    for size in [1, 2, 3, 5, 50, 1000] {
        let reads: Vec<Then> = text.chunks(size).map(Then::Gives).collect();
        let mut response = send_to(Script::new(&reads)).await.unwrap();
        assert_eq!(response.status.code, 500);
        let mut head = response.head(ample()).await;
        let mut content = Vec::new();
        response.body(&mut head, ample(), |part| content.extend_from_slice(part), usize::MAX).await;
        assert_eq!(content, b"abcde", "pieces of {size}");
        assert!(response.into_kept(&head).is_some(), "pieces of {size}");
    }
}

/// An incomplete response after the status line does not change the status. The connection is not
/// reused.
#[tokio::test]
async fn an_incomplete_head_is_parsed_as_far_as_it_is_complete() {
    for (text, came) in [
        (&b"HTTP/1.1 503 Oh\r\n"[..], &b""[..]),
        (b"HTTP/1.1 503 Oh\r\nretry-after: 5\r\nx-", b""),
        (b"HTTP/1.1 503 Oh\r\ncontent-length: 5\r\n\r\nabc", b"abc"),
        (b"HTTP/1.1 503 Oh\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nno chunk\r\n", b"abc"),
        (b"HTTP/1.1 503 Oh\r\n\r\nabc", b"abc"),
    ] {
        for end in [Then::Ends, Then::Fails(io::ErrorKind::ConnectionReset)] {
            let mut response = send_to(Script::new(&[Then::Gives(text), end])).await.unwrap();
            assert_eq!(response.status.code, 503);
            let mut head = response.head(ample()).await;
            let mut content = Vec::new();
            response
                .body(&mut head, ample(), |part| content.extend_from_slice(part), usize::MAX)
                .await;
            assert_eq!(content, came);
            assert!(response.into_kept(&head).is_none());
        }
    }
}

/// Bytes after the end are an unexpected response, which must not answer the next request.
#[tokio::test]
async fn a_connection_with_more_than_its_response_is_not_reused() {
    for text in [
        &b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 500 Oh\r\n\r\n"[..],
        b"HTTP/1.1 204 No\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n\r\n",
    ] {
        let mut response = send_to(Script::new(&[Then::Gives(text)])).await.unwrap();
        let mut head = response.head(ample()).await;
        response.body(&mut head, ample(), |_| (), usize::MAX).await;
        assert!(head.is_reusable && response.into_kept(&head).is_none());
    }
}

/// Endless input has a limit in memory and in time.
#[tokio::test]
async fn endless_input_fails() {
    let flood = |first: &'static [u8], more: &'static [u8]| {
        let mut reads = vec![Then::Gives(first)];
        reads.extend(std::iter::repeat_n(Then::Gives(more), 2 * MAX_HEAD_BYTES / more.len()));
        Script::new(&reads)
    };
    for (first, more) in [
        (&b"HTTP/1.1 200 "[..], &b"aaaaaaaaaaaaaaaa"[..]),
        (b"\r\n", b"\r\n\r\n\r\n\r\n"),
        (b"HTTP/1.1 103 Hi\r\n", b"a: b\r\n"),
    ] {
        let error = send_to(flood(first, more)).await.map(|response| response.status).unwrap_err();
        assert!(matches!(error, NoStatus::TooLong), "{error:?}");
    }
    for more in [&b"a: b\r\n"[..], b"aaaaaaaaaaaaaaaa"] {
        let mut response =
            send_to(flood(b"HTTP/1.1 200 OK\r\nretry-after: 7\r\n", more)).await.unwrap();
        let head = response.head(ample()).await;
        assert_eq!((head.is_reusable, head.retry_after.concat().as_str()), (false, "7"));
        assert!(response.is_ended && response.incoming.bytes.is_empty());
    }
    let mut response =
        send_to(flood(b"HTTP/1.1 200 OK\r\n\r\n", b"aaaaaaaaaaaaaaaa")).await.unwrap();
    let (mut head, mut count) = (response.head(ample()).await, 0);
    response.body(&mut head, ample(), |part| count += part.len(), usize::MAX).await;
    assert!(count <= MAX_RESPONSE_BYTES + READ_BYTES, "{count} bytes");
}
