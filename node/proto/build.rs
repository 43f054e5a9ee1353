//! Compiles the `.proto` files under `proto/` without `protoc`.

use std::error::Error;

const FILES: [&str; 4] =
    ["etcd/rpc.proto", "etcd/lock.proto", "etcd/election.proto", "holdfast/admin.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    tonic_prost_build::configure()
        // Keys and values are slices of what the network delivered: no copy on the way in.
        .bytes(".")
        .build_transport(true)
        .compile_fds(descriptors)?;
    Ok(())
}
