//! Compiles the messages without an installed `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["proto/discovery.proto", "proto/ca.proto", "proto/culvert.proto"];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    // Ordered maps: the same resource always has the same bytes, and so the same version.
    tonic_prost_build::configure().btree_map(".culvert.v1").compile_fds(descriptors)?;
    Ok(())
}
