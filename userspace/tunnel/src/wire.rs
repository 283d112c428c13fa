//! The wire behind one small trait.
