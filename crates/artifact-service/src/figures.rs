//! What is counted of objects: what becomes of them, and how long the object store takes to answer.

use aws_sdk_s3::{
    config::{
        ConfigBag, Intercept, RuntimeComponents,
        interceptors::{BeforeSerializationInterceptorContextRef, FinalizerInterceptorContextRef},
    },
    error::BoxError,
};
use aws_smithy_runtime_api::client::orchestrator::Metadata;
use aws_smithy_types::config_bag::{Storable, StoreReplace};
use metrics::{describe_counter, describe_gauge, describe_histogram, histogram};
use std::time::Instant;

const REQUEST: &str = "unidesk_object_store_request_seconds";

pub(crate) fn describe() {
    describe_histogram!(
        REQUEST,
        "Calls of this process to the object store, with their repetitions; outcome ok, missing (404), refused or away"
    );
    describe_gauge!(
        "unidesk_log_archive_oldest_age_seconds",
        "Age of the oldest log of an ended attempt that was not moved to the object store yet; 0: there is none"
    );
    describe_counter!("unidesk_log_archive_packs_total", "Objects with logs that were put into the object store");
    describe_counter!("unidesk_log_archive_log_bytes_total", "Bytes of logs that were moved to the object store");
    describe_counter!("unidesk_log_archive_stored_bytes_total", "What these take up there");
    describe_counter!(
        "unidesk_log_archive_damaged_reads_total",
        "Parts of logs that were missing or changed in the object store when they were read"
    );
    describe_counter!(
        "unidesk_artifact_objects_deleted_total",
        "Objects that nobody had any more and that were deleted"
    );
    describe_counter!("unidesk_artifacts_removed_by_rules_total", "Artifacts that a retention rule removed");
}

/// Times every call of the SDK, whatever its operation.
#[derive(Debug)]
pub(crate) struct Timed;

#[derive(Debug)]
struct Began(Instant);

impl Storable for Began {
    type Storer = StoreReplace<Self>;
}

impl Intercept for Timed {
    fn name(&self) -> &'static str {
        "Timed"
    }

    fn read_before_execution(
        &self,
        _: &BeforeSerializationInterceptorContextRef<'_>,
        call: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        call.interceptor_state().store_put(Began(Instant::now()));
        Ok(())
    }

    fn read_after_execution(
        &self,
        done: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        call: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let operation = call.load::<Metadata>().map_or_else(String::new, |call| call.name().to_owned());
        let status = done.response().map(|answer| answer.status().as_u16());
        let outcome = match (done.output_or_error(), status) {
            (Some(Ok(_)), _) => "ok",
            (_, Some(404)) => "missing",
            (_, Some(400..=499)) => "refused",
            _ => "away",
        };
        if let Some(Began(at)) = call.load::<Began>() {
            histogram!(REQUEST, "operation" => operation, "outcome" => outcome).record(at.elapsed());
        }
        Ok(())
    }
}
