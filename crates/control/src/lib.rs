//! The control plane as nodes and tools see it: the gRPC contracts, the registry's view in plain
//! Rust types, the client that keeps that view current, and how a process is configured and stopped.
//!
//! Not here: the registry itself (`services/registry`) and what nodes do with a view.

pub mod bind;
pub mod channel;
pub mod client;
pub mod codec;
pub mod json;
pub mod mask;
pub mod name;
pub mod settings;
pub mod shutdown;
pub mod trace;
pub mod view;

/// The registry's API, generated from `proto/tandem/registry/v1`.
pub mod registry {
    /// Version 1.
    #[allow(missing_docs, clippy::all)]
    pub mod v1 {
        tonic::include_proto!("tandem.registry.v1");
    }
}

/// What is the same at an SBC and a router, generated from `proto/tandem/node/v1`.
pub mod node {
    /// Version 1.
    #[allow(missing_docs, clippy::all)]
    pub mod v1 {
        tonic::include_proto!("tandem.node.v1");
    }
}

/// The SBC's API, generated from `proto/tandem/sbc/v1`.
pub mod sbc {
    /// Version 1.
    #[allow(missing_docs, clippy::all)]
    pub mod v1 {
        tonic::include_proto!("tandem.sbc.v1");
    }
}

/// The router's API, generated from `proto/tandem/router/v1`.
pub mod router {
    /// Version 1.
    #[allow(missing_docs, clippy::all)]
    pub mod v1 {
        tonic::include_proto!("tandem.router.v1");
    }
}

/// The bus as a router sees it, generated from `proto/tandem/mirror/v1`.
pub mod mirror {
    /// Version 1.
    #[allow(missing_docs, clippy::all)]
    pub mod v1 {
        tonic::include_proto!("tandem.mirror.v1");
    }
}

/// Every service and message above as an encoded `google.protobuf.FileDescriptorSet`, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
