//! The serving side.

use std::task::{Context, Poll};

use bytes::Bytes;
use h2::{
    RecvStream,
    server::{Builder, Connection, SendResponse},
};
use http::{Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Pinger, REMEMBERED_RESETS, request, stream::H2Stream, stream_error, window};
use crate::{
    connect::Baggage,
    error::StreamError,
    limits::Limits,
    wire::{Asked, Conversation, Responder, WireStream, code},
};

struct Served<T>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    connection: Connection<T, Bytes>,
    pinger: Pinger,
}

struct Pending {
    receiver: RecvStream,
    respond: SendResponse<Bytes>,
}

/// Begins HTTP/2 on a connection whose handshake is done.
pub(crate) async fn serve<T>(io: T, limits: &Limits) -> Result<Box<dyn Conversation>, StreamError>
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let mut builder = Builder::new();
    builder
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_frame_size(limits.max_frame)
        .max_header_list_size(limits.server_header_list)
        .max_concurrent_streams(limits.max_peer_streams)
        .max_send_buffer_size(limits.send_buffer)
        .max_pending_accept_reset_streams(limits.max_peer_streams as usize)
        .max_concurrent_reset_streams(REMEMBERED_RESETS);
    let mut connection: Connection<T, Bytes> = builder.handshake(io).await.map_err(|e| stream_error(&e))?;
    let pinger = Pinger(connection.ping_pong());
    Ok(Box::new(Served { connection, pinger }))
}

impl<T> Conversation for Served<T>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Asked, StreamError>>> {
        match self.connection.poll_accept(cx) {
            Poll::Ready(Some(Ok((request, respond)))) => Poll::Ready(Some(Ok(asked(request, respond)))),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(stream_error(&error)))),
            Poll::Ready(None) => Poll::Ready(None),
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
        self.connection.graceful_shutdown();
    }
}

fn asked(request: Request<RecvStream>, respond: SendResponse<Bytes>) -> Asked {
    let (head, receiver) = request.into_parts();
    let pending = Box::new(Pending { receiver, respond });
    match request::read(&head) {
        Ok(request) => Asked::Connect(Box::new(request), pending),
        Err(malformed) => {
            pending.refuse(StatusCode::BAD_REQUEST.as_u16());
            Asked::Malformed(malformed)
        }
    }
}

impl Responder for Pending {
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        match self.respond.poll_reset(cx) {
            Poll::Ready(Ok(reason)) => Poll::Ready(StreamError::Reset(reason.into())),
            Poll::Ready(Err(error)) => Poll::Ready(stream_error(&error)),
            Poll::Pending => Poll::Pending,
        }
    }

    fn accept(mut self: Box<Self>, about: &Baggage) -> Result<Box<dyn WireStream>, StreamError> {
        let mut answer = Response::new(());
        request::write_baggage(about, answer.headers_mut());
        let sender = self.respond.send_response(answer, false).map_err(|e| stream_error(&e))?;
        Ok(Box::new(H2Stream::new(sender, self.receiver)))
    }

    fn refuse(mut self: Box<Self>, status: u16) {
        let mut answer = Response::new(());
        *answer.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        if self.respond.send_response(answer, true).is_err() {
            // The stream is in no state to be answered: the peer has reset it, or the tunnel is over.
            self.respond.send_reset(code::CANCEL.into());
        }
    }
}
