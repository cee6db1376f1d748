//! Tests that start real servers and real Celery workers. One binary for all of them: each further one would link
//! the whole crate again.
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]
#![allow(
    clippy::print_stderr,
    reason = "the test runner shows it when a test fails"
)]
#![allow(
    unreachable_pub,
    reason = "a test binary has no public items, and `pub(crate)` everywhere says nothing"
)]

mod audit;
mod canvas;
mod comings;
mod facts;
mod harmless;
mod hostile;
#[allow(dead_code, reason = "the tests of the binary will use the rest")]
mod lab;
mod lab_itself;
mod lab_rabbitmq;
mod mechanisms;
mod rabbitmq;
mod routes;
mod settings;
mod shared_server;
