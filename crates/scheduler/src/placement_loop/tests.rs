use super::*;
use domain::{
    ids::DEFAULT_PROJECT,
    resources::Reservation,
    spec::{Needs, Requirements},
};

/// A plan of tasks of these priorities, and which of them are leased first.
fn first_of(priorities: &[i32]) -> Vec<i32> {
    let needs = Needs {
        executor: "process".into(),
        requirements: Requirements::default(),
        exclusive: false,
        artifacts: false,
        checkpoints: false,
    };
    let needs = Arc::new(needs);
    let head = |(n, priority): (usize, &i32)| Head {
        task: TaskId::from_uuid(Uuid::from_u128(n as u128)),
        project: DEFAULT_PROJECT,
        class: 1,
        needs: needs.clone(),
        priority: *priority,
        queued_at: Timestamp::UNIX_EPOCH,
        avoid_node: None,
        warm_keys: BTreeSet::new(),
    };
    let heads: Vec<Head> = priorities.iter().enumerate().map(head).collect();
    let node = NodeId::from_uuid(Uuid::nil());
    let planned = |head: &Head| Placement { task: head.task, node, reservation: Reservation::default() };
    let first = urgent(&heads.iter().map(planned).collect::<Vec<_>>(), &heads);
    heads.iter().filter(|head| first.contains(&head.task)).map(|head| head.priority).collect()
}

#[test]
fn the_few_that_are_more_urgent_than_most_go_first_and_none_where_all_are_alike() {
    let flood = [0; 100];
    assert_eq!(first_of(&[&[100, 50][..], &flood].concat()), [100, 50]);
    // What has waited for long has its turn among them, and is no measure.
    assert_eq!(first_of(&[&[100][..], &flood, &[-50]].concat()), [100]);
    assert_eq!(first_of(&[100, 0]), [100]);
    assert!(first_of(&flood).is_empty() && first_of(&[100]).is_empty() && first_of(&[]).is_empty());
    // A flood of urgent tasks is a flood.
    assert!(first_of(&[&[100; 40][..], &flood].concat()).is_empty());
}
