//! The stream and the bodies of a connection, which report their progress to its slot.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_io_timeout::TimeoutStream;

use super::connection_table::Slot;

/// Time limit for a client to read more of its response. A stalled client holds the unsent response
/// and everything that the response is produced from.
const STALLED_TIMEOUT: Duration = Duration::from_secs(10);

/// Upper bound on the bytes of one read. hyper doubles its buffer of 8 KiB, up to the largest head,
/// whenever a read fills it, which every client that sends a large body could make it do.
const MAX_READ_BYTES: usize = 4 * 1024;

/// A stream that reports the bytes that it receives, and when all bytes were sent.
#[derive(Debug)]
pub(super) struct TrackedStream {
    /// Bytes that were received earlier; reads return them first.
    pub(super) unread: Bytes,
    stream: Pin<Box<TimeoutStream<TcpStream>>>,
    slot: Arc<Slot>,
}

impl TrackedStream {
    pub(super) fn new(stream: TcpStream, slot: &Arc<Slot>) -> Self {
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(STALLED_TIMEOUT));
        Self {
            unread: Bytes::new(),
            stream: Box::pin(stream),
            slot: Arc::clone(slot),
        }
    }

    /// Waits until there are bytes to read, or the client has ended the stream.
    pub(super) async fn has_bytes(&self) -> io::Result<()> {
        if self.unread.is_empty() {
            // `readable` would not wait: Tokio assumes that an accepted stream is readable.
            self.stream.get_ref().peek(&mut [0]).await?;
        }
        Ok(())
    }
}

impl AsyncRead for TrackedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let limit = buffer.remaining().min(MAX_READ_BYTES);
        let received = if self.unread.is_empty() {
            let mut part = ReadBuf::new(buffer.initialize_unfilled_to(limit));
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut part))?;
            let received = part.filled().len();
            buffer.advance(received);
            received
        } else {
            let limit = limit.min(self.unread.len());
            buffer.put_slice(&self.unread.split_to(limit));
            limit
        };
        if received > 0 {
            self.slot.received(received);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TrackedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes once it has written everything.
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        self.slot.sent();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A body that reports when it is dropped: when it was read completely, or nothing more of it will
/// be.
#[derive(Debug)]
pub(super) struct TrackedBody<B> {
    body: B,
    slot: Arc<Slot>,
    /// `true` once the body was read completely.
    complete: bool,
    ended: fn(&Slot, bool),
}

impl<B> TrackedBody<B> {
    pub(super) fn of_request(body: B, slot: &Arc<Slot>) -> Self {
        Self {
            body,
            slot: Arc::clone(slot),
            complete: false,
            ended: Slot::request_arrived,
        }
    }

    pub(super) fn of_response(body: B, slot: &Arc<Slot>) -> Self {
        Self {
            body,
            slot: Arc::clone(slot),
            complete: false,
            ended: |slot, _| slot.response_ended(),
        }
    }
}

impl<B> Drop for TrackedBody<B> {
    fn drop(&mut self) {
        (self.ended)(&self.slot, self.complete);
    }
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for TrackedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        self.complete = frame.is_none();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
