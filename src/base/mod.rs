//! Vocabulary and doors to the outside that every other module uses. Knows nothing of images.
//!
//! `error` one error type with place and remedy · `digest` sha256 · `name` validated names ·
//! `path` paths inside a root · `fs` files · `tool` processes.

pub mod digest;
pub mod error;
pub mod fs;
pub mod name;
pub mod path;
pub mod tool;
