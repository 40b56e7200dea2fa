//! Containers through the Docker socket.
