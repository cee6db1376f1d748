//! Rules about what a project's files say of routing.

pub mod dead_route;
pub mod default_queue_unconsumed;
pub mod not_registered;
pub mod queue_arguments_conflict;
pub mod queue_limits;
pub mod route_to_unconsumed_queue;
#[cfg(test)]
pub(crate) mod testkit;
pub mod unbound_exchange;
pub mod undeclared_queue;
pub mod unroutable;

use crate::diagnose::Finding;
use crate::evidence::routing::Location;

/// Says where it stands, where that is known.
fn at(finding: Finding, location: Option<&Location>) -> Finding {
    match location {
        Some(location) => finding.location(location.clone()),
        None => finding,
    }
}

/// `. Did you mean X?` as a part of a remedy.
fn did_you_mean(near: Option<&str>) -> String {
    near.map_or(String::new(), |name| format!("did you mean {name}? Else "))
}
