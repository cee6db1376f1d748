//! Renderers. They draw what was judged, and judge nothing.

pub(crate) mod audit;
pub(crate) mod explain;
pub(crate) mod json;
pub(crate) mod plain;
pub(crate) mod summary;
pub(crate) mod table;
#[cfg(test)]
mod tests;
mod text;
mod words;
