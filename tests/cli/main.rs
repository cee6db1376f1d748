//! Tests that run the real binary, without any server: what it prints, and with which code it ends.
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]
#![allow(
    clippy::print_stderr,
    reason = "the test runner shows it when a test fails"
)]
#![allow(
    unreachable_pub,
    reason = "a test binary has no public items, and `pub(crate)` everywhere says nothing"
)]

mod evidence;
mod routes;
mod run;

mod incidents;
mod readme;
mod shells;
mod snapshot_files;
mod trace_of_a_snapshot;
mod usage;
mod walls;
mod without_a_broker;
