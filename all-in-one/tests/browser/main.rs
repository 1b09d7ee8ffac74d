//! The relay's console in a real browser, against the running system.
//!
//! Needs Debian's `chromium` and `chromium-driver`:
//! `cargo test -p all-in-one --test browser -- --include-ignored`. With
//! `CONSOLE_SCREENSHOTS=<folder>` it saves screenshots there.

// Helpers outside of test functions; a panic is how a test fails.
#![allow(clippy::unwrap_used)]

mod browser;
mod console;
mod dead_letters;
mod killed;
mod system;
mod tokens;
