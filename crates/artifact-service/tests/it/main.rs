//! Artifacts on real PostgreSQL, against the object store of `up` and against SeaweedFS: what holds with one holds with the other.

mod attempts;
mod checkpoints;
mod collecting;
mod copying;
mod downloads;
mod hostile;
mod logs;
mod looking;
mod reads;
mod rules;
mod tls;
mod uploads;
mod world;

use std::time::Instant;
use test_kit::seaweedfs::SeaweedFs;
use world::{Kind, World};

/// Each scenario is a test against the embedded store; against SeaweedFS, which takes long to start, they are one test together.
macro_rules! scenarios {
    ($($module:ident :: $name:ident),* $(,)?) => {
        mod embedded {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    let world = super::World::start(super::Kind::Embedded).await;
                    super::$module::$name(&world).await;
                    world.stop().await;
                }
            )*
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn all_of_it_holds_with_seaweedfs() {
            let seaweedfs = SeaweedFs::start().await;
            $(
                // On the heap, and polled by a function of its own: together they are too much for a thread's stack.
                Box::pin(async {
                    let began = Instant::now();
                    // The last of these lines says which one failed.
                    eprintln!(concat!(stringify!($module), "::", stringify!($name)));
                    let world = World::start(Kind::SeaweedFs(&seaweedfs)).await;
                    Box::pin($module::$name(&world)).await;
                    world.stop().await;
                    eprintln!("  {} ms", began.elapsed().as_millis());
                })
                .await;
            )*
        }
    };
}

scenarios! {
    uploads::what_goes_in_comes_out,
    uploads::an_artifact_without_a_byte_is_one,
    uploads::many_parts_are_one_artifact,
    uploads::a_size_that_nobody_knew_is_known_in_the_end,
    uploads::an_upload_goes_on_where_it_was,
    uploads::a_completion_may_be_repeated,
    uploads::whoever_died_between_store_and_database_finds_it_done,
    uploads::what_the_store_has_lost_is_uploaded_anew,
    uploads::uploads_of_one_name_get_a_version_each,
    uploads::a_store_that_is_away_stops_nothing_for_good,
    hostile::other_bytes_than_announced_are_refused,
    hostile::an_address_is_good_for_one_thing_only,
    hostile::an_address_ends,
    hostile::what_comes_after_the_end_changes_nothing,
    hostile::a_part_never_changes,
    downloads::a_page_of_html_is_saved_and_never_shown,
    downloads::what_can_not_be_read_says_why,
    attempts::a_node_reads_what_was_pinned_and_nothing_else,
    attempts::what_an_attempt_leaves_becomes_an_artifact_of_its_creator,
    attempts::a_fenced_attempt_never_becomes_an_artifact,
    attempts::a_store_that_is_away_is_waited_for,
    checkpoints::the_next_attempt_goes_on_from_what_the_one_before_has_stored,
    checkpoints::what_is_no_checkpoint_of_this_attempt_is_refused,
    checkpoints::a_damaged_checkpoint_is_passed_over,
    checkpoints::checkpoints_end_with_their_task,
    copying::a_new_version_of_a_directory_sends_only_what_changed,
    copying::what_an_older_version_can_not_give_is_sent,
    copying::a_file_that_grew_sends_what_is_new,
    copying::the_next_checkpoint_sends_only_what_changed,
    copying::parts_differ_in_size_within_what_was_said,
    copying::a_store_that_wants_equal_parts_gets_them,
    copying::an_address_for_a_part_copies_nothing,
    collecting::equal_content_is_kept_once,
    collecting::content_that_was_lost_and_is_put_again_is_kept,
    collecting::what_is_removed_goes_in_two_steps,
    collecting::an_upload_that_nobody_goes_on_with_is_given_up,
    collecting::a_check_finds_what_is_missing_and_what_belongs_to_nothing,
    rules::rules_remove_what_they_say_and_nothing_else,
    logs::logs_are_moved_and_read_back,
    logs::a_running_log_is_moved_while_it_is_written_and_read,
    logs::a_store_that_is_away_keeps_logs_where_they_are,
    logs::movers_that_die_anywhere_lose_nothing_and_leave_nothing,
    logs::a_damaged_pack_is_named_and_never_shown,
    logs::a_log_that_does_not_fit_together_stops_no_other,
    logs::packs_go_with_their_last_task_and_strays_are_found,
}
