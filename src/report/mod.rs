//! Renderers. They draw what was judged, and judge nothing.

pub(crate) mod explain;
#[allow(dead_code, reason = "`routes graph` will draw it")]
pub(crate) mod graph;
pub(crate) mod json;
pub(crate) mod plain;
pub(crate) mod table;
#[cfg(test)]
mod tests;
mod text;
mod words;
