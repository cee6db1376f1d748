//! A retry that RabbitMQ drops as a cycle, whatever else may be held in the queue that it was to leave.

use super::case::Case;
use super::route::{Route, Routes};
use crate::evidence::rabbitmq::{Queue, QueueType, Role};

impl<'e> Case<'e> {
    /// What of the places in which it can be was not read whole, in words.
    pub(in crate::diagnose) fn unread_places(&self) -> Vec<String> {
        let mut places = self.evidence.unread_places();
        places.extend(self.held_inside());
        places
    }

    /// Messages that queues hold inside, any of which may be its own, in words. One that is held as a cycle is none that
    /// can be found any more: it is never delivered.
    pub(in crate::diagnose) fn held_inside(&self) -> Option<String> {
        let rabbit = self.evidence.rabbitmq.as_ref()?;
        rabbit
            .held_inside()
            .filter(|_| self.held_as_cycle().is_none())
    }

    /// The queue of delayed delivery that holds a message inside which can't get out, where this task waits for a retry. Celery 5.5.0 to 5.6.2 sends a retry of a delayed task with the `x-death` that it
    /// came with, and RabbitMQ before 4.0.1 then drops it on its second way through a queue: at-least-once dead-lettering tries
    /// again and again (seen on RabbitMQ 3.10).
    pub(in crate::diagnose) fn held_as_cycle(&self) -> Option<&'e str> {
        let rabbit = self.evidence.rabbitmq.as_ref()?;
        let is_retried = self.result()?.doc.state == "RETRY";
        if !is_retried || !self.evidence.drops_delayed_retries() {
            return None;
        }
        let routes = Routes::of(self.evidence, rabbit);
        let is_quorum = |queue: &&Queue| queue.kind.seen() == Some(&QueueType::Quorum);
        let mut targets = rabbit.queues_of(Role::Tasks).filter(is_quorum);
        // What is bound to nothing is held for want of that.
        if targets.any(|queue| routes.delayed(&queue.name) == Route::Nowhere) {
            return None;
        }
        let holds = |queue: &&Queue| queue.held_dead_letters.seen().is_some_and(|held| *held > 0);
        let inside = rabbit.queues_of(Role::Delayed).find(holds);
        inside.map(|queue| queue.name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use crate::diagnose::testkit::{Lab, Rabbit};
    use crate::diagnose::{Verdict, judge};
    use crate::evidence::Observed;
    use crate::evidence::rabbitmq::DELAYED_EXCHANGE;

    fn held(version: &str, state: Option<&str>, ready: u64) -> (Verdict, String) {
        let rabbit = Rabbit::new()
            .version(version)
            .quorum("celery", ready, 1)
            .exchange(DELAYED_EXCHANGE, "topic", 0, 0)
            .bound(DELAYED_EXCHANGE, "#.celery", "celery")
            .quorum("celery_delayed_2", 0, 0)
            .with(|queue| queue.held_dead_letters = Observed::Seen(1));
        let mut lab: Lab = rabbit.lab().worker("w1", &["celery"]).absent("t1");
        if let Some(state) = state {
            lab = lab.result("t1", state);
        }
        let trace = judge(&lab.evidence, &["t1".to_owned()]).traces.remove(0);
        let causes: Vec<&str> = trace.causes.iter().map(|cause| cause.name).collect();
        (trace.verdict, causes.join(" "))
    }

    #[test]
    fn a_delayed_retry_that_is_held_as_a_cycle_is_lost() {
        let (verdict, causes) = held("3.10.8", Some("RETRY"), 0);
        assert_eq!(verdict, Verdict::Lost);
        assert!(causes.starts_with("dropped-as-cycle"), "{causes}");
    }

    #[test]
    fn what_else_may_be_held_is_not() {
        // Its message may wait, or be the one that is held, or come out yet.
        for (version, state, ready) in [
            ("3.10.8", Some("RETRY"), 1),
            ("3.10.8", Some("STARTED"), 0),
            ("3.10.8", None, 0),
            ("4.0.5", Some("RETRY"), 0),
        ] {
            let (verdict, _) = held(version, state, ready);
            assert_eq!(
                verdict,
                Verdict::Undetermined,
                "{version} {state:?} {ready}"
            );
        }
    }
}
