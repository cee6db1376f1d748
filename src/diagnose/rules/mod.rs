//! The rules, a file each, in folders by family.

pub mod broker;
pub mod publish;
pub mod reading;
pub mod reservations;
pub mod results;
pub mod routing;
pub mod visibility;
pub mod waiting;
pub mod workers;

#[cfg(test)]
mod healthy;

pub(super) use self::reading::broker_is_away as is_broker_away;
