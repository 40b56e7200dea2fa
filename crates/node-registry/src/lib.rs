//! node-registry
