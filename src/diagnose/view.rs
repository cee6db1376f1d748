//! Questions that several rules and the verdict ask of the evidence, answered in one place.

mod canvas;
mod case;
mod clients;
mod cycle;
mod deployment;
mod quiet_end;
mod rabbitmq;
mod room;
mod route;
pub(crate) mod routing;
mod strangers;
mod takers;
mod worker;

pub(super) use self::canvas::Lead;
pub use self::case::{Case, Fate};
pub(super) use self::case::{Elsewhere, Held, Holder, UNHEARD, stored};
pub(super) use self::deployment::Store;
pub use self::deployment::Visibility;
pub(super) use self::quiet_end::QUIET_END;
pub(super) use self::rabbitmq::{ConsumerTimeout, numbers};
pub(super) use self::room::Overfull;
pub(super) use self::route::{Route, Routes};
pub use self::routing::Judged;
pub(super) use self::strangers::{Strangers, connection, node_of};
pub(super) use self::worker::{DEFAULT_SWEEP_PERIOD, DEFAULT_VISIBILITY_TIMEOUT};
