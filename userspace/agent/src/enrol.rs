//! Bringing pods under culvert and letting them go.

pub mod protocol;
