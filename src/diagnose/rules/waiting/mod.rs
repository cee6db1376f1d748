//! The CD2xx rules: messages that wait in a queue.
