//! Moves the bytes of artifacts between this machine and the object store.
//!
//! Owns: how content is cut, hashed, sent, fetched, tried again and compared with its checksum, and how a directory becomes one archive
//! and comes out of it unharmed. Must not know: the API's client, an S3 SDK, or how anything looks to a person: addresses come through
//! [`Uploads`] and [`Downloads`], what happens is told to an [`Observer`]. Begin at [`upload()`] and [`to_file()`].
//!
//! Memory is bounded for content of any size: `parts.rs` says how many parts are held at one time.

mod address;
mod archive;
mod cut;
mod download;
mod error;
mod http;
mod incoming;
mod options;
mod pace;
mod pack;
mod parts;
mod pause;
mod progress;
mod source;
mod to_directory;
mod to_file;
mod unpack;
mod upload;
mod writer;

pub use address::{AddressError, Downloads, Uploads};
pub use archive::{MAX_DEPTH, stays_within};
pub use download::{Content, stream};
pub use error::TransferError;
pub use http::Store;
pub use incoming::Incoming;
pub use options::Options;
pub use pack::{PackError, Survey, pack, survey};
pub use parts::PartSizes;
pub use pause::{Pauses, patiently};
pub use progress::{Observer, Silent, Trouble};
pub use source::{Source, Writing};
pub use to_directory::to_directory;
pub use to_file::to_file;
pub use unpack::{Limits, Listed, Rights, UnpackError, Unpacked, list, relay, relay_file, unpack};
pub use upload::{Uploaded, upload};
pub use writer::Archive;
