//! Policies as they come over the control channel and as JSON objects: read whole or not at all, compiled and
//! evaluated without a panic, and never open where the object could not be understood.
#![no_main]

use culvert_policy::istio;
use culvert_wire::{Kind, Resource, ResourceError};
use libfuzzer_sys::fuzz_target;
use prost_types::Any;

/// What the first byte of an input says; `None` is an object in JSON. Their order is the corpus's.
const KINDS: [Option<Kind>; 8] = [
    Some(Kind::Mesh),
    Some(Kind::Workload),
    Some(Kind::Service),
    Some(Kind::AuthorizationPolicy),
    Some(Kind::PeerAuthentication),
    Some(Kind::Bundle),
    None,
    Some(Kind::Namespace),
];

/// Reads a body under the name that it gives itself.
fn decode(kind: Kind, body: &Any) -> Option<(String, Resource)> {
    let name = match Resource::decode(kind, "", Some(body)) {
        Err(ResourceError::WrongName { own, .. }) => own,
        Ok(read) => return Some((String::new(), read)),
        Err(_) => return None,
    };
    let read = Resource::decode(kind, &name, Some(body)).ok()?;
    Some((name, read))
}

fuzz_target!(|data: &[u8]| {
    let Some((&mode, rest)) = data.split_first() else { return };
    match KINDS[usize::from(mode) % KINDS.len()] {
        Some(kind) => {
            let body = Any { type_url: kind.type_url().to_owned(), value: rest.to_vec() };
            if let Some((name, read)) = decode(kind, &body) {
                let again = Resource::decode(kind, &name, Some(&read.encode()));
                assert!(again.is_ok_and(|again| again == read), "a resource survives its encoding");
            }
        }
        None => {
            let Ok(object) = serde_json::from_slice(rest) else { return };
            if let Some(Err(rejected)) = istio::read(&object) {
                assert!(!rejected.complaints.is_empty(), "a refusal says why");
            }
        }
    }
});
