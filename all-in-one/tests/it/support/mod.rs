//! Support for the tests: the binary, `up` as a process, the services on an embedded cloud,
//! clients.

mod catalogue;
mod exposition;
mod http;
mod repository;
mod stack;
mod traced;
mod up;

pub(crate) use catalogue::{Metric, OPERATIONS, catalogue};
pub(crate) use exposition::Scrape;
pub(crate) use http::{Order, get_order, order_body, post_order};
pub(crate) use repository::{repository_file, yaml};
pub(crate) use stack::{Stack, item, provision};
pub(crate) use traced::{Placed, Traced};
pub(crate) use up::Up;

/// The program under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_all-in-one");

/// Any free port.
pub(crate) const ANY: &str = "127.0.0.1:0";

/// Returns `true` if a process runs; a process that was not waited for does not count.
pub(crate) fn runs(pid: u32) -> bool {
    // The state is the first field after the name, which may contain any character.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(") ")
            .next()
            .is_some_and(|fields| fields.starts_with('Z'))
    })
}

pub(crate) fn signal(pid: u32, signal: nix::sys::signal::Signal) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
    nix::sys::signal::kill(pid, signal).unwrap();
}
