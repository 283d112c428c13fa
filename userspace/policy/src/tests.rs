//! Tests of what rules mean.
