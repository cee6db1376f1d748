//! The `CD8xx` rules: what could not be read.

pub mod broker_unavailable;
pub mod management_unavailable;
pub mod permission_denied;
pub mod result_backend_unavailable;
pub mod scan_truncated;
pub mod unsupported;
pub mod workers_not_asked;

use crate::evidence::{Evidence, Reason, Source};

/// Whether the broker could not be reached at all, so that one finding says it for every place in it.
pub(in crate::diagnose) fn broker_is_away(evidence: &Evidence) -> bool {
    let Some(why) = evidence.broker.server.unseen() else {
        return false;
    };
    match why.reason {
        Reason::Unreachable | Reason::TimedOut | Reason::Refused => true,
        // Once in, RabbitMQ is not asked for what Redis tells of itself; before that, something else answered.
        Reason::Unsupported | Reason::Malformed => evidence.rabbitmq.is_some(),
        Reason::NotAsked | Reason::TakesNoWrites | Reason::Truncated => false,
    }
}

/// What a place would have told.
fn tells(source: Source) -> &'static str {
    match source {
        Source::Server => "whether the broker keeps tasks over a restart, or throws keys away",
        Source::Bindings => "which queues there are, and where a restored message goes",
        Source::Queues => "whether the task waits in a queue",
        Source::Unacked => "whether a worker took the task and has not acknowledged it",
        Source::Workers => "whether a worker has the task, and which queues are consumed",
        Source::Results => "how the task ended",
        Source::Clients => "whether a worker really waits for messages",
        Source::Management => {
            "the queues, exchanges and bindings, who consumes, and whether an alarm blocks publishers"
        }
        Source::OtherDatabases => "whether the task was sent to another database of the server",
    }
}
