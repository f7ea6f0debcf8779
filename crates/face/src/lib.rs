//! The gRPC face that all services share.
