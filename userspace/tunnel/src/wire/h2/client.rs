//! The dialling side.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Pinger, REMEMBERED_RESETS, io::Telling, request, stream::H2Stream, stream_error, window};
use crate::{
    connect::ConnectRequest,
    error::StreamError,
    limits::Limits,
    wire::{Answer, Asked, Conversation, Opener, Opening},
};

struct Dialled<T>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    connection: Connection<Telling<T>, Bytes>,
    pinger: Pinger,
}

struct Requests(SendRequest<Bytes>);

/// Begins HTTP/2 on a connection whose handshake is done.
pub(crate) async fn dial<T>(io: T, limits: &Limits) -> Result<(Box<dyn Conversation>, Box<dyn Opener>), StreamError>
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_frame_size(limits.max_frame)
        .max_header_list_size(limits.client_header_list)
        .initial_max_send_streams(limits.max_streams)
        .max_send_buffer_size(limits.send_buffer)
        .max_concurrent_reset_streams(REMEMBERED_RESETS);
    let (requests, mut connection) = builder.handshake(Telling(io)).await.map_err(|e| stream_error(&e))?;
    let pinger = Pinger(connection.ping_pong());
    Ok((Box::new(Dialled { connection, pinger }), Box::new(Requests(requests))))
}

impl<T> Conversation for Dialled<T>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Asked, StreamError>>> {
        match Pin::new(&mut self.connection).poll(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(None),
            Poll::Ready(Err(error)) => Poll::Ready(Some(Err(stream_error(&error)))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn ping(&mut self) {
        self.pinger.ping();
    }

    fn poll_pong(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.pinger.poll_pong(cx)
    }

    fn set_window(&mut self, bytes: usize) {
        self.connection.set_target_window_size(window(bytes));
    }

    fn set_stream_window(&mut self, bytes: u32) -> bool {
        self.connection.set_initial_window_size(bytes).is_ok()
    }

    fn wind_down(&mut self) {
        // The peer opens no streams. The conversation ends when the opener is dropped and the last stream is done.
    }
}

impl Opener for Requests {
    fn limit(&mut self) -> Result<usize, StreamError> {
        let mut context = Context::from_waker(std::task::Waker::noop());
        match self.0.poll_ready(&mut context) {
            Poll::Ready(Err(error)) => Err(stream_error(&error)),
            // h2 queues a stream beyond the limit by itself; nothing is lost when one is.
            Poll::Ready(Ok(())) | Poll::Pending => Ok(self.0.current_max_send_streams()),
        }
    }

    fn open(&mut self, request: &ConnectRequest) -> Result<Opening, StreamError> {
        let request = request::write(request);
        let (answer, sender) = self.0.send_request(request, false).map_err(|e| stream_error(&e))?;
        Ok(Box::pin(async move {
            let (head, receiver) = answer.await.map_err(|e| stream_error(&e))?.into_parts();
            let baggage = request::read_baggage(&head.headers);
            Ok(Answer { status: head.status.as_u16(), baggage, stream: Box::new(H2Stream::new(sender, receiver)) })
        }))
    }
}
