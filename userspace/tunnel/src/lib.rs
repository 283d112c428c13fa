//! The mTLS conversation between agents: HBONE.
