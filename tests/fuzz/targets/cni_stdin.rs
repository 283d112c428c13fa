//! What a runtime hands to the CNI plugin on standard input and in CNI_ARGS, what an API server answers, and what comes
//! over the sockets of a node: no panic, and the previous result is passed on byte for byte.
#![no_main]

use culvert_cni::{call::Environment, http, netconf::NetConf};
use culvert_handover::{enrolment, keeping};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(conf) = NetConf::parse(bytes) {
        if let Ok(previous) = conf.previous() {
            let passed = previous.get().as_bytes();
            assert!(bytes.windows(passed.len()).any(|part| part == passed), "not the bytes that came");
        }
        assert!(conf.host_interfaces().len() <= 8);
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Some(pod) = Environment::from([("CNI_ARGS".to_owned(), text.to_owned())]).pod()
    {
        let safe = |name: &str| !name.is_empty() && !name.contains(['/', '?', '#', '%', ' ', '\r', '\n']);
        assert!(safe(&pod.namespace) && safe(&pod.name), "they become parts of a path");
    }
    if let Ok(answer) = http::parse(bytes) {
        assert!(answer.body.len() <= bytes.len());
    }
    // The line's end is what makes a request whole.
    let _ = enrolment::parse(bytes);
    let _ = keeping::parse(bytes);
});
