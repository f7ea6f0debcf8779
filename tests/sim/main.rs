//! Random deaths under one seed.
fn main() {}
