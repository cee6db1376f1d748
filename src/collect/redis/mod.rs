//! Reading a Redis server without being noticed.

pub(crate) mod client;
pub(crate) mod control;
pub(crate) mod keys;
pub(crate) mod list;
pub(crate) mod server;
pub(crate) mod unacked;
