//! What a peer writes into a CONNECT request. No panic, nothing unbounded, and what we write ourselves is read the same.
#![no_main]

use culvert_tunnel::{Authority, Baggage, Forwarded, Traceparent};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(authority) = Authority::parse(text) {
        let written = authority.to_string();
        assert_eq!(Authority::parse(&written).as_ref(), Ok(&authority), "{text:?} was read, {written:?} was written");
    }
    if let Some(written) = Forwarded::parse(text).to_header() {
        assert_eq!(Forwarded::parse(&written).to_header(), Some(written), "what is written is read the same");
    }
    if let Some(written) = Baggage::parse(text.split('\n')).to_header() {
        let again = Baggage::parse([written.as_str()]).to_header();
        assert_eq!(again, Some(written), "what is written is read the same");
    }
    if let Some(trace) = Traceparent::parse(text) {
        assert_eq!(trace.to_string(), text, "a trace is its own text");
    }
});
