//! The CD4xx rules: messages that workers hold.
