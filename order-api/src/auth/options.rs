//! Options of authentication and rate limits.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::ValueEnum;
use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use ipnet::IpNet;

use super::client_address::parse_network;
use super::key_location::KeyLocation;
use super::rate_limit::Rate;

/// Rate of a principal unless configured, and of an address that is not this machine.
const DEFAULT_RATE: NonZeroU32 = NonZeroU32::new(1_000).expect("is not zero");

/// Options by which requests are admitted.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Authentication and rate limits")]
pub struct AuthOptions {
    /// File of API keys, which clients send as X-API-Key. A line has an id, the SHA-256 of the key
    /// in hexadecimal, and a customer id or *. The file is read again when it changes
    #[arg(long, env = "ORDER_API_KEYS_FILE", value_name = "PATH")]
    pub keys_file: Option<PathBuf>,

    /// Issuer of the OpenID Connect tokens (claim iss) that clients send as Authorization: Bearer.
    /// Requires an audience and keys
    #[arg(long, env = "ORDER_API_JWT_ISSUER", value_name = "ISSUER", value_parser = not_empty)]
    pub jwt_issuer: Option<String>,

    /// Audience (claim aud) that a token must name
    #[arg(long, env = "ORDER_API_JWT_AUDIENCE", value_name = "AUDIENCE", value_parser = not_empty)]
    pub jwt_audience: Option<String>,

    /// JSON Web Key Set of the issuer: an https:// URL, which is read every 5 minutes, or the path
    /// of a file, which is read again when it changes
    #[arg(long, env = "ORDER_API_JWKS", value_name = "URL or PATH", hide_env_values = true, value_parser = LocationParser)]
    pub jwks: Option<KeyLocation>,

    /// Claim of a token with the customer id, or * for every customer
    #[arg(long, env = "ORDER_API_JWT_CUSTOMER_CLAIM", value_name = "CLAIM", default_value = "customer_id", value_parser = not_empty)]
    pub jwt_customer_claim: String,

    /// Accept requests without a key or token on an address that other machines can reach. Without
    /// keys and tokens the API otherwise listens on this machine only
    #[arg(long, env = "ORDER_API_ANONYMOUS", value_name = "POLICY", value_enum)]
    pub anonymous: Option<Anonymous>,

    /// Requests per second of one API key or token subject, or off; more are rejected with 429
    #[arg(long, env = "ORDER_API_PRINCIPAL_RATE", value_name = "RATE", default_value_t = Rate::per_second(DEFAULT_RATE))]
    pub principal_rate: Rate,

    /// Requests per second of one client address, or off; more are rejected with 429 [default:
    /// 1000, and off for clients on this machine]
    #[arg(long, env = "ORDER_API_ADDRESS_RATE", value_name = "RATE")]
    pub address_rate: Option<Rate>,

    /// Addresses or networks of load balancers, separated by commas. Their X-Forwarded-For names
    /// the client
    #[arg(long, env = "ORDER_API_TRUSTED_PROXIES", value_name = "NETWORKS", value_delimiter = ',', value_parser = parse_network)]
    pub trusted_proxies: Vec<IpNet>,
}

/// Policy for requests without a key or token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Anonymous {
    /// Accept them, also on an address that other machines can reach
    Allow,
}

impl AuthOptions {
    /// Checks the options against each other and against the address that the API listens on.
    ///
    /// # Errors
    /// One sentence about the first contradiction.
    pub(crate) fn check(&self, listen: SocketAddr) -> Result<(), String> {
        let of_tokens = [
            ("ORDER_API_JWT_ISSUER", self.jwt_issuer.is_some()),
            ("ORDER_API_JWT_AUDIENCE", self.jwt_audience.is_some()),
            ("ORDER_API_JWKS", self.jwks.is_some()),
        ];
        let given = of_tokens.iter().find(|(_, given)| *given);
        let missing = of_tokens.iter().find(|(_, given)| !*given);
        if let (Some((given, _)), Some((missing, _))) = (given, missing) {
            return Err(format!(
                "{given} requires {missing}; bearer tokens need an issuer, an audience and keys"
            ));
        }
        let authenticates = self.keys_file.is_some() || given.is_some();
        match self.anonymous {
            Some(Anonymous::Allow) if authenticates => Err(
                "ORDER_API_ANONYMOUS contradicts the configured keys or tokens: remove one of them"
                    .to_owned(),
            ),
            None if !authenticates && !listen.ip().to_canonical().is_loopback() => Err(format!(
                "ORDER_API_LISTEN is `{listen}`, which other machines can reach: set ORDER_API_KEYS_FILE or ORDER_API_JWKS to authenticate clients, listen on 127.0.0.1, or set ORDER_API_ANONYMOUS=allow"
            )),
            _ => Ok(()),
        }
    }

    /// Returns the rates of addresses of other machines, and of this one.
    pub(super) fn address_rates(&self) -> (Rate, Rate) {
        match self.address_rate {
            Some(rate) => (rate, rate),
            // Requests of this machine are tests, or come through a proxy on it.
            None => (Rate::per_second(DEFAULT_RATE), Rate::OFF),
        }
    }
}

/// Parser that rejects a location without repeating it: a URL may contain a secret. clap repeats
/// any other rejected value.
#[derive(Clone, Debug)]
struct LocationParser;

impl TypedValueParser for LocationParser {
    type Value = KeyLocation;

    fn parse_ref(
        &self,
        _: &clap::Command,
        _: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<KeyLocation, clap::Error> {
        KeyLocation::parse(&value.to_string_lossy()).map_err(|reason| {
            let message = format!("ORDER_API_JWKS (--jwks) {reason}\n");
            clap::Error::raw(ErrorKind::ValueValidation, message)
        })
    }
}

fn not_empty(text: &str) -> Result<String, &'static str> {
    if text.is_empty() {
        Err("must not be empty")
    } else {
        Ok(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        auth: AuthOptions,
    }

    fn check(arguments: &[&str], listen: &str) -> Result<(), String> {
        let cli = Cli::try_parse_from([&["order-api"], arguments].concat()).unwrap();
        cli.auth.check(listen.parse().unwrap())
    }

    const TOKENS: [&str; 6] = [
        "--jwt-issuer",
        "https://id.example.org",
        "--jwt-audience",
        "orders",
        "--jwks",
        "/etc/jwks.json",
    ];

    #[test]
    fn a_public_address_requires_authentication_or_permission() {
        for local in ["127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(check(&[], local), Ok(()), "{local}");
        }
        for public in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1"] {
            let reason = check(&[], public).unwrap_err();
            assert!(reason.contains("ORDER_API_KEYS_FILE"), "{reason}");
            assert_eq!(check(&["--keys-file", "keys"], public), Ok(()));
            assert_eq!(check(&TOKENS, public), Ok(()));
            assert_eq!(check(&["--anonymous", "allow"], public), Ok(()));
        }
    }

    #[test]
    fn clients_on_this_machine_are_limited_only_if_configured() {
        let rates = |arguments: &[&str]| {
            let cli = Cli::try_parse_from([&["order-api"], arguments].concat()).unwrap();
            let (others, local) = cli.auth.address_rates();
            (others.to_string(), local.to_string())
        };
        let rate = |others: &str, local: &str| (others.to_owned(), local.to_owned());
        assert_eq!(rates(&[]), rate("1000", "off"));
        assert_eq!(rates(&["--address-rate", "5"]), rate("5", "5"));
        assert_eq!(rates(&["--address-rate", "off"]), rate("off", "off"));
    }

    #[test]
    fn incomplete_and_contradicting_options_are_rejected() {
        for left_out in [0, 2, 4] {
            let mut arguments = TOKENS.to_vec();
            arguments.drain(left_out..left_out + 2);
            assert!(
                check(&arguments, "127.0.0.1:1")
                    .unwrap_err()
                    .contains("requires")
            );
        }
        let both = ["--anonymous", "allow", "--keys-file", "keys"];
        assert!(
            check(&both, "127.0.0.1:1")
                .unwrap_err()
                .contains("contradicts")
        );
    }
}
