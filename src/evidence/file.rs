//! Evidence in a file.
