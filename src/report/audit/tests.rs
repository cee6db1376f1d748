use super::*;
use crate::diagnose::testkit::Rabbit;
use crate::evidence::{Observed, Reason, Why};

#[test]
fn a_queue_that_does_not_tell_is_no_empty_one() {
    let down = || Observed::Unseen(Why::new(Reason::Unreachable, "its node is down"));
    let lab = Rabbit::new()
        .queue("away", 0, 0)
        .with(|queue| queue.ready = down())
        .queue("celery", 0, 0)
        .lab();
    let rows = queues(&lab.evidence);
    let told: Vec<(&str, bool)> = rows
        .iter()
        .map(|(name, row)| (name.as_str(), row.untold))
        .collect();
    assert_eq!(told, [("away", true)]);
}

#[test]
fn a_bar_is_as_long_as_its_part_of_the_most() {
    assert_eq!(bar(0, 10), "");
    assert_eq!(bar(1, 0), "");
    assert_eq!(bar(1, 1_000_000), "▏");
    assert_eq!(bar(10, 10), "█".repeat(BAR));
    assert_eq!(bar(u64::MAX, u64::MAX).width(), BAR);
    assert_eq!(bar(5, 10).width(), BAR / 2);
}

#[test]
fn a_queue_drains_grows_or_stands_still() {
    let row = |before, after| Row {
        before,
        after,
        ..Row::default()
    };
    assert_eq!(pace(&row(110, 100), 5.0), "drained in 50s");
    assert_eq!(pace(&row(100, 110), 5.0), "grows by 2.0/s");
    assert_eq!(pace(&row(100, 100), 5.0), "as long as before");
}
