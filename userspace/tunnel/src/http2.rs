//! HTTP/2 as HBONE uses it (RFC 9113), without I/O: frames, header compression and the state of one connection.
//!
//! Only what CONNECT tunnels need: no push, no priorities, no trailers worth reading. Whatever a peer sends, the answer
//! is a value or an error with its HTTP/2 code; nothing here blocks, reads a clock or knows TLS.

pub(crate) mod frame;
pub(crate) mod headers;
pub(crate) mod hpack;
pub(crate) mod reader;
pub(crate) mod remembered;
pub(crate) mod session;

/// HTTP/2 error codes (RFC 9113 section 7) that we send or tell apart.
pub(crate) mod code {
    pub(crate) const NO_ERROR: u32 = 0x0;
    pub(crate) const PROTOCOL_ERROR: u32 = 0x1;
    pub(crate) const FLOW_CONTROL_ERROR: u32 = 0x3;
    pub(crate) const STREAM_CLOSED: u32 = 0x5;
    pub(crate) const FRAME_SIZE_ERROR: u32 = 0x6;
    pub(crate) const REFUSED_STREAM: u32 = 0x7;
    pub(crate) const CANCEL: u32 = 0x8;
    pub(crate) const COMPRESSION_ERROR: u32 = 0x9;
    /// "The connection established in response to a CONNECT request was reset or abnormally closed."
    pub(crate) const CONNECT_ERROR: u32 = 0xa;
    pub(crate) const ENHANCE_YOUR_CALM: u32 = 0xb;
}
