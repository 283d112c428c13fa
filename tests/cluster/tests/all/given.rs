//! Manifests of others, as they are: `--seeds DIR` and `--cases DIR` name their folders.

mod cases;
mod seeds;
