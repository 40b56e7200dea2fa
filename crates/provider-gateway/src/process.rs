//! Processes on the node itself, each under a shim.
