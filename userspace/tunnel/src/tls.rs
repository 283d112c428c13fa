//! TLS records of a tunnel, on rustls' interface without buffers of its own: records are opened where they were read,
//! and sealed into the buffer that is written.

use std::ops::Deref;

use rustls::{
    CommonState,
    client::UnbufferedClientConnection,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus},
};

/// Length of a record's head, in bytes (RFC 8446 section 5.1).
const HEAD: usize = 5;
/// What a sealed record is longer than its plaintext, in bytes: head, type and tag.
const OVERHEAD: usize = HEAD + 1 + 16;
/// Most plaintext of a record, in bytes.
const FRAGMENT: usize = 16 * 1024;
/// Most plaintext that is sealed at once, in bytes.
pub(crate) const CHUNK: usize = 160 * 1024;
/// Room for that, and for a few small records of TLS's own, in bytes.
pub(crate) const SEALED: usize = CHUNK + (CHUNK / FRAGMENT + 1) * OVERHEAD + 4096;

/// One end of a TLS connection.
pub(crate) struct Tls {
    side: Side,
    /// So many bytes at the front of the input are worked through and not used up: records of a handshake message that
    /// is not whole. TLS goes on behind them, and must never be given less than them.
    worked: usize,
}

enum Side {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// What the TLS library wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// What was written to `out` is to be sent.
    Send,
    /// More of the handshake has to come.
    Receive,
    /// The handshake is done, and nothing more is in the input.
    Ready,
    /// The peer has said that it sends nothing more.
    Closed,
    /// The record is used up; there may be more to do.
    Again,
}

impl Tls {
    /// The dialling end.
    pub(crate) fn client(connection: UnbufferedClientConnection) -> Self {
        Self { side: Side::Client(connection), worked: 0 }
    }

    /// The serving end.
    pub(crate) fn server(connection: UnbufferedServerConnection) -> Self {
        Self { side: Side::Server(connection), worked: 0 }
    }

    /// So many bytes at the front of the input that [`Tls::open`] gets first were worked through before.
    pub(crate) fn has_worked_through(&mut self, bytes: usize) {
        self.worked = bytes;
    }

    /// Works on the records at the front of `input`; decrypted payload goes to `take`. Gives how many bytes of `input`
    /// are used up, also with an error; then the alert that tells the peer is in `out`.
    pub(crate) fn step<E>(
        &mut self,
        input: &mut [u8],
        out: &mut Vec<u8>,
        take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> (usize, Result<Next, Failure<E>>) {
        match &mut self.side {
            Side::Client(tls) => step(tls.process_tls_records(input), out, take),
            Side::Server(tls) => step(tls.process_tls_records(input), out, take),
        }
    }

    /// Opens the complete records in `input`, which begins with what the last call has left. `take` gets their payload, and whether another complete record follows.
    /// Gives how many bytes are used up, and whether the peer has closed.
    pub(crate) fn open<E>(
        &mut self,
        input: &mut [u8],
        out: &mut Vec<u8>,
        mut take: impl FnMut(&[u8], bool) -> Result<(), E>,
    ) -> (usize, Result<bool, Failure<E>>) {
        let (mut used, mut end) = (0, self.worked);
        while let Some(record) = complete(&input[end..]) {
            end += record;
            let follows = complete(&input[end..]).is_some();
            loop {
                let (discard, next) = self.step(&mut input[used..end], out, |payload| take(payload, follows));
                used += discard;
                match next {
                    Ok(Next::Closed) => return (used, Ok(true)),
                    // A handshake message that goes on in the next record is left where it is.
                    Ok(Next::Ready | Next::Receive) => break,
                    Ok(Next::Again | Next::Send) => {}
                    Err(failure) => return (used, Err(failure)),
                }
            }
        }
        self.worked = end - used;
        (used, Ok(false))
    }

    /// Seals `plain`, at most [`CHUNK`] bytes, into the front of `out`, which has [`SEALED`] bytes; gives how many were
    /// written. `rest` is what is left of the input.
    pub(crate) fn seal(&mut self, plain: &[u8], rest: &mut [u8], out: &mut [u8]) -> Result<usize, rustls::Error> {
        let mut end = 0;
        loop {
            let sealed = match &mut self.side {
                Side::Client(tls) => encrypt(tls.process_tls_records(rest), plain, &mut out[end..]),
                Side::Server(tls) => encrypt(tls.process_tls_records(rest), plain, &mut out[end..]),
            };
            match sealed? {
                Sealed::All(bytes) => return Ok(end + bytes),
                Sealed::Before(bytes) => end += bytes,
            }
        }
    }

    /// After an error: appends the alert that tells the peer to `out`. `input` is what is left.
    pub(crate) fn last_words(&mut self, input: &mut [u8], out: &mut Vec<u8>) {
        // Once only: the alert is what comes first, and after it the same records would be judged again.
        let _ = self.step(input, out, |_| Ok::<(), ()>(()));
    }

    /// Appends the close_notify alert to `out`.
    pub(crate) fn close(&mut self, rest: &mut [u8], out: &mut Vec<u8>) {
        let begin = out.len();
        out.resize(begin + 1024, 0);
        let bytes = match &mut self.side {
            Side::Client(tls) => say_goodbye(tls.process_tls_records(rest), &mut out[begin..]),
            Side::Server(tls) => say_goodbye(tls.process_tls_records(rest), &mut out[begin..]),
        };
        out.truncate(begin + bytes);
    }
}

impl Deref for Tls {
    type Target = CommonState;

    fn deref(&self) -> &CommonState {
        match &self.side {
            Side::Client(tls) => tls,
            Side::Server(tls) => tls,
        }
    }
}

/// Why records could not be opened.
#[derive(Debug)]
pub(crate) enum Failure<E> {
    Tls(rustls::Error),
    /// The payload was refused.
    Payload(E),
}

/// Length of the record at the front, if all of it is there.
fn complete(input: &[u8]) -> Option<usize> {
    let [_, _, _, high, low] = *input.first_chunk::<HEAD>()?;
    let length = HEAD + usize::from(u16::from_be_bytes([high, low]));
    (input.len() >= length).then_some(length)
}

/// End of the last complete record in `input`, in which another one begins at `from`.
pub(crate) fn end_of_records(input: &[u8], from: usize) -> usize {
    let mut end = from;
    while let Some(record) = complete(&input[end..]) {
        end += record;
    }
    end
}

fn step<D, E>(
    status: UnbufferedStatus<'_, '_, D>,
    out: &mut Vec<u8>,
    mut take: impl FnMut(&[u8]) -> Result<(), E>,
) -> (usize, Result<Next, Failure<E>>) {
    let UnbufferedStatus { mut discard, state } = status;
    let next = match state {
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                None => break Ok(Next::Again),
                Some(Ok(record)) => {
                    discard += record.discard;
                    if let Err(refused) = take(record.payload) {
                        break Err(Failure::Payload(refused));
                    }
                }
                Some(Err(error)) => break Err(Failure::Tls(error)),
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            let begin = out.len();
            let mut space = 512;
            loop {
                out.resize(begin + space, 0);
                match data.encode(&mut out[begin..]) {
                    Ok(bytes) => break out.truncate(begin + bytes),
                    Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) => {
                        space = required_size
                    }
                    Err(EncodeError::AlreadyEncoded) => break out.truncate(begin),
                }
            }
            Ok(Next::Again)
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            // What is in `out` is sent before anything that is written to it later.
            data.done();
            Ok(Next::Send)
        }
        Ok(ConnectionState::BlockedHandshake) => Ok(Next::Receive),
        Ok(ConnectionState::WriteTraffic(_)) => Ok(Next::Ready),
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Ok(Next::Closed),
        // Early data is never offered.
        Ok(_) => Err(Failure::Tls(rustls::Error::General("unexpected state of TLS".into()))),
        Err(error) => Err(Failure::Tls(error)),
    };
    (discard, next)
}

enum Sealed {
    /// All of it, in so many bytes.
    All(usize),
    /// Something of TLS's own had to come first, in so many bytes.
    Before(usize),
}

fn encrypt<D>(status: UnbufferedStatus<'_, '_, D>, plain: &[u8], out: &mut [u8]) -> Result<Sealed, rustls::Error> {
    match status.state? {
        ConnectionState::WriteTraffic(mut traffic) => match traffic.encrypt(plain, out) {
            Ok(bytes) => Ok(Sealed::All(bytes)),
            Err(EncryptError::InsufficientSize(_) | EncryptError::EncryptExhausted) => Err(rustls::Error::EncryptError),
        },
        ConnectionState::EncodeTlsData(mut data) => match data.encode(out) {
            Ok(bytes) => Ok(Sealed::Before(bytes)),
            Err(EncodeError::InsufficientSize(_)) => Err(rustls::Error::EncryptError),
            Err(EncodeError::AlreadyEncoded) => Ok(Sealed::Before(0)),
        },
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Ok(Sealed::Before(0))
        }
        // Said once; what we send may go on.
        ConnectionState::PeerClosed => Ok(Sealed::Before(0)),
        _ => Err(rustls::Error::HandshakeNotComplete),
    }
}

fn say_goodbye<D>(status: UnbufferedStatus<'_, '_, D>, out: &mut [u8]) -> usize {
    match status.state {
        Ok(ConnectionState::WriteTraffic(mut traffic)) => traffic.queue_close_notify(out).unwrap_or(0),
        _ => 0,
    }
}
