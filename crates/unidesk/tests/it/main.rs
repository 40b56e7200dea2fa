//! What people see: renderings as goldens, and the binary itself against a scripted server.

mod artifact;
mod binary;
mod golden;
mod script_server;
mod values;
