//! Other programs at the other end: a mesh in which one node is culvert's and another is Istio's ztunnel's.
//!
//! [`ca`] gives a ztunnel certificates of the mesh, [`mixed`] starts both.

pub mod ca;
pub mod mixed;
