//! The limit on open file descriptors: each connection is one.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the soft limit to the hard limit. The soft limit is often 1,024, for programs that use
/// `select`; none here does.
pub fn raise_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
        } else {
            Ok(())
        }
    });
    if let Err(error) = raised {
        tracing::debug!(%error, "the limit on file descriptors cannot be raised");
    }
}

/// Returns the largest number of connections, at most `wanted`, that leaves `others` descriptors
/// for everything else. Warns if it is less than `wanted`.
pub fn connections_within_limit(wanted: usize, others: usize) -> usize {
    let limit = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, _)) => usize::try_from(soft).unwrap_or(usize::MAX),
        Err(_) => return wanted,
    };
    let connections = within(limit, wanted, others);
    if connections < wanted {
        tracing::warn!(
            limit,
            wanted,
            connections,
            "the limit on file descriptors allows fewer connections than configured; raise it \
             (`ulimit -n`, LimitNOFILE or ulimits.nofile)"
        );
    }
    connections
}

/// Fewer connections than this serve nothing; the descriptors are then shared with `others`.
const MIN_CONNECTIONS: usize = 16;

fn within(limit: usize, wanted: usize, others: usize) -> usize {
    wanted.min(limit.saturating_sub(others).max(MIN_CONNECTIONS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_everything_else() {
        assert_eq!(within(20_000, 4_096, 1_000), 4_096);
        assert_eq!(within(5_096, 4_096, 1_000), 4_096);
        assert_eq!(within(5_095, 4_096, 1_000), 4_095);
        assert_eq!(within(1_024, 4_096, 1_000), 24);
        assert_eq!(within(256, 4_096, 1_000), MIN_CONNECTIONS);
        assert_eq!(within(256, 8, 1_000), 8);
    }
}
