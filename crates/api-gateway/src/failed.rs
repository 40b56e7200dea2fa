//! Failures of the store as answers: the one place where they are told apart.

use service_kit::ApiError;
use store::StoreError;

/// A temporary failure is 503 with a time to come back, all else a fault of our own.
pub(crate) fn failed(error: StoreError) -> ApiError {
    if error.is_temporary() { ApiError::unavailable(&error) } else { ApiError::internal(&error) }
}
