//! A bug planted behind the ID parser: fuzzing that does not find it within its time finds nothing else either.
//! `cargo xtask fuzz` fails when this target does not crash.
#![no_main]

use culvert_identity::SpiffeId;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(id) = SpiffeId::parse(text) else { return };
    let mut segments = id.path().split('/').skip(1);
    // The seed has four segments and begins with `ns`. Each condition is a branch that coverage has to lead through;
    // conditions on text would be comparisons of memory, which this instrumentation does not see into.
    if segments.next().is_some_and(|first| first.len() == 5) && segments.next().is_some_and(|second| second.len() == 1) {
        assert!(segments.count() < 4, "the planted bug was found");
    }
});
