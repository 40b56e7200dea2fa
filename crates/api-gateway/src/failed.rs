//! Failures of the store as answers: the one place where they are told apart.

use api_types::Problem;
use service_kit::ApiError;
use store::StoreError;

/// A temporary failure is 503 with a time to come back, all else a fault of our own.
pub(crate) fn failed(error: StoreError) -> ApiError {
    let not_now = |why: &str| {
        Problem::new("unavailable", format!("{why} Nothing of this request was accepted; try again in a moment."))
            .retry_after_ms(1_000)
            .into()
    };
    match error {
        StoreError::Busy => not_now("More is waiting to be written than the database takes just now."),
        StoreError::Stopping => not_now("This server is going down."),
        error if error.is_storage_full() => ApiError::storage_full(&error),
        error if error.is_temporary() => ApiError::unavailable(&error),
        error => ApiError::internal(&error),
    }
}
