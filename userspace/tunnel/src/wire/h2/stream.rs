//! One stream of h2.

use std::{
    io,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{RecvStream, SendStream};

use super::stream_error;
use crate::{error::StreamError, wire::WireStream};

pub(super) struct H2Stream {
    sender: SendStream<Bytes>,
    receiver: RecvStream,
}

impl H2Stream {
    pub(super) fn new(sender: SendStream<Bytes>, receiver: RecvStream) -> Self {
        Self { sender, receiver }
    }
}

impl WireStream for H2Stream {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, StreamError>>> {
        self.receiver.poll_data(cx).map_err(|e| stream_error(&e))
    }

    fn is_recv_done(&self) -> bool {
        self.receiver.is_end_stream()
    }

    fn release(&mut self, bytes: usize) {
        // It fails only when more is released than was received, or when the stream is gone.
        let _ = self.receiver.flow_control().release_capacity(bytes);
    }

    fn poll_room(&mut self, cx: &mut Context<'_>, want: usize) -> Poll<Result<usize, StreamError>> {
        let room = self.sender.capacity();
        if room >= want.max(1) {
            return Poll::Ready(Ok(room));
        }
        self.sender.reserve_capacity(want.max(1));
        match self.sender.capacity() {
            0 => match ready!(self.sender.poll_capacity(cx)) {
                Some(Ok(room)) => Poll::Ready(Ok(room)),
                Some(Err(error)) => Poll::Ready(Err(stream_error(&error))),
                None => self.poll_reset(cx).map(Err),
            },
            room => Poll::Ready(Ok(room)),
        }
    }

    fn send(&mut self, data: Bytes, last: bool) -> Result<(), StreamError> {
        self.sender.send_data(data, last).map_err(|error| {
            // h2 calls it a mistake of ours to send on a stream that the peer has reset; say what the peer did.
            let mut context = Context::from_waker(std::task::Waker::noop());
            match self.poll_reset(&mut context) {
                Poll::Ready(reset) => reset,
                Poll::Pending => stream_error(&error),
            }
        })
    }

    fn reset(&mut self, code: u32) {
        self.sender.send_reset(code.into());
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        match self.sender.poll_reset(cx) {
            Poll::Ready(Ok(reason)) => Poll::Ready(StreamError::Reset(reason.into())),
            Poll::Ready(Err(error)) if error.reason().is_none() && !error.is_io() => {
                Poll::Ready(StreamError::Lost(io::ErrorKind::NotConnected))
            }
            Poll::Ready(Err(error)) => Poll::Ready(stream_error(&error)),
            Poll::Pending => Poll::Pending,
        }
    }
}
