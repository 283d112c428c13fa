//! What a peer says inside a tunnel, to either side of it: no panic, nothing unbounded, no sum that overflows, and the
//! same result however TCP and TLS have divided the bytes. Header blocks are read on their own as well.
#![no_main]

use culvert_tunnel::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    fuzzing::session(bytes);
    fuzzing::header_block(bytes);
});
