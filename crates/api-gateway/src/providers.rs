//! Sessions with nodes over WebSocket.
