//! The moment at which a reading has to be over, whatever it waits for.

use std::time::{Duration, Instant};

use super::{Plan, Question};
use crate::evidence::{Reason, Why};

/// Of a deadline one part in so many is left for taking away the reply address and for writing the report.
const FOR_THE_REPORT: u32 = 20;
/// But no less than this, and no more.
const LEAST_LEFT: Duration = Duration::from_millis(500);
const MOST_LEFT: Duration = Duration::from_secs(3);

/// Of the time until a deadline one part in so many is waited for one answer of the result backend, so that one that
/// hangs does not take the time of all else.
const ONE_ANSWER: u32 = 4;

/// When a reading has to be over; never, where the user set no deadline.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    started: Instant,
    all: Option<Duration>,
}

impl Deadline {
    /// Of a reading that starts now.
    pub(super) fn starting(plan: &Plan) -> Self {
        Self {
            started: Instant::now(),
            all: plan.deadline(),
        }
    }

    /// When the reading has started.
    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// The moment at which this part of the time is over; at 1 the report has to be written.
    pub(super) fn at(&self, part: f64) -> Option<Instant> {
        let all = self.all?;
        let left = (all / FOR_THE_REPORT).clamp(LEAST_LEFT, MOST_LEFT);
        Some(self.started + all.saturating_sub(left).mul_f64(part))
    }

    /// How long one answer may take that could take this long.
    pub(super) fn patience(&self, without: Duration) -> Duration {
        self.all
            .map_or(without, |all| without.min(all / ONE_ANSWER))
    }

    /// As much of a time as is left of this part of all.
    pub(super) fn as_far_as(&self, part: f64, time: Duration) -> Duration {
        let left = self
            .at(part)
            .map(|end| end.saturating_duration_since(Instant::now()));
        left.map_or(time, |left| time.min(left))
    }

    /// Does something no longer than the deadline allows.
    pub(super) async fn within<T>(&self, work: impl Future<Output = T>) -> Result<T, Why> {
        self.within_part(1.0, work).await
    }

    /// Does something no longer than this part of the time.
    pub(super) async fn within_part<T>(
        &self,
        part: f64,
        work: impl Future<Output = T>,
    ) -> Result<T, Why> {
        let (Some(all), Some(end)) = (self.all, self.at(part)) else {
            return Ok(work.await);
        };
        let done = tokio::time::timeout_at(end.into(), work).await;
        done.map_err(|_| {
            let what = format!("the deadline of {} s came first", all.as_secs_f64());
            Why::new(Reason::Truncated, what)
        })
    }
}

impl Plan {
    /// When the reading has to be over, counted from its start.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        match self.question {
            Question::Everything(wanted) => wanted.deadline,
            Question::Ids(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(all: Option<Duration>) -> Deadline {
        Deadline {
            started: Instant::now(),
            all,
        }
    }

    #[test]
    fn time_is_left_for_the_report() {
        let left = |all: u64| {
            let deadline = of(Some(Duration::from_secs(all)));
            deadline.at(1.0).map(|end| end - deadline.started)
        };
        assert_eq!(left(2), Some(Duration::from_millis(1500)));
        assert_eq!(left(50), Some(Duration::from_millis(47_500)));
        assert_eq!(left(3600), Some(Duration::from_secs(3597)));
        assert_eq!(left(0), Some(Duration::ZERO));
        assert_eq!(of(None).at(1.0), None);
    }

    #[test]
    fn no_single_answer_takes_all_the_time() {
        let five = Duration::from_secs(5);
        let short = of(Some(Duration::from_secs(2)));
        assert_eq!(short.patience(five), Duration::from_millis(500));
        assert!(short.as_far_as(0.5, five) <= Duration::from_millis(750));
        assert_eq!(of(None).patience(five), five);
        assert_eq!(of(None).as_far_as(0.5, five), five);
    }

    #[tokio::test]
    async fn what_takes_longer_is_cut_off_and_says_so() {
        let deadline = of(Some(Duration::from_millis(600)));
        let cut = deadline.within(std::future::pending::<()>()).await;
        let why = cut.expect_err("it never ends");
        assert_eq!(why.reason, Reason::Truncated);
        assert_eq!(why.detail, "the deadline of 0.6 s came first");
        assert_eq!(of(None).within(async { 1 }).await, Ok(1));
    }
}
