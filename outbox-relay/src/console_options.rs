//! Options that decide who may use the console.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use outbox_admin::{AdminToken, AdminTokens, AllowedHosts, MIN_REMOTE_TOKEN};

/// Upper bound on the size of a file of tokens, in bytes.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// Tokens and host names of the console.
#[derive(Clone, Debug, clap::Args)]
pub struct ConsoleOptions {
    /// Token that the console requires for every request; at least 16 characters if other machines
    /// can reach it. A trailing line feed is ignored. The command line is visible to other users
    /// of the machine: prefer the variable or the file.
    #[arg(
        long,
        env = "RELAY_ADMIN_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true,
        value_parser = TokenParser
    )]
    pub admin_token: Option<AdminToken>,

    /// File with the tokens of the console, instead of RELAY_ADMIN_TOKEN: one
    /// per line, after the name of its owner for the log, and before `read` if
    /// it permits no changes. A token may also be alone on its line.
    #[arg(long, env = "RELAY_ADMIN_TOKEN_FILE", value_name = "PATH")]
    pub admin_token_file: Option<PathBuf>,

    /// Comma-separated host names under which the console is opened, besides
    /// localhost and IP addresses. Requests for other hosts are rejected.
    #[arg(
        long,
        env = "RELAY_ADMIN_HOSTS",
        value_name = "NAMES",
        default_value = ""
    )]
    pub admin_hosts: AllowedHosts,
}

impl ConsoleOptions {
    /// Returns the tokens, if any are configured, for a console at `listen`.
    ///
    /// # Errors
    /// One sentence, if the options contradict each other, the file is invalid, or other machines
    /// could reach a console without a token that cannot be guessed.
    pub fn tokens(&self, listen: SocketAddr) -> Result<Option<AdminTokens>, String> {
        let tokens = match (&self.admin_token, &self.admin_token_file) {
            (Some(_), Some(_)) => {
                return Err(
                    "RELAY_ADMIN_TOKEN and RELAY_ADMIN_TOKEN_FILE are both set: remove one of them"
                        .to_owned(),
                );
            }
            (Some(token), None) => Some(token.clone().into()),
            (None, Some(path)) => Some(read_tokens(path).map_err(|reason| {
                format!("RELAY_ADMIN_TOKEN_FILE ({}) {reason}", path.display())
            })?),
            (None, None) => None,
        };
        if listen.ip().to_canonical().is_loopback() {
            return Ok(tokens);
        }
        match &tokens {
            None => Err(format!(
                "RELAY_ADMIN_LISTEN is `{listen}`, which other machines can reach: set RELAY_ADMIN_TOKEN or RELAY_ADMIN_TOKEN_FILE, or listen on 127.0.0.1"
            )),
            Some(tokens) if !tokens.are_long() => Err(format!(
                "RELAY_ADMIN_LISTEN is `{listen}`, which other machines can reach: every token of RELAY_ADMIN_TOKEN or RELAY_ADMIN_TOKEN_FILE must have at least {MIN_REMOTE_TOKEN} characters, such as those of `openssl rand -hex 32`"
            )),
            Some(_) => Ok(tokens),
        }
    }
}

fn read_tokens(path: &Path) -> Result<AdminTokens, String> {
    use std::io::Read;

    let file = std::fs::File::open(path).map_err(|error| format!("cannot be opened: {error}"))?;
    let mut content = String::new();
    file.take(MAX_FILE_BYTES + 1)
        .read_to_string(&mut content)
        .map_err(|error| format!("cannot be read: {error}"))?;
    if content.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("is larger than {MAX_FILE_BYTES} bytes"));
    }
    AdminTokens::parse_file(&content)
}

/// Parser that rejects a token without repeating it. clap repeats any other rejected value.
#[derive(Clone, Debug)]
struct TokenParser;

impl TypedValueParser for TokenParser {
    type Value = AdminToken;

    fn parse_ref(
        &self,
        _: &clap::Command,
        _: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<Self::Value, clap::Error> {
        // Secrets that are mounted as files often end with a line feed.
        let text = value.to_string_lossy();
        let token = text.trim_end_matches(['\r', '\n']);
        token.parse().map_err(|reason| {
            clap::Error::raw(
                ErrorKind::ValueValidation,
                format!("RELAY_ADMIN_TOKEN (--admin-token) {reason}\n"),
            )
        })
    }
}
