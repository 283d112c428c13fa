//! The connection under h2, with errors that survive h2.
//!
//! h2 keeps the kind of an I/O error and the text of what is in it, not the TLS error itself. That the peer refused
//! our certificate is told by such an error (in TLS 1.3 the client's handshake ends before the server has judged it),
//! so it gets a kind of its own here.

use std::{
    io::{self, ErrorKind, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use culvert_mtls::failure_reason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What h2 reports when the peer has refused us. No socket call gives this for a connection that is established.
pub(super) const REFUSED_BY_PEER: ErrorKind = ErrorKind::PermissionDenied;

pub(super) struct Telling<T>(pub(super) T);

fn telling<V>(result: io::Result<V>) -> io::Result<V> {
    result.map_err(|error| match failure_reason(&error) {
        "refused_by_peer" => REFUSED_BY_PEER.into(),
        _ => error,
    })
}

impl<T: AsyncRead + Unpin> AsyncRead for Telling<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf).map(telling)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Telling<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf).map(telling)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs).map(telling)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx).map(telling)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx).map(telling)
    }
}
