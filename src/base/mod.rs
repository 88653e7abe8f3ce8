//! Vocabulary and doors to the outside that every other module uses. Knows nothing of images.
//!
//! `error` one error type with place and remedy · `digest` sha256 · `name` validated names ·
//! `path` paths inside a root · `parallel` work on several cores · `turns` on the same thing one at a time · `fs` files · `tool` processes · `gpt` partition tables ·
//! `bundle` the system partition, which the disk writer and the node share.

pub mod bundle;
pub mod digest;
pub mod error;
pub mod fs;
pub mod gpt;
pub mod name;
pub mod parallel;
pub mod path;
pub mod tool;
pub mod turns;
